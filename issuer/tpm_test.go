package issuer_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"google.golang.org/grpc/codes"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	simtpm "github.com/assay-project/assay/simulators/tpm"
	"github.com/assay-project/assay/verifiers/tpm"
)

// Machines with a TPM against assayd itself: the binary, its configuration, its
// database. The TPM is swtpm; the agent's code speaks to it, and the client of
// these tests to the server.

// box is a machine that is turned on.
type box struct {
	*simtpm.TPM
	dev *agent.TPM
}

// newBox starts a machine. Without swtpm the test is skipped, loudly.
func newBox(t testing.TB, maker *simtpm.Authority) *box {
	t.Helper()
	if err := simtpm.Installed(); err != nil {
		t.Skipf("SKIPPED, NOTHING IS SHOWN: %v", err)
	}
	dir, err := os.MkdirTemp("", "tpm") // the path of a socket has at most 107 bytes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, log := filepath.Join(dir, "tpm.sock"), filepath.Join(dir, "boot.log")
	m, err := maker.Start(simtpm.Machine{EKs: []simtpm.EKKind{simtpm.P256}, EventLogFile: log, Boot: simtpm.Boot{Image: "storage"}})
	must(t, err)
	l, err := simtpm.Listen(socket)
	must(t, err)
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
	return &box{m, agent.NewTPMSocket(socket, agent.TPMOptions{EventLog: log})}
}

func (b *box) ek() [32]byte { return b.EKs()[0].Digest }

// quote is what the machine answers a challenge with, changed.
func (b *box) quote(t testing.TB, want attest.Binding, change func(*attest.TPMEvidence)) attest.Evidence {
	t.Helper()
	ev, err := b.dev.Quote(t.Context(), want, agent.PCRSelection{Bank: "sha256", PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}, nil)
	must(t, err)
	if change != nil {
		e, err := attest.DecodeTPMEvidence(ev.Body)
		must(t, err)
		change(e)
		ev.Body, err = e.Encode()
		must(t, err)
	}
	return ev
}

// attested is one attestation of a machine: how many questions the server asked
// it, and what came of it.
type attested struct {
	rounds int
	id     identity
	err    error
}

// attest runs an attestation: a renewal of an SVID, or a boot.
func (b *box) attest(p *process, renew *identity, change func(*attest.TPMEvidence)) (out attested) {
	t := p.t
	t.Helper()
	r := &renewal{attempt: p.attempt(p.connect())}
	if renew != nil {
		r = p.renewal(p.connect(), *renew)
	}
	a := r.attempt
	a.hello.Tee = string(attest.TPM2)
	must(t, a.challenge())
	a.bound.Platform = attest.TPM2
	want, err := a.bound.Binding()
	must(t, err)
	ev := b.quote(t, want, change)
	a.evidence = &assayv1.Evidence{
		Body:         &assayv1.Evidence_Tpm{Tpm: &assayv1.TpmEvidence{Body: ev.Body, EventLogSize: uint32(len(ev.EventLog))}},
		Endorsements: ev.Endorsements,
	}
	if renew != nil {
		r.prove()
	}
	a.sendEvidence()
	a.sendLog(ev.EventLog)
	for out.rounds = 1; ; out.rounds++ {
		resp, err := a.stream.Recv()
		if err != nil {
			out.err = err
			return out
		}
		if issued := resp.GetIssued(); issued != nil {
			leaf, err := x509.ParseCertificate(issued.GetSvids()[0].GetChain()[0])
			must(t, err)
			out.id = identity{a.keys[0], leaf}
			return out
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		answer, err := b.dev.Activate(ctx, resp.GetCredentialChallenge().GetCredential(), want)
		if err != nil {
			answer = make([]byte, 32) // a TPM without one of the keys: all that is left is to guess
		}
		a.send(proof(answer))
	}
}

// last is the newest issuance on record.
func (p *process) last() ledger.Entry {
	p.t.Helper()
	r, done := p.reader()
	defer done()
	items, err := r.List(p.t.Context(), ledger.Filter{Outcome: ledger.Granted, Limit: 1})
	must(p.t, err)
	if len(items) != 1 {
		p.t.Fatal("nothing is on record")
	}
	return items[0].Entry
}

// verifiesAgain takes the newest evidence out of the database, with its log, and
// verifies it as an operator can who has nothing else.
func (p *process) verifiesAgain(maker *simtpm.Authority) {
	t := p.t
	t.Helper()
	entry := p.last()
	r, done := p.reader()
	defer done()
	kept, err := r.Evidence(t.Context(), [32]byte(entry.EvidenceDigest))
	must(t, err)
	body, err := attest.DecodeTPMEvidence(kept.Body)
	must(t, err)
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](body.AKPublic)
	must(t, err)
	ak, err := tpm2.Pub(*area)
	must(t, err)
	roots, err := tpm.SimulatedRoots(maker.RootPEM())
	must(t, err)
	v, err := tpm.New(roots, tpm.WithTrustedAK(ak))
	must(t, err)
	c, err := v.Authenticate(t.Context(), attest.Evidence{Platform: attest.TPM2, Body: kept.Body, Endorsements: kept.Endorsements, EventLog: kept.EventLog}, entry.VerifiedAt)
	must(t, err)
	if d := cmp.Diff(entry.Claims.TPM.PCRs, c.TPM.PCRs); d != "" || c.TPM.Boot == nil {
		t.Errorf("verified again: %s", d)
	}
	if d := cmp.Diff(entry.Claims.TPM.Boot, c.TPM.Boot); d != "" {
		t.Errorf("verified again: %s", d)
	}
}

