package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/enclave-agent/agentclient"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// credential is what TPM2_MakeCredential returns for a secret.
func credential(ekArea, akArea, secret []byte) ([]byte, error) {
	ek, err := tpm2.Unmarshal[tpm2.TPMTPublic](ekArea)
	if err != nil {
		return nil, err
	}
	to, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return nil, err
	}
	ak, err := tpm2.Unmarshal[tpm2.TPMTPublic](akArea)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(ak)
	if err != nil {
		return nil, err
	}
	id, enc, err := tpm2.CreateCredential(rand.Reader, to, name.Buffer, secret)
	if err != nil {
		return nil, err
	}
	out := append(binary.BigEndian.AppendUint16(nil, uint16(len(id))), id...)
	return append(binary.BigEndian.AppendUint16(out, uint16(len(enc))), enc...), nil
}

// proved is whether a proof is that of the secret for B.
func proved(proof, secret []byte, b [32]byte) bool {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("assay/v1 activate"))
	mac.Write(b[:])
	return hmac.Equal(proof, mac.Sum(nil))
}

func TestTheTPMActivatesACredentialForItsOwnTwoKeys(t *testing.T) {
	t.Parallel()
	secret := bytes.Repeat([]byte{9}, 32)
	for _, kind := range []TPMKeyKind{TPMP256, TPMP384, TPMRSA2048} {
		m := newTPM2(t)
		if kind == TPMP384 {
			newEKAuthority(t).certify(m, ekTemplates()[2], 0)
		}
		tpm, want := m.attester(TPMOptions{EK: kind}), bindingOf(t)
		body, _ := quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
		proof, err := tpm.Activate(t.Context(), must(credential(body.EKPublic, body.AKPublic, secret)), want)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if !proved(proof, secret, want.B) || proved(proof, secret, [32]byte{1}) {
			t.Errorf("%s: the proof is not that of the secret and B", kind)
		}
		if n := m.transient(); n != 0 {
			t.Errorf("%s: %d objects are left in the TPM", kind, n)
		}
		// One for another attestation key of the same TPM, and one for another TPM.
		other := m.attester(TPMOptions{EK: kind, AK: TPMRSA2048})
		foreign, _ := quoted(t, must(other.Evidence(t.Context(), want)), want.B)
		_, err = tpm.Activate(t.Context(), must(credential(body.EKPublic, foreign.AKPublic, secret)), want)
		wantCheck(t, err, attest.Internal, "tpm")
		second := newTPM2(t)
		_, err = second.attester(TPMOptions{}).Activate(t.Context(), must(credential(body.EKPublic, body.AKPublic, secret)), want)
		wantCheck(t, err, attest.Internal, "tpm")
		if a, b := m.transient(), second.transient(); a+b != 0 {
			t.Errorf("%s: %d and %d objects are left after a refusal", kind, a, b)
		}
	}
}

