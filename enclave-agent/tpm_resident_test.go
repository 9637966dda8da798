package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/enclave-agent/agentclient"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

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
	a.members[0].plan.advance(a.members[0].time.now())
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
		if at.Restricted || at.Decrypt || !at.SignEncrypt || !at.STClear || !at.FixedTPM || !at.FixedParent || !at.SensitiveDataOrigin {
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
	a.members[0].state.mu.Lock()
	a.members[0].state.svids[0].selectors = []*assayv1.Selector{{Type: "unix:uid", Value: "1"}}
	a.members[0].state.publish()
	a.members[0].state.mu.Unlock()
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

// One user asks for signatures without end, another's come; and that a caller left is
// no failure of the TPM.
func TestOneUserTakesNotAllSignatures(t *testing.T) {
	t.Parallel()
	m, s := newTPM2(t), newTPMServer(t)
	cfg := s.agent(t, m.attester(TPMOptions{}), TPMKeys)
	var logs lockedBuffer
	cfg.Log = slog.New(slog.NewTextHandler(&logs, nil))
	a, _ := runAgent(t, cfg)
	id := identitiesOf(t, a).GetIdentities()[0].GetSpiffeId()
	api := newAgentAPI(&workloadAPI{held: a.holdings, gate: newGatekeeper(cfg.Processes, cfg.Log), crowd: newCrowd()}, a)
	sign := func(uid uint32, within time.Duration) codes.Code {
		ctx, cancel := context.WithTimeout(as(context.Background(), uid), within)
		defer cancel()
		_, err := api.Sign(ctx, &agentv1.SignRequest{SpiffeId: id, HashAlgorithm: agentv1.HashAlgorithm_HASH_ALGORITHM_SHA256, Digest: make([]byte, 32)})
		return status.Code(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					sign(4711, time.Duration(1+i%8)*time.Millisecond)
				}
			}
		})
	}
	for i := range 10 {
		if c := sign(4712, 20*time.Second); c != codes.OK {
			t.Errorf("another user's signature %d: %s", i, c)
		}
		time.Sleep(60 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	if strings.Contains(logs.String(), "a signature with a key in the TPM failed") {
		t.Error("a caller that left is in the log as a failure of the TPM")
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
	key := a.members[0].state.renewable().key
	m.reset()
	sum := sha256.Sum256(nil)
	_, err := key.Sign(nil, sum[:], crypto.SHA256)
	wantCheck(t, err, attest.Stale, checkKeyGone)
	a.members[0].plan.advance(a.members[0].time.now())
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

// Root suspends the TPM and boots something else, which keeps the NULL hierarchy's
// seed and the TPM's resetCount. The agent's key ends all the same.
func TestKeysInTheTPMEndWithARestartThatKeepsTheirSeed(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	device := m.attester(TPMOptions{})
	key := must(device.NewKey(t.Context()))
	sum := sha256.Sum256(nil)
	if _, err := key.Sign(nil, sum[:], crypto.SHA256); err != nil {
		t.Fatal(err)
	}
	seed := func() (name []byte) {
		m.do(func(s *tpmSession) error {
			k, err := s.createPrimary(tpm2.TPMRHNull, akTemplate(TPMP256))
			name = k.name.Buffer
			return err
		})
		return name
	}
	before := seed()
	m.do(func(s *tpmSession) error {
		_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUState}.Execute(s)
		return err
	})
	m.reset()
	if !bytes.Equal(before, seed()) {
		t.Fatal("the seed is another: this was no TPM Restart")
	}
	_, err := key.Sign(nil, sum[:], crypto.SHA256)
	wantCheck(t, err, attest.Stale, checkKeyGone)
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
	good.Server = "127.0.0.1:8443"
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
