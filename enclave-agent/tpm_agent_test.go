package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"google.golang.org/grpc"

	"github.com/assay-project/assay/attest"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// tpmServer is a server that knows a TPM or not.
type tpmServer struct {
	*faultyServer
	mu     sync.Mutex
	known  bool
	rounds int
	logs   [][]byte
	chunks []int
}

func newTPMServer(t testing.TB) *tpmServer {
	s := &tpmServer{faultyServer: newFaultyServer(t)}
	s.challenge = func(m *assayv1.AttestResponse) {
		c := m.GetChallenge()
		c.PcrBank, c.Pcrs = "sha256", []uint32{0, 1, 2, 3, 4, 5, 6, 7}
	}
	s.round = s.second
	s.start()
	return s
}

type attestServerStream = grpc.BidiStreamingServer[assayv1.AttestRequest, assayv1.AttestResponse]

// second takes the event log, and asks a TPM that it does not know for a proof.
func (s *tpmServer) second(stream attestServerStream, ev *assayv1.Evidence) error {
	var log []byte
	var chunks []int
	for uint32(len(log)) < ev.GetTpm().GetEventLogSize() {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		log, chunks = append(log, m.GetEventLog().GetData()...), append(chunks, len(m.GetEventLog().GetData()))
	}
	s.mu.Lock()
	known := s.known
	s.logs, s.chunks = append(s.logs, log), chunks
	s.mu.Unlock()
	if known {
		return nil
	}
	body, err := attest.DecodeTPMEvidence(ev.GetTpm().GetBody())
	if err != nil {
		return err
	}
	about, err := tpm2.Unmarshal[tpm2.TPMSAttest](body.Quote)
	if err != nil {
		return err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	c, err := credential(body.EKPublic, body.AKPublic, secret)
	if err != nil {
		return err
	}
	if err := stream.Send(&assayv1.AttestResponse{Message: &assayv1.AttestResponse_CredentialChallenge{CredentialChallenge: &assayv1.CredentialChallenge{Credential: c}}}); err != nil {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if !proved(m.GetCredentialProof().GetProof(), secret, [32]byte(about.ExtraData.Buffer)) {
		return deny(&assayv1.Denied{Kind: "untrusted", Check: "credential_proof"})
	}
	s.mu.Lock()
	s.known, s.rounds = true, s.rounds+1
	s.mu.Unlock()
	return nil
}

func (s *tpmServer) agent(t testing.TB, tpm *TPM, r KeyResidency) Config {
	return Config{
		TrustDomain: testDomain, Server: s.address, BootstrapRoots: s.bootstrap.roots(t), Attester: tpm, KeyResidency: r,
		Socket: filepath.Join(shortDir(t), "agent.sock"), Log: testLog(t),
	}
}

func agentAPIOf(t *testing.T, a *Agent) agentv1.AgentClient {
	c, _ := callAgent(t, a)
	return agentv1.NewAgentClient(c)
}

func identitiesOf(t *testing.T, a *Agent) *agentv1.Identities {
	t.Helper()
	c := agentAPIOf(t, a)
	var out *agentv1.Identities
	eventually(t, "the agent serves an identity", func() bool {
		var err error
		out, err = c.GetIdentities(withHeader(context.Background(), "true"), &agentv1.GetIdentitiesRequest{})
		return err == nil
	})
	return out
}

func TestAnAgentEnrolsItsTPMInTwoRoundsAndRenewsInOne(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	log := filepath.Join(t.TempDir(), "log")
	content := bytes.Repeat([]byte("event"), 25_000) // three chunks
	if err := os.WriteFile(log, content, 0o600); err != nil {
		t.Fatal(err)
	}
	a, stop := runAgent(t, s.agent(t, m.attester(TPMOptions{EventLog: log}), SoftwareKeys))
	first := served(t, a)
	a.members[0].plan.advance(a.members[0].time.now())
	eventually(t, "it renewed", func() bool { return served(t, a) != first })
	stop()
	b, _ := runAgent(t, s.agent(t, m.attester(TPMOptions{EventLog: log}), SoftwareKeys)) // starts again
	served(t, b)
	heard := s.heard()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rounds != 1 || len(heard) != 3 {
		t.Errorf("%d second rounds in %d attestations", s.rounds, len(heard))
	}
	if p := heard[1].hello.GetPurpose(); p != assayv1.Purpose_PURPOSE_RENEW {
		t.Errorf("purpose %s", p)
	}
	for i, got := range s.logs {
		body := must(attest.DecodeTPMEvidence(heard[i].evidence.GetTpm().GetBody()))
		if sum := sha256.Sum256(content); !bytes.Equal(got, content) || !bytes.Equal(body.EventLogDigest, sum[:]) {
			t.Errorf("the event log arrived as %d bytes", len(got))
		}
		if len(body.PCRs) != 8 {
			t.Errorf("%d registers, want the 8 of the challenge", len(body.PCRs))
		}
		if body.Certified != nil {
			t.Error("a key in memory was certified")
		}
	}
	if want := []int{logChunk, logChunk, len(content) - 2*logChunk}; !equal(s.chunks, want) {
		t.Errorf("chunks of %v, want %v", s.chunks, want)
	}
}

func TestAServerThatAsksForOtherRegistersIsNotAnswered(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	tpm := m.attester(TPMOptions{})
	for name, change := range map[string]func(*assayv1.Challenge){
		"no bank":         func(c *assayv1.Challenge) { c.PcrBank = "" },
		"SHA-1":           func(c *assayv1.Challenge) { c.PcrBank = "sha1" },
		"none":            func(c *assayv1.Challenge) { c.Pcrs = nil },
		"a resettable":    func(c *assayv1.Challenge) { c.Pcrs = []uint32{0, 16} },
		"twice":           func(c *assayv1.Challenge) { c.Pcrs = []uint32{7, 7} },
		"out of order":    func(c *assayv1.Challenge) { c.Pcrs = []uint32{7, 0} },
		"far out":         func(c *assayv1.Challenge) { c.Pcrs = []uint32{0xffffffff} },
		"more than exist": func(c *assayv1.Challenge) { c.Pcrs = make([]uint32, 100) },
	} {
		s.with(func() {
			s.challenge = func(m *assayv1.AttestResponse) {
				m.GetChallenge().PcrBank, m.GetChallenge().Pcrs = "sha256", []uint32{0}
				change(m.GetChallenge())
			}
		})
		_, err := attestOnce(t, s.faultyServer, tpm)
		if attest.CheckOf(err) != "challenge_pcrs" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// attestOnce is one attestation without an agent around it.
func attestOnce(t testing.TB, s *faultyServer, tpm Attester) (*issuance, error) {
	t.Helper()
	a := must(New(Config{TrustDomain: testDomain, Server: s.address, BootstrapRoots: s.bootstrap.roots(t), Attester: tpm, Socket: "/x"}))
	l := must(a.members[0].server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	try := &attestation{td: testDomain, serverID: a.members[0].server.id, attester: tpm, time: a.members[0].time, keyType: P256, ids: []string{""}}
	return try.run(t.Context(), l)
}

func TestASecondActivationInOneAttestationIsRefused(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	s.with(func() {
		s.round = func(stream attestServerStream, ev *assayv1.Evidence) error {
			for range 2 {
				s.mu.Lock()
				s.known = false
				s.mu.Unlock()
				if err := s.second(stream, ev); err != nil {
					return err
				}
			}
			return nil
		}
	})
	_, err := attestOnce(t, s.faultyServer, m.attester(TPMOptions{}))
	wantCheck(t, err, attest.Untrusted, "reply_order")
}

func TestGooglesAttestationKeyComesWithItsCertificate(t *testing.T) {
	t.Parallel()
	m, ca := newTPM2(t), newEKAuthority(t)
	_, err := m.attester(TPMOptions{AK: TPMGCE}).Evidence(t.Context(), bindingOf(t))
	wantCheck(t, err, attest.Unavailable, "tpm")
	for _, c := range []struct {
		at   gceAK
		kind TPMKeyKind
	}{{gceAKs()[1], TPMRSA2048}, {gceAKs()[0], TPMP256}} { // the elliptic one goes before
		template := akTemplate(c.kind)
		template.Unique = tpm2.TPMUPublicID{}
		if c.kind == TPMP256 {
			template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
		} else {
			template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
		}
		var area []byte
		m.do(func(s *tpmSession) error {
			k, err := s.createPrimary(tpm2.TPMRHEndorsement, template)
			area = k.area
			return err
		})
		cert := ca.leaf(t, must(publicKey(area)))
		m.store(c.at.certificate, cert.Raw, 200)
		m.store(c.at.template, tpm2.Marshal(template), 0)
		want := bindingOf(t)
		body, _ := quoted(t, must(m.attester(TPMOptions{AK: TPMGCE}).Evidence(t.Context(), want)), want.B)
		if !bytes.Equal(body.AKCertificate, cert.Raw) || !bytes.Equal(body.AKPublic, area) || body.EKPublic != nil {
			t.Errorf("%s: the evidence is not that of the certified key", c.kind)
		}
	}
	_, err = m.attester(TPMOptions{AK: TPMGCE}).Activate(t.Context(), []byte{0, 1, 7, 0, 1, 8}, bindingOf(t))
	wantCheck(t, err, attest.Untrusted, "credential")
}

func TestTheEventLogIsTheOneThatIsNamed(t *testing.T) {
	t.Parallel()
	m, dir := newTPM2(t), t.TempDir()
	write := func(name string, n int) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, bytes.Repeat([]byte{1}, n), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for path, want := range map[string]int{"": 0, NoEventLog: 0, write("a", 100): 100, write("max", attest.MaxTPMEventLog): attest.MaxTPMEventLog} {
		ev := must(m.attester(TPMOptions{EventLog: path}).Evidence(t.Context(), bindingOf(t)))
		if len(ev.EventLog) != want {
			t.Errorf("%q: %d bytes, want %d", path, len(ev.EventLog), want)
		}
	}
	for _, bad := range []string{write("empty", 0), write("big", attest.MaxTPMEventLog+1), filepath.Join(dir, "none"), dir} {
		_, err := m.attester(TPMOptions{EventLog: bad}).Evidence(t.Context(), bindingOf(t))
		wantCheck(t, err, attest.Unavailable, "tpm_event_log")
	}
}