const storageID = "spiffe://" + trustDomain + "/storage"

// machinePolicy grants the image an identity on machines that the rule owns.
func machinePolicy(t testing.TB, owner string) string {
	t.Helper()
	m, err := simtpm.Measurements(simtpm.Boot{Image: "storage"})
	must(t, err)
	return fmt.Sprintf(`version: 1
bundle: machines
revision: 1
trust_domain: %s
workloads:
  - name: storage
    tee: tpm2
    mode: enforce
    match:
      pcr4: {eq: "%x"}
      secure_boot: {eq: true}
      %s
    issue:
      - {spiffe_id: "spiffe://{td}/storage", x509_ttl: 1h}
`, trustDomain, m.PCRs[crypto.SHA256][4], owner)
}

func wantRounds(t *testing.T, what string, got attested, rounds int) {
	t.Helper()
	if got.err != nil || got.rounds != rounds || got.id.leaf.URIs[0].String() != storageID {
		t.Errorf("%s: %d rounds, %v; want %d", what, got.rounds, got.err, rounds)
	}
}

func TestAMachineEnrolsInTwoRoundsAndRenewsInOneAlsoAfterARestart(t *testing.T) {
	maker, err := simtpm.NewAuthority(simtpm.Options{})
	must(t, err)
	ours, theirs := newBox(t, maker), newBox(t, maker)
	p := assaydFor(t, "--simulated-tpm-root", maker.RootPEM(), machinePolicy(t, fmt.Sprintf(`ek: {eq: "%x"}`, ours.ek())))
	p.start()

	first := ours.attest(p, nil, nil)
	wantRounds(t, "the first time", first, 2)
	if c := p.last().Claims.TPM; c.AKTrust != attest.AKActivated || c.Cleared || c.Boot == nil || c.Clock == nil || len(c.PCRs) != 16 {
		t.Errorf("on record: %+v", c)
	}
	p.verifiesAgain(maker)
	renewed := ours.attest(p, &first.id, nil)
	wantRounds(t, "a renewal", renewed, 1)

	// The server is killed, and knows the machine when it comes back.
	p.kill()
	p.start()
	wantRounds(t, "a renewal after a restart of the server", ours.attest(p, &renewed.id, nil), 1)

	// So it does after a restart of the machine: the counters grow.
	before := p.last().Claims.TPM.Clock
	must(t, ours.Reset(simtpm.Boot{}))
	wantRounds(t, "after a restart of the machine", ours.attest(p, nil, nil), 1)
	if now := p.last().Claims.TPM.Clock; now.ResetCount <= before.ResetCount {
		t.Errorf("the counters went from %+v to %+v", before, now)
	}

	// Another TPM with our keys' public parts is not ours.
	collected, err := ours.dev.Collect(t.Context(), []byte("a nonce"))
	must(t, err)
	sample, err := attest.DecodeTPMEvidence(collected.Body)
	must(t, err)
	got := theirs.attest(p, nil, func(e *attest.TPMEvidence) {
		e.EKPublic, e.EKCertificate, e.AKPublic = sample.EKPublic, sample.EKCertificate, sample.AKPublic
	})
	wantRefusal(t, got.err, codes.Unauthenticated, attest.Untrusted, "quote_signature")
	got = theirs.attest(p, nil, func(e *attest.TPMEvidence) { e.EKPublic, e.EKCertificate = sample.EKPublic, sample.EKCertificate })
	wantRefusal(t, got.err, codes.Unauthenticated, attest.Untrusted, "credential_proof")
	got = theirs.attest(p, nil, nil)
	wantRefusal(t, got.err, codes.PermissionDenied, attest.Denied, "policy")
	// And trying changed nothing for ours.
	wantRounds(t, "after another's attempts", ours.attest(p, nil, nil), 1)

	// A TPM that was cleared shows its keys again, and the record says why.
	must(t, ours.Clear())
	must(t, ours.Reset(simtpm.Boot{}))
	wantRounds(t, "after TPM2_Clear", ours.attest(p, nil, nil), 2)
	if c := p.last().Claims.TPM; !c.Cleared {
		t.Errorf("on record: %+v", c)
	}
	wantRounds(t, "and then", ours.attest(p, nil, nil), 1)
	if c := p.last().Claims.TPM; c.Cleared {
		t.Errorf("on record: %+v", c)
	}
	p.stop()
}

