package agent_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/agentclient"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/ledger"
	simtpm "github.com/assay-project/assay/simulators/tpm"
	"github.com/assay-project/assay/svid"
)

// Machines with a TPM against the real server, as in issuer_test.go. The TPM is
// swtpm, under the simulated manufacturer's certificates.

const ledgerID = "spiffe://" + realDomain + "/ledger"

var manufacturer = sync.OnceValue(func() *simtpm.Authority { return must(simtpm.NewAuthority(simtpm.Options{})) })

func ledgerBoot() simtpm.Boot { return simtpm.Boot{Image: "ledger"} }

// machinePolicy grants the image an identity on our own machines. more is put
// among the rules.
func machinePolicy(more string, owners ...*simtpm.TPM) string {
	var eks []string
	for _, m := range owners {
		for _, k := range m.EKs() {
			eks = append(eks, fmt.Sprintf("%q", hex.EncodeToString(k.Digest[:])))
		}
	}
	pcr4 := must(simtpm.Measurements(ledgerBoot())).PCRs[crypto.SHA256][4]
	return fmt.Sprintf(`version: 1
bundle: machines
revision: 1
trust_domain: %s
workloads:
  - name: ledger
    tee: tpm2
    mode: enforce
    match:
      pcr4: {eq: %q}
      secure_boot: {eq: true}
      ek: {in: [%s]}
%s    issue:
      - {spiffe_id: %q, x509_ttl: 1h}
`, realDomain, hex.EncodeToString(pcr4), strings.Join(eks, ", "), more, ledgerID)
}

// box is a machine that is turned on, and its event log.
type box struct {
	*simtpm.TPM
	socket, log string
}

// newBox starts a machine. Without swtpm the test is skipped, loudly.
func newBox(t testing.TB, b simtpm.Boot, faults ...simtpm.Fault) *box {
	t.Helper()
	if err := simtpm.Installed(); err != nil {
		t.Skipf("SKIPPED, NOTHING IS SHOWN: %v", err)
	}
	dir := short(t)
	m := &box{socket: filepath.Join(dir, "tpm.sock"), log: filepath.Join(dir, "boot.log")}
	m.TPM = must(manufacturer().Start(simtpm.Machine{EKs: []simtpm.EKKind{simtpm.P256}, Padding: 100, Boot: b, EventLogFile: m.log}, faults...))
	l := must(simtpm.Listen(m.socket))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = m.Close()
	})
	return m
}

// attester is a device that counts second rounds.
type tpmAttester struct {
	*agent.TPM
	rounds atomic.Int32
}

func (m *box) attester(t testing.TB) *tpmAttester {
	return &tpmAttester{TPM: agent.NewTPMSocket(m.socket, agent.TPMOptions{EventLog: m.log, Log: slog.New(slog.NewTextHandler(&testLines{t: t}, nil))})}
}

// Activate counts.
func (a *tpmAttester) Activate(ctx context.Context, credential []byte, want attest.Binding) ([]byte, error) {
	a.rounds.Add(1)
	return a.TPM.Activate(ctx, credential, want)
}

// on is an agent's configuration on a machine.
func (s *realServer) on(a agent.Attester, r agent.KeyResidency) agent.Config {
	c := s.config(short(s.t), a)
	c.KeyResidency = r
	return c
}

// running runs an agent that can be stopped before the test ends.
func running(t testing.TB, cfg agent.Config) (stop func()) {
	t.Helper()
	a := must(agent.New(cfg))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// entries are the ledger's.
func (s *realServer) entries() (out []ledger.Entry) {
	s.t.Helper()
	for i, err := range s.ledger.Entries(context.Background(), 0) {
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, i.Entry)
	}
	return out
}

// granted waits until so many attestations were granted and returns the last one.
func (s *realServer) granted(n int) ledger.Entry {
	s.t.Helper()
	waitFor(s.t, fmt.Sprintf("the grant number %d", n), func() bool { return len(s.entries()) >= n })
	all := s.entries()
	if len(all) != n {
		s.t.Fatalf("%d grants, want %d", len(all), n)
	}
	return all[n-1]
}

