package issuer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// What every platform must refuse, through the real sockets.

func TestEvidenceMadeOnOneConnectionIsRefusedOnAnother(t *testing.T) {
	o := open(t)
	// B's nonce, keys and purpose: only the connection is A's.
	a, b := o.attempt(o.connect()), o.attempt(o.connect())
	must(t, a.challenge())
	must(t, b.challenge())
	if a.bound.Exporter == b.bound.Exporter {
		t.Fatal("two connections have one exporter")
	}
	b.bound.Exporter = a.bound.Exporter
	b.attest()
	_, err := b.answer()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "binding_user_data")
}

func TestEvidenceForOneNonceIsRefusedForAnother(t *testing.T) {
	o := open(t)
	conn := o.connect()
	k := newKey(t, "")
	a, b := o.attempt(conn, k), o.attempt(conn, k)
	must(t, a.challenge())
	must(t, b.challenge())
	a.attest()
	b.evidence = a.evidence
	_, err := b.answer()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "binding_user_data")
}

func TestTheSameEvidenceIsRefusedTheSecondTime(t *testing.T) {
	o := open(t)
	conn := o.connect()
	k := newKey(t, "")
	a := o.attempt(conn, k)
	_, err := a.run()
	must(t, err)
	again := o.attempt(conn, k)
	must(t, again.challenge())
	again.evidence = a.evidence
	_, err = again.answer()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "binding_user_data")
}

func TestASecondAnswerInOneStreamIsNotRead(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect())
	must(t, a.challenge())
	a.attest()
	good := a.evidence
	a.bound.Nonce[0] ^= 1
	a.attest() // wrong first …
	msg := func(e *assayv1.Evidence) *assayv1.AttestRequest {
		return &assayv1.AttestRequest{Message: &assayv1.AttestRequest_Evidence{Evidence: e}}
	}
	must(t, a.stream.Send(msg(a.evidence)))
	_ = a.stream.Send(msg(good)) // … right second; the stream may have ended
	_, err := a.issued()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "binding_user_data")
}

func TestAKeyExchangedAfterTheEvidenceWasMadeIsRefused(t *testing.T) {
	o := open(t)
	// The second key: nothing in a Nitro document but the binding names it.
	mine, theirs := newKey(t, ""), newKey(t, "")
	a := o.attempt(o.connect(), newKey(t, ""), mine)
	a.hello.Keys[1].Csr = theirs.csr
	_, err := a.run()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "binding_user_data")
}

func TestTheOrderOfTheKeysIsBound(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect(), newKey(t, ""), newKey(t, ""), newKey(t, ""))
	a.hello.Keys[1], a.hello.Keys[2] = a.hello.Keys[2], a.hello.Keys[1]
	_, err := a.run()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "binding_user_data")
}

func TestACSRThatItsKeyDidNotSignIsRefused(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect())
	csr := append([]byte(nil), a.keys[0].csr...)
	// Inside s of the signature, the last number of the request.
	csr[len(csr)-1] ^= 1
	a.hello.Keys[0].Csr = csr
	wantRefusal(t, a.challenge(), codes.Unauthenticated, attest.Untrusted, "csr_signature")
}

func TestOneKeyInTwoCSRsIsRefused(t *testing.T) {
	o := open(t)
	k := newKey(t, "")
	again := keyOf(t, k.signer, "")
	wantRefusal(t, o.attempt(o.connect(), k, again).challenge(), codes.InvalidArgument, attest.Malformed, "duplicate_key")
}

func TestALateAnswerIsRefused(t *testing.T) {
	o := open(t)
	conn := o.connect()
	a := o.attempt(conn)
	must(t, a.challenge())
	a.attest()
	o.clock.Advance(61 * time.Second)
	_, err := a.answer()
	wantRefusal(t, err, codes.Aborted, attest.Stale, "deadline")

	inTime := o.attempt(conn)
	must(t, inTime.challenge())
	inTime.attest()
	o.clock.Advance(59 * time.Second)
	if _, err := inTime.answer(); err != nil {
		t.Errorf("one second before the deadline: %v", err)
	}
}