func TestTheInventoryAdmitsAMachineAndStopsIt(t *testing.T) {
	maker, err := simtpm.NewAuthority(simtpm.Options{})
	must(t, err)
	m := newBox(t, maker)
	p := assaydFor(t, "--simulated-tpm-root", maker.RootPEM(), machinePolicy(t, "ek_inventory: {eq: rack-4}"))
	p.start()
	bare := func(e *attest.TPMEvidence) { e.EKCertificate = nil }
	ek := m.ek()

	got := m.attest(p, nil, bare)
	wantRefusal(t, got.err, codes.Unauthenticated, attest.Untrusted, "ek_certificate")
	got = m.attest(p, nil, nil)
	wantRefusal(t, got.err, codes.PermissionDenied, attest.Denied, "policy")

	_, err = p.addTPMs(false, &assayv1.EndorsementKey{Ek: ek[:], Group: "rack-4"})
	must(t, err)
	first := m.attest(p, nil, bare)
	// The activation before policy denied it is remembered: one round.
	wantRounds(t, "listed, without a certificate", first, 1)
	if c := p.last().Claims.TPM; c.EKInventory != "rack-4" || c.EKCertificate != nil {
		t.Errorf("on record: %+v", c)
	}
	wantRounds(t, "listed, with one", m.attest(p, &first.id, nil), 1)
	if got := strings.Join(p.inventory(""), "; "); !strings.Contains(got, "rack-4") {
		t.Errorf("listed: %s", got)
	}

	// Its agent is watching, and hears of what concerns it alone.
	watch, err := p.watch(first.id.certificate())
	must(t, err)
	_, err = p.addTPMs(false, &assayv1.EndorsementKey{Ek: ekOf(7), Group: "rack-4"})
	must(t, err)
	_, err = p.admin().RemoveEndorsementKeys(t.Context(), &assayv1.RemoveEndorsementKeysRequest{Ek: [][]byte{ekOf(7)}})
	must(t, err)
	_, err = p.admin().RemoveEndorsementKeys(t.Context(), &assayv1.RemoveEndorsementKeysRequest{Ek: [][]byte{ek[:]}})
	must(t, err)
	event, err := watch.Recv()
	must(t, err)
	if r := event.GetReattest(); r.GetReason() != assayv1.Reattest_REASON_OPERATOR || r.GetWithinMs() != 0 {
		t.Errorf("the watch says %v", event)
	}
	got = m.attest(p, &first.id, bare)
	wantRefusal(t, got.err, codes.Unauthenticated, attest.Untrusted, "ek_certificate")
	got = m.attest(p, &first.id, nil)
	wantRefusal(t, got.err, codes.PermissionDenied, attest.Denied, "policy")
	if got.rounds != 2 {
		t.Errorf("a TPM that was taken out was asked %d times, want 2: its attestation key is forgotten", got.rounds)
	}
	_, err = p.addTPMs(false, &assayv1.EndorsementKey{Ek: ek[:], Group: "rack-5"})
	must(t, err)
	got = m.attest(p, nil, nil)
	wantRefusal(t, got.err, codes.PermissionDenied, attest.Denied, "policy") // another group
	p.stop()
	if n := strings.Count(p.log, `msg="asked agents to attest again"`); n != 1 {
		t.Errorf("agents were asked %d times, want once", n)
	}
}