func TestACredentialThatIsNoneIsTheServersMistake(t *testing.T) {
	t.Parallel()
	good := append([]byte{0, 1, 7}, 0, 2, 8, 9)
	if a, b, err := splitCredential(good); err != nil || !bytes.Equal(a, []byte{7}) || !bytes.Equal(b, []byte{8, 9}) {
		t.Fatalf("%v %v %v", a, b, err)
	}
	tpm := NewTPMSocket("/nowhere", TPMOptions{})
	for _, bad := range [][]byte{nil, {0}, {0, 0}, good[:4], good[:6], append(bytes.Clone(good), 1), {0, 1, 7, 0, 0}, make([]byte, maxCredential+1)} {
		_, err := tpm.Activate(t.Context(), bad, attest.Binding{})
		wantCheck(t, err, attest.Untrusted, "credential")
	}
}

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
	a.plan.advance(a.time.now())
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
	l := must(a.server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	try := &attestation{td: testDomain, serverID: a.server.id, attester: tpm, time: a.time, keyType: P256, ids: []string{""}}
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

func TestAKeyInTheTPMServesTLSAndIsNeverHandedOut(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	a, _ := runAgent(t, s.agent(t, m.attester(TPMOptions{}), TPMKeys))
	got := identitiesOf(t, a)
	if len(got.GetIdentities()) != 1 || got.GetTee() != "tpm2" || got.GetIdentities()[0].GetKeyResidency() != agentv1.KeyResidency_KEY_RESIDENCY_TPM {
		t.Fatalf("identities: %v", got)
	}
	checkCertified(t, s.heard()[0])

	// The Workload API says so, and still serves bundles.
	_, w := callAgent(t, a)
	err := methods(w)["FetchX509SVID"](withHeader(t.Context(), "true"))
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "assay.agent.v1") || !strings.Contains(err.Error(), "key_residency") {
		t.Errorf("the Workload API says %v", err)
	}
	if err := methods(w)["FetchX509Bundles"](withHeader(t.Context(), "true")); err != nil {
		t.Error(err)
	}

	// mTLS with go-spiffe on both sides, each key in the TPM.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	src := must(agentclient.New(ctx, agentclient.Options{Socket: a.cfg.Socket}))
	t.Cleanup(src.Close)
	first := must(src.GetX509SVID())
	serial := must(mutualTLS(src))
	if serial != first.Certificates[0].SerialNumber.String() {
		t.Error("the handshake showed another certificate")
	}

	// A renewal changes the key; who is in the middle of a handshake still signs.
	updated := src.Updated()
	a.plan.advance(a.time.now())
	select {
	case <-updated:
	case <-ctx.Done():
		t.Fatal("no renewal")
	}
	eventually(t, "the source follows", func() bool { return must(src.GetX509SVID()).Certificates[0].SerialNumber.String() != serial })
	if p := s.heard()[1].hello.GetPurpose(); p != assayv1.Purpose_PURPOSE_RENEW {
		t.Errorf("purpose %s", p)
	}
	if now := must(mutualTLS(src)); now == serial {
		t.Error("the old certificate is still shown")
	}
	sum := sha256.Sum256([]byte("under way"))
	sig := must(first.PrivateKey.Sign(nil, sum[:], crypto.SHA256))
	if !ecdsa.VerifyASN1(first.PrivateKey.Public().(*ecdsa.PublicKey), sum[:], sig) {
		t.Error("the renewed key signed something else")
	}
	if n := m.transient(); n != 0 {
		t.Errorf("%d objects are left in the TPM", n)
	}
}

// checkCertified checks that the AK certified the key of the request, as one that
// lives in the NULL hierarchy, for this very attestation.
func checkCertified(t *testing.T, h heard) {
	t.Helper()
	body := must(attest.DecodeTPMEvidence(h.evidence.GetTpm().GetBody()))
	if len(body.Certified) != len(h.hello.GetKeys()) {
		t.Fatalf("%d keys certified of %d", len(body.Certified), len(h.hello.GetKeys()))
	}
	quote := must(tpm2.Unmarshal[tpm2.TPMSAttest](body.Quote))
	for i, c := range body.Certified {
		signed(t, body.AKPublic, c.Attest, c.Signature)
		about := must(tpm2.Unmarshal[tpm2.TPMSAttest](c.Attest))
		info := must(about.Attested.Certify())
		pub := must(tpm2.Unmarshal[tpm2.TPMTPublic](c.Public))
		name := must(tpm2.ObjectName(pub)).Buffer
		if !bytes.Equal(info.Name.Buffer, name) || !bytes.Equal(info.QualifiedName.Buffer, qualified(tpm2.TPMRHNull, name)) {
			t.Error("it is not a primary of the NULL hierarchy")
		}
		if !bytes.Equal(about.ExtraData.Buffer, quote.ExtraData.Buffer) || about.ClockInfo.ResetCount != quote.ClockInfo.ResetCount {
			t.Error("it was certified for another attestation")
		}
		at := pub.ObjectAttributes
		if at.Restricted || at.Decrypt || !at.SignEncrypt || !at.FixedTPM || !at.FixedParent || !at.SensitiveDataOrigin {
			t.Errorf("attributes %+v", at)
		}
		csr := must(x509.ParseCertificateRequest(h.hello.GetKeys()[i].GetCsr()))
		if err := csr.CheckSignature(); err != nil || !isKey(c.Public, csr.PublicKey) {
			t.Errorf("it is not the key of the request: %v", err)
		}
	}
}