func TestOneWhoNeverAnswersIsNotWaitedFor(t *testing.T) {
	o := open(t)
	o.server.SetChallengeTTL(500 * time.Millisecond)
	a := o.attempt(o.connect())
	must(t, a.challenge())
	// gRPC itself answers for a Recv that has ended, without a Denied.
	if _, err := a.issued(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	eventually(t, "the refusal to be counted", func() bool {
		return o.counter(`assay_refusals_total{check="deadline",kind="stale",trust_domain="`+trustDomain+`"}`) == 1
	})
	eventually(t, "the place to be free", func() bool { return o.gauge("assay_unverified_in_flight") == 0 })
}

func TestEvidenceForAnotherChallengeIsRefused(t *testing.T) {
	o := open(t)
	conn := o.connect()
	for name, change := range map[string]func(c *attest.Challenge){
		"platform":     func(c *attest.Challenge) { c.Platform = attest.TPM2 },
		"trust domain": func(c *attest.Challenge) { c.TrustDomain = "simulated.elsewhere.example" },
		"server id":    func(c *attest.Challenge) { c.ServerID = "spiffe://" + trustDomain + "/assay/other" },
		"requested id": func(c *attest.Challenge) { c.Keys[0].RequestedID = reportsID },
		"purpose":      func(c *attest.Challenge) { c.Purpose = attest.Renew },
		"a key more":   func(c *attest.Challenge) { c.Keys = append(c.Keys, attest.BoundKey{SPKI: newKey(t, "").spki(t)}) },
	} {
		t.Run(name, func(t *testing.T) {
			a := o.attempt(conn, newKey(t, paymentsID))
			must(t, a.challenge())
			change(&a.bound)
			a.attest()
			_, err := a.answer()
			wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "binding_user_data")
		})
	}
}

func TestARenewalsEvidenceIsRefusedForABoot(t *testing.T) {
	o := open(t)
	conn := o.connect()
	r := o.renewal(conn, o.boot(conn))
	must(t, r.challenge())
	r.bound.Purpose = attest.Boot
	r.attest()
	r.prove() // over the binding of a boot
	_, err := r.answer()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "renewal_proof")
}

func TestAHelloThatIsNotInOrderIsRefused(t *testing.T) {
	o := open(t)
	conn := o.connect()
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(t, err)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	var many []*assayv1.KeyRequest
	for range 17 {
		many = append(many, &assayv1.KeyRequest{Csr: newKey(t, "").csr})
	}
	for _, c := range []struct {
		name   string
		change func(h *assayv1.Hello)
		check  string
	}{
		{"version 0", func(h *assayv1.Hello) { h.Version = 0 }, "protocol_version"},
		{"version 2", func(h *assayv1.Hello) { h.Version = 2 }, "protocol_version"},
		{"trust domain", func(h *assayv1.Hello) { h.TrustDomain = "example.org" }, "trust_domain"},
		{"no trust domain", func(h *assayv1.Hello) { h.TrustDomain = "" }, "trust_domain"},
		{"trust domain as an ID", func(h *assayv1.Hello) { h.TrustDomain = "spiffe://" + trustDomain }, "trust_domain"},
		{"unknown platform", func(h *assayv1.Hello) { h.Tee = "toaster" }, "platform"},
		{"platform not served", func(h *assayv1.Hello) { h.Tee = "tpm2" }, "platform"},
		{"no purpose", func(h *assayv1.Hello) { h.Purpose = 0 }, "purpose"},
		{"unknown purpose", func(h *assayv1.Hello) { h.Purpose = 7 }, "purpose"},
		{"no keys", func(h *assayv1.Hello) { h.Keys = nil }, "key_count"},
		{"17 keys", func(h *assayv1.Hello) { h.Keys = many }, "key_count"},
		{"no CSR", func(h *assayv1.Hello) { h.Keys[0].Csr = nil }, "csr_structure"},
		{"garbage CSR", func(h *assayv1.Hello) { h.Keys[0].Csr = []byte("garbage") }, "csr_structure"},
		{"trailing bytes", func(h *assayv1.Hello) { h.Keys[0].Csr = append(h.Keys[0].Csr, 0) }, "csr_structure"},
		{"large CSR", func(h *assayv1.Hello) { h.Keys[0].Csr = make([]byte, 5000) }, "csr_structure"},
		{"P-521", func(h *assayv1.Hello) { h.Keys[0].Csr = keyOf(t, p521, "").csr }, "csr_key_type"},
		{"RSA 1024", func(h *assayv1.Hello) { h.Keys[0].Csr = keyOf(t, short, "").csr }, "csr_key_type"},
		{"ID elsewhere", func(h *assayv1.Hello) { h.Keys[0].RequestedId = "spiffe://example.org/payments/api" }, "requested_id"},
		{"ID without path", func(h *assayv1.Hello) { h.Keys[0].RequestedId = "spiffe://" + trustDomain }, "requested_id"},
		{"ID of the service", func(h *assayv1.Hello) { h.Keys[0].RequestedId = serverID }, "requested_id"},
		{"ID of the service's root", func(h *assayv1.Hello) { h.Keys[0].RequestedId = "spiffe://" + trustDomain + "/assay" }, "requested_id"},
		{"no ID", func(h *assayv1.Hello) { h.Keys[0].RequestedId = "payments" }, "requested_id"},
		{"long ID", func(h *assayv1.Hello) {
			h.Keys[0].RequestedId = paymentsID + "/" + strings.Repeat("x", 128-len(paymentsID)-1)
		}, "requested_id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := o.attempt(conn)
			c.change(a.hello)
			wantRefusal(t, a.challenge(), codes.InvalidArgument, attest.Malformed, c.check)
		})
	}
	if _, err := o.attempt(conn).run(); err != nil {
		t.Errorf("a good attestation afterwards: %v", err)
	}
}