func TestAMachineEnrolsInTwoRoundsAndRenewsInOneAtTheRealServer(t *testing.T) {
	t.Parallel()
	m := newBox(t, ledgerBoot())
	s := newServerWith(t, machinePolicy("", m.TPM))
	dev := m.attester(t)
	cfg := s.on(dev, agent.SoftwareKeys)
	stop := running(t, cfg)
	x := names(t, cfg, ledgerID)
	first := s.granted(1)
	if c := first.Claims.TPM; dev.rounds.Load() != 1 || c.AKTrust != attest.AKActivated || c.KeyResidency != attest.ResidentSoftware || c.Cleared {
		t.Errorf("%d second rounds, claims %+v", dev.rounds.Load(), c)
	}
	if b := first.Claims.TPM.Boot; b == nil || b.SecureBoot == nil || !*b.SecureBoot || first.Claims.TPM.Clock == nil {
		t.Errorf("the boot log says %+v", b)
	}
	checkMachine(t, s, x.SVIDs[0].Certificates, must(x.Bundles.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString(realDomain))))

	// Renewal: one round.
	s.reattest(t)
	if e := s.granted(2); e.Purpose != attest.Renew || dev.rounds.Load() != 1 {
		t.Errorf("%s with %d second rounds in all", e.Purpose, dev.rounds.Load())
	}
	stop()

	// A restart of the agent, of the server, and of the machine: one round each.
	s.stop()
	s.start()
	if err := m.Reset(simtpm.Boot{}); err != nil {
		t.Fatal(err)
	}
	dev = m.attester(t)
	cfg = s.on(dev, agent.SoftwareKeys)
	stop = running(t, cfg)
	if e := s.granted(3); e.Purpose != attest.Boot || dev.rounds.Load() != 0 || e.Claims.TPM.Clock.ResetCount != first.Claims.TPM.Clock.ResetCount+1 {
		t.Errorf("%s with %d second rounds, clock %+v", e.Purpose, dev.rounds.Load(), e.Claims.TPM.Clock)
	}

	// A TPM that was cleared must show again that its keys are in one TPM.
	if err := m.Clear(); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset(simtpm.Boot{}); err != nil {
		t.Fatal(err)
	}
	s.reattest(t)
	if e := s.granted(4); dev.rounds.Load() != 1 || !e.Claims.TPM.Cleared {
		t.Errorf("after TPM2_Clear: %d second rounds, cleared %t", dev.rounds.Load(), e.Claims.TPM.Cleared)
	}
	s.reattest(t)
	if e := s.granted(5); dev.rounds.Load() != 1 || e.Claims.TPM.Cleared {
		t.Errorf("and then: %d second rounds, cleared %t", dev.rounds.Load(), e.Claims.TPM.Cleared)
	}
	stop()
}

// checkMachine checks an SVID as a relying party does.
func checkMachine(t *testing.T, s *realServer, chain []*x509.Certificate, b *x509bundle.Bundle) {
	t.Helper()
	block, _ := pem.Decode(must(ca.VerifierRootPEM(s.cfg.DataDir)))
	keys := must(svid.ParseVerifierKeys(s.ca.VerifierKeysDocument(), must(x509.ParsePKIXPublicKey(block.Bytes)), time.Now()))
	if _, err := svid.Verify(chain, svid.NewSource(x509bundle.NewSet(b), keys), time.Now(), svid.Simulated(), svid.Tee(attest.TPM2), svid.Owned()); err != nil {
		t.Error(err)
	}
}