// mutualTLS is one handshake, both sides with the source; it returns the serial
// number that the client showed.
func mutualTLS(src *agentclient.Source) (string, error) {
	member := tlsconfig.AuthorizeMemberOf(testDomain)
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	server := tls.Server(far, tlsconfig.MTLSServerConfig(src, src, member))
	client := tls.Client(near, tlsconfig.MTLSClientConfig(src, src, member))
	done := make(chan error, 1)
	go func() {
		err := client.Handshake()
		if err == nil {
			_, err = io.ReadFull(client, make([]byte, 1))
		}
		done <- err
	}()
	if err := server.Handshake(); err != nil {
		_ = far.Close()
		return "", errors.Join(err, <-done)
	}
	if _, err := server.Write([]byte{1}); err != nil {
		return "", err
	}
	if err := <-done; err != nil {
		return "", err
	}
	return server.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func TestSignRefusesWhatItDoesNotSign(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	a, _ := runAgent(t, s.agent(t, m.attester(TPMOptions{}), TPMKeys))
	id := identitiesOf(t, a).GetIdentities()[0].GetSpiffeId()
	c := agentAPIOf(t, a)
	sha, digest := agentv1.HashAlgorithm_HASH_ALGORITHM_SHA256, make([]byte, 32)
	for name, r := range map[string]struct {
		req  *agentv1.SignRequest
		want codes.Code
	}{
		"SHA-256":           {&agentv1.SignRequest{SpiffeId: id, HashAlgorithm: sha, Digest: digest}, codes.OK},
		"SHA-384":           {&agentv1.SignRequest{SpiffeId: id, HashAlgorithm: agentv1.HashAlgorithm_HASH_ALGORITHM_SHA384, Digest: make([]byte, 48)}, codes.OK},
		"SHA-512":           {&agentv1.SignRequest{SpiffeId: id, HashAlgorithm: agentv1.HashAlgorithm_HASH_ALGORITHM_SHA512, Digest: make([]byte, 64)}, codes.OK},
		"no algorithm":      {&agentv1.SignRequest{SpiffeId: id, Digest: digest}, codes.InvalidArgument},
		"unknown algorithm": {&agentv1.SignRequest{SpiffeId: id, HashAlgorithm: 17, Digest: digest}, codes.InvalidArgument},
		"a short digest":    {&agentv1.SignRequest{SpiffeId: id, HashAlgorithm: sha, Digest: digest[1:]}, codes.InvalidArgument},
		"no digest":         {&agentv1.SignRequest{SpiffeId: id, HashAlgorithm: sha}, codes.InvalidArgument},
		"another's name":    {&agentv1.SignRequest{SpiffeId: id + "x", HashAlgorithm: sha, Digest: digest}, codes.NotFound},
		"another key":       {&agentv1.SignRequest{SpiffeId: id, HashAlgorithm: sha, Digest: digest, SpkiSha256: make([]byte, 32)}, codes.NotFound},
		"no key's digest":   {&agentv1.SignRequest{SpiffeId: id, HashAlgorithm: sha, Digest: digest, SpkiSha256: []byte{1}}, codes.InvalidArgument},
	} {
		if _, err := c.Sign(withHeader(t.Context(), "true"), r.req); status.Code(err) != r.want {
			t.Errorf("%s: %v, want %s", name, err, r.want)
		}
		if _, err := c.Sign(t.Context(), r.req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s, without the header: %v", name, err)
		}
	}
	if _, err := c.GetIdentities(t.Context(), &agentv1.GetIdentitiesRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("GetIdentities without the header: %v", err)
	}
	// Policy may give one SVID to some processes only.
	a.state.mu.Lock()
	a.state.svids[0].selectors = []*assayv1.Selector{{Type: "unix:uid", Value: "1"}}
	a.state.publish()
	a.state.mu.Unlock()
	if _, err := c.Sign(withHeader(t.Context(), "true"), &agentv1.SignRequest{SpiffeId: id, HashAlgorithm: sha, Digest: digest}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an identity for some processes: %v", err)
	}
}

func TestSignaturesAreLimited(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	a, _ := runAgent(t, s.agent(t, m.attester(TPMOptions{}), TPMKeys))
	id := identitiesOf(t, a).GetIdentities()[0].GetSpiffeId()
	c := agentAPIOf(t, a)
	var mu sync.Mutex
	count := map[codes.Code]int{}
	var wg sync.WaitGroup
	for range 8 * signBurst {
		wg.Go(func() {
			_, err := c.Sign(withHeader(t.Context(), "true"), &agentv1.SignRequest{SpiffeId: id, HashAlgorithm: agentv1.HashAlgorithm_HASH_ALGORITHM_SHA256, Digest: make([]byte, 32)})
			mu.Lock()
			count[status.Code(err)]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if count[codes.OK] == 0 || count[codes.ResourceExhausted] == 0 || len(count) != 2 {
		t.Errorf("answers: %v", count)
	}
	// A client waits and asks again.
	src := must(agentclient.New(t.Context(), agentclient.Options{Socket: a.cfg.Socket}))
	t.Cleanup(src.Close)
	if _, err := mutualTLS(src); err != nil {
		t.Error(err)
	}
}

func TestAKeyInMemoryIsFetchedAndSignsNothing(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	got := identitiesOf(t, a)
	if r := got.GetIdentities()[0].GetKeyResidency(); r != agentv1.KeyResidency_KEY_RESIDENCY_SOFTWARE || got.GetTee() != "aws-nitro" {
		t.Errorf("residency %s of %s", r, got.GetTee())
	}
	_, err := agentAPIOf(t, a).Sign(withHeader(t.Context(), "true"), &agentv1.SignRequest{
		SpiffeId: s.ids[0], HashAlgorithm: agentv1.HashAlgorithm_HASH_ALGORITHM_SHA256, Digest: make([]byte, 32),
	})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "Workload API") {
		t.Errorf("Sign: %v", err)
	}
	src := must(agentclient.New(t.Context(), agentclient.Options{Socket: a.cfg.Socket}))
	t.Cleanup(src.Close)
	if _, err := src.GetX509SVID(); err == nil || !strings.Contains(err.Error(), "in memory") {
		t.Errorf("the source: %v", err)
	}
	if _, err := src.GetX509BundleForTrustDomain(testDomain); err != nil {
		t.Error(err)
	}
	if _, err := src.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("other.example.org")); err == nil {
		t.Error("a bundle of another trust domain")
	}
}

func TestKeysInTheTPMEndWithItsResetAndTheAgentAttestsAsAtBoot(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	a, _ := runAgent(t, s.agent(t, m.attester(TPMOptions{}), TPMKeys))
	before := identitiesOf(t, a).GetIdentities()[0]
	key := a.state.renewable().key
	m.reset()
	sum := sha256.Sum256(nil)
	_, err := key.Sign(nil, sum[:], crypto.SHA256)
	wantCheck(t, err, attest.Stale, checkKeyGone)
	a.plan.advance(a.time.now())
	eventually(t, "there is another identity", func() bool {
		return !bytes.Equal(identitiesOf(t, a).GetIdentities()[0].GetChain()[0], before.GetChain()[0])
	})
	all := s.heard()
	if p := all[len(all)-1].hello.GetPurpose(); p != assayv1.Purpose_PURPOSE_BOOT {
		t.Errorf("purpose %s", p)
	}
	// Whoever asks for a signature notices first.
	id := identitiesOf(t, a).GetIdentities()[0]
	m.reset()
	_, err = agentAPIOf(t, a).Sign(withHeader(t.Context(), "true"), &agentv1.SignRequest{
		SpiffeId: id.GetSpiffeId(), HashAlgorithm: agentv1.HashAlgorithm_HASH_ALGORITHM_SHA256, Digest: sum[:],
	})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("Sign: %v", err)
	}
	eventually(t, "it attested again", func() bool {
		return !bytes.Equal(identitiesOf(t, a).GetIdentities()[0].GetChain()[0], id.GetChain()[0])
	})
}

func TestASourceFollowsAnAgentThatStartsAgain(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	cfg := s.agent(t, m.attester(TPMOptions{}), TPMKeys)
	_, stop := runAgent(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	src := must(agentclient.New(ctx, agentclient.Options{Socket: cfg.Socket, ID: must(idFrom(s.ids[0]))}))
	t.Cleanup(src.Close)
	before := must(src.GetX509SVID())
	stop()
	sum := sha256.Sum256(nil)
	short, cancelShort := context.WithTimeout(t.Context(), time.Second)
	defer cancelShort()
	if _, err := before.PrivateKey.(*agentclient.Signer).SignContext(short, sum[:], crypto.SHA256); err == nil {
		t.Error("somebody signed without an agent")
	}
	if now := must(src.GetX509SVID()); now.Certificates[0] != before.Certificates[0] {
		t.Error("without an agent there is another SVID")
	}
	cfg.Attester = m.attester(TPMOptions{}) // a process of its own: the old keys are gone
	runAgent(t, cfg)
	eventually(t, "the source has the new SVID", func() bool {
		now := must(src.GetX509SVID())
		return !bytes.Equal(now.Certificates[0].Raw, before.Certificates[0].Raw)
	})
	if _, err := mutualTLS(src); err != nil {
		t.Error(err)
	}
	if _, err := before.PrivateKey.Sign(nil, sum[:], crypto.SHA256); status.Code(errors.Unwrap(err)) != codes.NotFound {
		t.Errorf("a key of the agent before: %v", err)
	}
	if _, err := before.PrivateKey.Sign(nil, sum[:], crypto.MD5); err == nil {
		t.Error("signed an MD5 digest")
	}
}

func TestASourceSaysWhyItHasNothing(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	cfg := s.agent(t, m.attester(TPMOptions{}), TPMKeys)
	runAgent(t, cfg)
	for name, c := range map[string]struct {
		o    agentclient.Options
		want string
	}{
		"no agent":        {agentclient.Options{Socket: filepath.Join(shortDir(t), "none.sock")}, "no identity from"},
		"no socket":       {agentclient.Options{}, "no absolute path"},
		"a relative path": {agentclient.Options{Socket: "agent.sock"}, "no absolute path"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := agentclient.New(ctx, c.o)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	src := must(agentclient.New(t.Context(), agentclient.Options{Socket: cfg.Socket, ID: must(idFrom("spiffe://simulated.example.org/other"))}))
	t.Cleanup(src.Close)
	if _, err := src.GetX509SVID(); err == nil || !strings.Contains(err.Error(), "does not serve spiffe://simulated.example.org/other") {
		t.Errorf("another identity: %v", err)
	}
	if _, err := src.GetCertificate(nil); err == nil {
		t.Error("a certificate without an identity")
	}
}

func TestResidencyNeedsAHolderAndP256(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	tpm := NewTPMSocket("/nowhere", TPMOptions{})
	good := s.config(t)
	for name, change := range map[string]func(*Config){
		"unknown":       func(c *Config) { c.Attester, c.KeyResidency = tpm, "drawer" },
		"no hardware":   func(c *Config) { c.KeyResidency = TPMKeys },
		"another curve": func(c *Config) { c.Attester, c.KeyResidency, c.KeyType = tpm, TPMKeys, P384 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good.Attester, good.KeyResidency = tpm, TPMKeys
	must(New(good))
}

func TestItIsAllKeysInTheTPMOrNone(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	tpm := m.attester(TPMOptions{})
	own, soft := must(tpm.NewKey(t.Context())), newKey(t)
	for name, keys := range map[string][]crypto.Signer{"mixed": {own, soft}, "mixed, the other way": {soft, own}} {
		_, err := tpm.Quote(t.Context(), bindingOf(t, keys...), DefaultPCRs(), keys)
		if attest.CheckOf(err) != "key_residency" {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := m.attester(TPMOptions{})
	_, err := other.Quote(t.Context(), bindingOf(t, own), DefaultPCRs(), []crypto.Signer{own})
	wantCheck(t, err, attest.Internal, "key_residency")
	_, err = tpm.Quote(t.Context(), bindingOf(t, soft), DefaultPCRs(), []crypto.Signer{own})
	wantCheck(t, err, attest.Internal, "key_residency")
	again := must(tpm.NewKey(t.Context()))
	if again.(*residentKey).public.Equal(own.Public()) {
		t.Error("two keys are one")
	}
}

func TestSixteenKeysInTheTPMFitIntoOneMessage(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	tpm := m.attester(TPMOptions{AK: TPMRSA2048})
	keys := make([]crypto.Signer, attest.MaxKeys)
	for i := range keys {
		keys[i] = must(tpm.NewKey(t.Context()))
	}
	ev := must(tpm.Quote(t.Context(), bindingOf(t, keys...), DefaultPCRs(), keys))
	msg := must(marshal(must(evidenceMessage(ev))))
	if n := len(must(attest.DecodeTPMEvidence(ev.Body)).Certified); n != attest.MaxKeys || len(msg) > 48<<10 {
		t.Errorf("%d certified keys in %d bytes", n, len(msg))
	}
	if n := m.transient(); n != 0 {
		t.Errorf("%d objects are left in the TPM", n)
	}
}

// mute accepts connections and commands, and never answers.
func mute(t testing.TB, answers []byte) string {
	t.Helper()
	path := filepath.Join(shortDir(t), "mute.sock")
	l := must(net.Listen("unix", path))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if answers != nil {
						if _, err := c.Write(answers); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return path
}

func TestAStalledTPMIsAnErrorAndIsOpenedAgain(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	path := mute(t, nil)
	tpm := NewTPMSocket(path, TPMOptions{Log: testLog(t)})
	tpm.timeout, tpm.slow = 100*time.Millisecond, 300*time.Millisecond
	for range 2 {
		began := time.Now()
		_, err := tpm.Evidence(t.Context(), bindingOf(t))
		wantCheck(t, err, attest.Unavailable, "tpm")
		if h := asError(err).Hint; !strings.Contains(h, "did not answer in time") {
			t.Errorf("hint %q", h)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %s", d)
		}
	}
	// The same attester, once the TPM is well.
	tpm.timeout, tpm.slow = tpmTimeout, tpmSlow
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.socket, path); err != nil {
		t.Fatal(err)
	}
	want := bindingOf(t)
	quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
	m.off()
	_, err := tpm.Evidence(t.Context(), want)
	wantCheck(t, err, attest.Unavailable, "tpm")
	m.on()
	if err := os.Rename(m.socket, path); err != nil {
		t.Fatal(err)
	}
	quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
}

// tpmDriver is what the kernel's TPM driver is to a program: a file descriptor that
// takes a command with one write, and gives the response to one read.
func tpmDriver(t testing.TB, answer func(command []byte) []byte) *tpmFile {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer func() { _ = unix.Close(fds[1]) }()
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(fds[1], buf)
			if err != nil || n == 0 {
				return
			}
			if out := answer(bytes.Clone(buf[:n])); out != nil {
				if _, err := unix.Write(fds[1], out); err != nil {
					return
				}
			}
		}
	}()
	return &tpmFile{fd: fds[0], path: TPMDevice, managed: true}
}

func TestTheDriversDeviceCarriesCommandsAndHasATimeOut(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	behind := func(command []byte) []byte {
		c, err := openTPMSocket(m.socket)(context.Background())
		if err != nil {
			return nil
		}
		defer func() { _ = c.Close() }()
		out, err := c.exchange(context.Background(), command)
		if err != nil {
			return nil
		}
		return out
	}
	tpm := newTPM(TPMDevice, func(context.Context) (tpmConn, error) { return tpmDriver(t, behind), nil }, TPMOptions{EventLog: NoEventLog})
	want := bindingOf(t)
	quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)

	stalled := newTPM(TPMDevice, func(context.Context) (tpmConn, error) { return tpmDriver(t, func([]byte) []byte { return nil }), nil }, TPMOptions{EventLog: NoEventLog})
	stalled.timeout, stalled.slow = 50*time.Millisecond, time.Second
	_, err := stalled.Evidence(t.Context(), want)
	wantCheck(t, err, attest.Unavailable, "tpm")
	if !strings.Contains(asError(err).Hint, "did not answer in time") {
		t.Errorf("hint %q", asError(err).Hint)
	}
	gone := newTPM(TPMDevice, func(context.Context) (tpmConn, error) {
		d := tpmDriver(t, nil)
		_ = unix.Shutdown(d.fd, unix.SHUT_RDWR)
		return d, nil
	}, TPMOptions{EventLog: NoEventLog})
	_, err = gone.Evidence(t.Context(), want)
	wantCheck(t, err, attest.Unavailable, "tpm")
}

func TestACallerWhoStopsWaitingIsLetGo(t *testing.T) {
	t.Parallel()
	tpm := NewTPMSocket(mute(t, nil), TPMOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := tpm.NewKey(ctx)
	wantCheck(t, err, attest.Unavailable, "tpm")
}

func TestNonsenseOfATPMIsAnError(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string][]byte{
		"a huge size":   {0x80, 1, 0xff, 0, 0, 0, 0, 0, 0, 0},
		"a size of 0":   {0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"empty success": {0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0},
		"garbage":       append([]byte{0x80, 1, 0, 0, 0, 30, 0, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 20)...),
		"a refusal":     {0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x01},
	} {
		tpm := NewTPMSocket(mute(t, answer), TPMOptions{})
		_, err := tpm.Evidence(t.Context(), bindingOf(t))
		if attest.KindOf(err) != attest.Internal || attest.CheckOf(err) != "tpm" {
			t.Errorf("%s: %v", name, err)
		}
	}
	tpm := NewTPMSocket(mute(t, []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0}), TPMOptions{})
	_, err := tpm.Evidence(t.Context(), bindingOf(t))
	if attest.KindOf(err) != attest.Unavailable || !strings.Contains(asError(err).Hint, "TPM2_Startup") {
		t.Errorf("not started: %v", err)
	}
}

func TestATPMThatOthersLeftFullMakesRoom(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	full := errors.New("enough")
	tpm := m.attester(TPMOptions{})
	_, err := withTPM(t.Context(), m.attester(TPMOptions{}), tpmTimeout, func(s *tpmSession) (int, error) {
		for {
			s.swept = true // as a program does that knows nothing of this
			if _, err := s.createPrimary(tpm2.TPMRHNull, must(residentTemplate())); err != nil {
				s.loaded = nil // and dies
				return 0, full
			}
		}
	})
	if err == nil || m.transient() < 3 {
		t.Fatalf("the TPM is not full: %v", err)
	}
	want := bindingOf(t)
	quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
	if n := m.transient(); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

func TestManyCallersShareATPMWithRoomForThree(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	tpm := m.attester(TPMOptions{})
	errs := make(chan error, 24)
	var wg sync.WaitGroup
	for i := range cap(errs) {
		wg.Go(func() {
			key, err := tpm.NewKey(t.Context())
			if err == nil && i%2 == 0 {
				_, err = tpm.Quote(t.Context(), bindingOf(t, key), DefaultPCRs(), []crypto.Signer{key})
			} else if err == nil {
				sum := sha256.Sum256([]byte{byte(i)})
				_, err = key.Sign(nil, sum[:], crypto.SHA256)
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
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

func TestADeviceThatIsNoneIsNamed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tpm0")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, hint := range map[string]string{
		filepath.Join(t.TempDir(), "tpmrm0"): "ls /dev/tpm*",
		file:                                 "",
		"unix:" + filepath.Join(t.TempDir(), "x"): "tpm.socket",
	} {
		d := NewTPMDevice(path, TPMOptions{})
		d.timeout, d.slow = time.Second, time.Second
		_, err := d.Probe(t.Context())
		if attest.CheckOf(err) != "tpm" || !strings.Contains(asError(err).Hint, hint) || !strings.Contains(err.Error(), strings.TrimPrefix(path, "unix:")) {
			t.Errorf("%s: %v (hint %q)", path, err, asError(err).Hint)
		}
	}
}