func TestMessagesOutOfOrderAreRefused(t *testing.T) {
	o := open(t)
	conn := o.connect()

	t.Run("evidence first", func(t *testing.T) {
		stream, err := assayv1.NewAttestationClient(conn).Attest(t.Context())
		must(t, err)
		must(t, stream.Send(&assayv1.AttestRequest{Message: &assayv1.AttestRequest_Evidence{Evidence: &assayv1.Evidence{}}}))
		_, err = stream.Recv()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "protocol_order")
	})
	t.Run("nothing", func(t *testing.T) {
		stream, err := assayv1.NewAttestationClient(conn).Attest(t.Context())
		must(t, err)
		must(t, stream.CloseSend())
		_, err = stream.Recv()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "protocol_order")
	})
	t.Run("hello twice", func(t *testing.T) {
		a := o.attempt(conn)
		must(t, a.challenge())
		must(t, a.stream.Send(&assayv1.AttestRequest{Message: &assayv1.AttestRequest_Hello{Hello: a.hello}}))
		_, err := a.issued()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "protocol_order")
	})
	t.Run("an empty message", func(t *testing.T) {
		a := o.attempt(conn)
		must(t, a.challenge())
		must(t, a.stream.Send(&assayv1.AttestRequest{}))
		_, err := a.issued()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "protocol_order")
	})
	t.Run("evidence of no platform", func(t *testing.T) {
		a := o.attempt(conn)
		must(t, a.challenge())
		a.evidence = &assayv1.Evidence{}
		_, err := a.answer()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "evidence_platform")
	})
	t.Run("too many endorsements", func(t *testing.T) {
		a := o.attempt(conn)
		must(t, a.challenge())
		a.attest()
		a.evidence.Endorsements = make([][]byte, 17)
		_, err := a.answer()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "endorsements")
	})
	t.Run("a message that is too large", func(t *testing.T) {
		a := o.attempt(conn)
		must(t, a.challenge())
		a.evidence = &assayv1.Evidence{Body: &assayv1.Evidence_Nitro{Nitro: &assayv1.NitroEvidence{Document: make([]byte, 65<<10)}}}
		_, err := a.answer()
		if status.Code(err) != codes.ResourceExhausted { // gRPC's own answer
			t.Errorf("got %v", err)
		}
		if n := o.counter(`assay_refusals_total{check="message_size",kind="malformed",trust_domain="` + trustDomain + `"}`); n != 1 {
			t.Errorf("counted %v times", n)
		}
	})
}

func TestARenewalNeedsItsProof(t *testing.T) {
	o := open(t)
	conn := o.connect()
	old := o.boot(conn)

	t.Run("none", func(t *testing.T) {
		r := o.renewal(conn, old)
		must(t, r.challenge())
		r.attest()
		_, err := r.answer()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "renewal")
	})
	t.Run("with a boot", func(t *testing.T) {
		r := o.renewal(conn, old)
		r.hello.Purpose = assayv1.Purpose_PURPOSE_BOOT
		_, err := r.run()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "renewal")
	})
	refused := func(name string, change func(t *testing.T, r *renewal)) {
		t.Run(name, func(t *testing.T) {
			r := o.renewal(conn, old)
			must(t, r.challenge())
			r.attest()
			r.prove()
			change(t, r)
			_, err := r.answer()
			wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "renewal_proof")
			// Which part of it, and what the ledger knows, is not for strangers.
			if msg := status.Convert(err).Message(); !strings.HasPrefix(msg, "renewal_proof: the proof does not hold; reference as-") {
				t.Errorf("the client is told %q", msg)
			}
		})
	}
	refused("no certificate", func(_ *testing.T, r *renewal) { r.evidence.Renewal.Certificate = nil })
	refused("no signature", func(_ *testing.T, r *renewal) { r.evidence.Renewal.Signature = nil })
	refused("large certificate", func(_ *testing.T, r *renewal) { r.evidence.Renewal.Certificate = make([]byte, 17<<10) })
	refused("another key's signature", func(t *testing.T, r *renewal) {
		r.old.key = newKey(t, "")
		r.prove()
	})
	refused("a signature for another challenge", func(_ *testing.T, r *renewal) {
		r.bound.Nonce[0] ^= 1
		r.prove()
	})
	refused("a self-signed certificate with the right names", func(t *testing.T, r *renewal) {
		r.old = selfSigned(t)
		r.prove()
	})
}