func TestPolicyCanWantKeysInTheTPMAndTheRealServerCertifiesThem(t *testing.T) {
	t.Parallel()
	m := newBox(t, ledgerBoot())
	s := newServerWith(t, machinePolicy("      key_residency: {eq: tpm}\n", m.TPM))

	soft := s.on(m.attester(t), agent.SoftwareKeys)
	lines := &safeBuffer{}
	soft.Log = slog.New(slog.NewTextHandler(lines, nil))
	stop := running(t, soft)
	waitFor(t, "a denial", func() bool { return strings.Contains(lines.String(), "kind=denied check=policy") })
	stop()

	cfg := s.on(m.attester(t), agent.TPMKeys)
	start(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	src := must(agentclient.New(ctx, agentclient.Options{Socket: cfg.Socket, ID: spiffeid.RequireFromString(ledgerID)}))
	t.Cleanup(src.Close)
	if c := s.granted(1).Claims.TPM; c.KeyResidency != attest.ResidentTPM || len(c.Certified) != 1 {
		t.Errorf("claims %+v", c)
	}
	v := must(src.GetX509SVID())
	checkMachine(t, s, v.Certificates, must(src.GetX509BundleForTrustDomain(v.ID.TrustDomain())))
	if id := src.Identities()[0]; id.Residency != agentclient.TPM || len(id.Result) == 0 {
		t.Errorf("%s, a result of %d bytes", id.Residency, len(id.Result))
	}
	if diff := cmp.Diff(s.ca.VerifierKeysDocument(), src.VerifierKeys()); diff != "" {
		t.Error("other verifier keys")
	}
	if _, err := agent.MutualTLS(src); err != nil {
		t.Error(err)
	}
	if _, err := x509Context(cfg); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "agentclient") {
		t.Errorf("the Workload API says %v", err)
	}

	// The agent's own connections use the key: it watches, and renews with it.
	s.reattest(t)
	if e := s.granted(2); e.Purpose != attest.Renew {
		t.Errorf("a %s", e.Purpose)
	}
	// Sleep does not end the keys: the TPM's state was saved.
	if err := m.Resume(); err != nil {
		t.Fatal(err)
	}
	s.reattest(t)
	if e := s.granted(3); e.Purpose != attest.Renew || e.Claims.TPM.Clock.RestartCount == 0 {
		t.Errorf("after sleep: a %s, clock %+v", e.Purpose, e.Claims.TPM.Clock)
	}
	// A reboot ends the keys. What there was of them is never certified again.
	if err := m.Reset(simtpm.Boot{}); err != nil {
		t.Fatal(err)
	}
	s.reattest(t)
	if e := s.granted(4); e.Purpose != attest.Boot || e.Claims.TPM.KeyResidency != attest.ResidentTPM {
		t.Errorf("after a reboot: %s with keys in %s", e.Purpose, e.Claims.TPM.KeyResidency)
	}
	waitFor(t, "a handshake with the new key", func() bool { _, err := agent.MutualTLS(src); return err == nil })
}

// forger is somebody who changes what his TPM made, and answers a second round with
// anything.
type forger struct {
	*agent.TPM
	change func(e *attest.TPMEvidence, b attest.Binding, over agent.PCRSelection)
	proof  []byte
}

// Quote forges.
func (f *forger) Quote(ctx context.Context, want attest.Binding, over agent.PCRSelection, keys []crypto.Signer) (attest.Evidence, error) {
	ev, err := f.TPM.Quote(ctx, want, over, keys)
	if err != nil {
		return ev, err
	}
	e, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		return ev, err
	}
	f.change(e, want, over)
	ev.Body, err = e.Encode()
	return ev, err
}

// Activate forges where it is told to.
func (f *forger) Activate(ctx context.Context, credential []byte, want attest.Binding) ([]byte, error) {
	if f.proof != nil {
		return f.proof, nil
	}
	return f.TPM.Activate(ctx, credential, want)
}

// refusedFor runs an agent that gets nothing, for a reason.
func (s *realServer) refusedFor(cfg agent.Config, what, want string) {
	s.t.Helper()
	lines := &safeBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
	stop := running(s.t, cfg)
	defer stop()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		switch got := lines.String(); {
		case strings.Contains(got, want):
			return
		case strings.Contains(got, "msg=attested"), time.Now().After(deadline):
			s.t.Errorf("%s: the log says %s, want %s", what, got, want)
			return
		}
	}
}

func TestAnotherTPMIsNotTheOneThatItSaysItIs(t *testing.T) {
	t.Parallel()
	ours, theirs := newBox(t, ledgerBoot()), newBox(t, ledgerBoot())
	s := newServerWith(t, machinePolicy("", ours.TPM))
	sample := func(m *box) *attest.TPMEvidence {
		return must(attest.DecodeTPMEvidence(must(m.attester(t).Collect(t.Context(), []byte("nonce"))).Body))
	}
	our := sample(ours)
	asOurs := func(e *attest.TPMEvidence, _ attest.Binding, _ agent.PCRSelection) {
		e.EKPublic, e.EKCertificate = our.EKPublic, our.EKCertificate
	}
	s.refusedFor(s.on(theirs.attester(t), agent.SoftwareKeys), "their own", "kind=denied check=policy")
	for _, known := range []bool{false, true} {
		if known {
			cfg := s.on(ours.attester(t), agent.SoftwareKeys)
			stop := running(t, cfg)
			names(t, cfg, ledgerID)
			stop()
		}
		what := fmt.Sprintf("known %t: ", known)
		s.refusedFor(s.on(&forger{theirs.attester(t).TPM, asOurs, make([]byte, 32)}, agent.SoftwareKeys), what+"our EK, and a guess", "kind=untrusted check=credential_proof")
		s.refusedFor(s.on(&forger{theirs.attester(t).TPM, asOurs, nil}, agent.SoftwareKeys), what+"our EK", "check=tpm")
		s.refusedFor(s.on(&forger{theirs.attester(t).TPM, func(e *attest.TPMEvidence, b attest.Binding, o agent.PCRSelection) {
			asOurs(e, b, o)
			e.AKPublic = our.AKPublic
		}, nil}, agent.SoftwareKeys), what+"our EK and AK", "kind=untrusted check=quote_signature")
	}
}