func TestARenewalWithTheOldKeyAmongTheNewIsRefused(t *testing.T) {
	o := open(t)
	conn := o.connect()
	old := o.boot(conn)
	r := &renewal{attempt: o.attempt(conn, newKey(t, ""), keyOf(t, old.key.signer, "")), old: old}
	r.hello.Purpose = assayv1.Purpose_PURPOSE_RENEW
	_, err := r.run()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "renewal_proof")
}

func TestAnExpiredSVIDRenewsNothing(t *testing.T) {
	o := open(t)
	conn := o.connect()
	old := o.boot(conn)
	r := o.renewal(conn, old)
	// Only the SVID is too old: evidence of the new time is at hand.
	o.clock.Advance(time.Until(old.leaf.NotAfter) + time.Second)
	must(t, r.challenge())
	r.document.Timestamp = o.clock.Now()
	r.attest()
	r.prove()
	_, err := r.answer()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "renewal_proof")
}

// selfSigned is an SVID that nobody issued.
// One key certified under two names would be two workloads to some relying
// parties and one to others.
func TestAKeyThatHasAnSVIDIsNotCertifiedAgain(t *testing.T) {
	o := open(t)
	first := newKey(t, paymentsID)
	_, err := o.attempt(o.connect(), first).run()
	must(t, err)
	second := keyOf(t, first.signer, reportsID)
	for range 2 {
		_, err = o.attempt(o.connect(), second).run()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "duplicate_key")
	}
	if o.ledger.Stats().Size != 1 {
		t.Errorf("%d entries, want 1", o.ledger.Stats().Size)
	}
}

func selfSigned(t *testing.T) identity {
	t.Helper()
	k := newKey(t, "")
	u, err := url.Parse(paymentsID)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{trustDomain}}, URIs: []*url.URL{u},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.signer.Public(), k.signer)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return identity{k, leaf}
}

// A denial says that policy said no, and nothing else: not which rule, and not
// whether an identity exists.
func TestADenialIsNotAnOracle(t *testing.T) {
	o := open(t)
	conn := o.connect()
	answers := map[string]string{}
	refs := map[string]bool{}
	for name, change := range map[string]func(a *attempt){
		"another image":                func(a *attempt) { a.launch.Image.PCR0 = a.launch.Image.PCR2 },
		"another role":                 func(a *attempt) { a.launch.Role += "x" },
		"debug":                        func(a *attempt) { a.launch.Debug = true },
		"an ID that is not granted":    func(a *attempt) { a.keys[0].want = "spiffe://" + trustDomain + "/other" },
		"one ID granted, one not":      func(a *attempt) { a.keys[1].want = "spiffe://" + trustDomain + "/other" },
		"another image, with an ID":    func(a *attempt) { a.keys[0].want = paymentsID; a.launch.Image.PCR0 = a.launch.Image.PCR2 },
		"another image, with a bad ID": func(a *attempt) { a.keys[0].want = "spiffe://" + trustDomain + "/other"; a.launch.Role = "" },
	} {
		a := o.attempt(conn, newKey(t, ""), newKey(t, ""))
		change(a)
		for i, k := range a.keys {
			a.hello.Keys[i].RequestedId = k.want
		}
		_, err := a.run()
		wantRefusal(t, err, codes.PermissionDenied, attest.Denied, "policy")
		d := denied(t, err)
		if refs[d.GetReference()] {
			t.Error("one reference twice")
		}
		refs[d.GetReference()] = true
		answers[strings.ReplaceAll(status.Convert(err).Message(), d.GetReference(), "REF")] = name

		// The operator finds all of it under the reference.
		item, err := o.ledger.Get(t.Context(), d.GetReference())
		must(t, err)
		if item.Entry.Outcome != "denied" || len(item.Entry.Decision.Workloads) != 1 || len(item.Entry.Decision.Workloads[0].Rules) < 3 {
			t.Errorf("%s: on record: %+v", name, item.Entry.Decision)
		}
	}
	if len(answers) != 1 {
		t.Errorf("denials differ: %v", answers)
	}
}

func TestADeniedOrRefusedAttestationIssuesNothing(t *testing.T) {
	o := open(t)
	conn := o.connect()
	before := o.ledger.Stats().Size
	a := o.attempt(conn)
	a.launch.Debug = true
	_, err := a.run()
	wantRefusal(t, err, codes.PermissionDenied, attest.Denied, "policy")
	b := o.attempt(conn)
	must(t, b.challenge())
	b.bound.Nonce[1] ^= 1
	b.attest()
	_, err = b.answer()
	wantRefusal(t, err, codes.Unauthenticated, attest.Untrusted, "binding_user_data")
	if after := o.ledger.Stats().Size; after != before {
		t.Errorf("the chain grew from %d to %d", before, after)
	}
}