func TestAKeyOfThePreviousBootIsRefused(t *testing.T) {
	t.Parallel()
	m := newBox(t, ledgerBoot())
	s := newServerWith(t, machinePolicy("", m.TPM))
	dev := m.attester(t).TPM
	// Certified in one boot, with the quote of the next one: what somebody would
	// send who carried a key over a reboot into another system.
	carried := &forger{dev, func(e *attest.TPMEvidence, b attest.Binding, over agent.PCRSelection) {
		if err := m.Reset(simtpm.Boot{}); err != nil {
			t.Error(err)
			return
		}
		now := must(attest.DecodeTPMEvidence(must(dev.Quote(t.Context(), b, over, nil)).Body))
		e.Quote, e.Signature, e.PCRs = now.Quote, now.Signature, now.PCRs
	}, nil}
	s.refusedFor(s.on(carried, agent.TPMKeys), "a key that was carried over", "kind=untrusted check=certify_clock")
	left := &forger{dev, func(e *attest.TPMEvidence, _ attest.Binding, _ agent.PCRSelection) {
		e.Certified = append(e.Certified, e.Certified[0])
	}, nil}
	s.refusedFor(s.on(left, agent.TPMKeys), "one more key than there are", "kind=untrusted check=key_residency")
}

// What a machine does wrong reaches the log by the check's name, and never an
// identity. Every fault has its test beside the verifier; here are all of them on
// the whole road.
func TestWhatTheTPMVerifierRefusesTheAgentNames(t *testing.T) {
	t.Parallel()
	// The agent takes no certificate that is not the key's: it goes on without one.
	instead := map[string]string{
		"ek-certificate-garbage": "kind=untrusted check=ek_certificate ", "ek-certificate-other-key": "kind=untrusted check=ek_certificate ",
		// The session with the TPM is authenticated: who changes it is seen here.
		"ek-other-tpm": "kind=internal check=tpm", "credential-flipped": "kind=internal check=tpm",
	}
	ours := newBox(t, ledgerBoot())
	s := newServerWith(t, machinePolicy("", ours.TPM))
	for _, f := range simtpm.Faults() {
		if f.Check == "" || f.Name == "quote-replayed" { // harmless; or wrong from the second quote on
			continue
		}
		want := "kind=" + string(f.Kind) + " check=" + f.Check + " "
		if w := instead[f.Name]; w != "" {
			want = w
		}
		residency := agent.SoftwareKeys
		if strings.HasPrefix(f.Name, "certify-") || strings.HasPrefix(f.Name, "resident-") {
			residency = agent.TPMKeys
		}
		s.refusedFor(s.on(newBox(t, ledgerBoot(), f).attester(t), residency), f.Name, want)
	}
	m := newBox(t, simtpm.Boot{Image: "ledger", SecureBootOff: true})
	s = newServerWith(t, machinePolicy("", m.TPM))
	s.refusedFor(s.on(m.attester(t), agent.SoftwareKeys), "secure boot is off", "kind=denied check=policy")
}

func TestAReplayedQuoteRenewsNothing(t *testing.T) {
	t.Parallel()
	f, ok := simtpm.FaultByName("quote-replayed")
	if !ok {
		t.Fatal("there is no such fault")
	}
	m := newBox(t, ledgerBoot(), f)
	s := newServerWith(t, machinePolicy("", m.TPM))
	cfg := s.on(m.attester(t), agent.SoftwareKeys)
	lines := &safeBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
	running(t, cfg)
	first := serialOf(names(t, cfg, ledgerID))
	s.reattest(t)
	waitFor(t, "a refusal", func() bool { return strings.Contains(lines.String(), "kind=untrusted check="+f.Check) })
	if serialOf(names(t, cfg, ledgerID)) != first {
		t.Error("another SVID")
	}
}
