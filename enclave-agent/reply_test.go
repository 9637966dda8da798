package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// attestWith attests once at the server, without an agent around it.
func attestWith(t *testing.T, s *faultyServer, change func(*attestation)) (*issuance, error) {
	t.Helper()
	a, err := New(s.config(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := a.members[0].server.dial(s.address, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	try := &attestation{td: testDomain, serverID: a.members[0].server.id, attester: a.cfg.Attester, time: a.members[0].time, keyType: P256, ids: []string{""}}
	if change != nil {
		change(try)
	}
	return try.run(context.Background(), l)
}

func TestAGoodReplyIsAccepted(t *testing.T) {
	s := newFaultyServer(t)
	s.start()
	is, err := attestWith(t, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := is.svids[0].id.String(); got != s.ids[0] {
		t.Errorf("got %s", got)
	}
	life := time.Until(is.svids[0].notAfter())
	if lo, hi := time.Until(is.renewAfter), time.Until(is.renewBefore); lo < life*44/100 || hi > life*56/100 || hi <= lo {
		t.Errorf("renewal between %s and %s of %s, want 45 to 55 %%", lo, hi, life)
	}
}

func TestEveryReplyThatIsNonsenseIsRefusedByItsCheck(t *testing.T) {
	issued := func(f func(*assayv1.Issued)) func(*faultyServer) {
		return func(s *faultyServer) { s.issue = func(m *assayv1.AttestResponse) { f(m.GetIssued()) } }
	}
	challenge := func(f func(*assayv1.Challenge)) func(*faultyServer) {
		return func(s *faultyServer) { s.challenge = func(m *assayv1.AttestResponse) { f(m.GetChallenge()) } }
	}
	certify := func(f func(*x509.Certificate)) func(*faultyServer) {
		return func(s *faultyServer) { s.certify = func(_ int, c *x509.Certificate) { f(c) } }
	}
	named := func(id string) func(*faultyServer) {
		return func(s *faultyServer) { s.ids[0] = id }
	}
	for _, c := range []struct {
		name, check string
		fault       func(*faultyServer)
	}{
		{"SVIDs before a challenge", "reply_order", func(s *faultyServer) {
			s.challenge = func(m *assayv1.AttestResponse) {
				m.Message = &assayv1.AttestResponse_Issued{Issued: &assayv1.Issued{}}
			}
		}},
		{"an empty message", "reply_order", func(s *faultyServer) { s.challenge = func(m *assayv1.AttestResponse) { m.Message = nil } }},
		{"a second challenge", "reply_order", func(s *faultyServer) {
			s.issue = func(m *assayv1.AttestResponse) {
				m.Message = &assayv1.AttestResponse_Challenge{Challenge: &assayv1.Challenge{Nonce: make([]byte, 32)}}
			}
		}},
		{"more after the SVIDs", "reply_order", func(s *faultyServer) {
			s.after = func() *assayv1.AttestResponse { return &assayv1.AttestResponse{} }
		}},
		{"a short nonce", "challenge_nonce", challenge(func(c *assayv1.Challenge) { c.Nonce = c.Nonce[:31] })},
		{"a nonce of zeros", "challenge_nonce", challenge(func(c *assayv1.Challenge) { c.Nonce = make([]byte, 32) })},
		{"no time", "challenge_time", challenge(func(c *assayv1.Challenge) { c.TimeUnixMs = 0 })},
		{"a time after the server's certificate", "challenge_time", challenge(func(c *assayv1.Challenge) {
			c.TimeUnixMs += (2 * time.Hour).Milliseconds()
			c.DeadlineUnixMs += (2 * time.Hour).Milliseconds()
		})},
		{"a deadline in the past", "challenge_deadline", challenge(func(c *assayv1.Challenge) { c.DeadlineUnixMs = c.TimeUnixMs - 1 })},
		{"a deadline far away", "challenge_deadline", challenge(func(c *assayv1.Challenge) { c.DeadlineUnixMs = c.TimeUnixMs + (time.Hour).Milliseconds() })},
		{"no SVID", "issued_count", issued(func(i *assayv1.Issued) { i.Svids = nil })},
		{"more SVIDs than keys", "issued_count", issued(func(i *assayv1.Issued) { i.Svids = append(i.Svids, i.Svids[0]) })},
		{"a key index that was not sent", "issued_key_index", issued(func(i *assayv1.Issued) { i.Svids[0].Key = 1 })},
		{"a huge key index", "issued_key_index", issued(func(i *assayv1.Issued) { i.Svids[0].Key = 1<<32 - 1 })},
		{"no chain", "issued_chain", issued(func(i *assayv1.Issued) { i.Svids[0].Chain = nil })},
		{"a chain of noise", "issued_chain", issued(func(i *assayv1.Issued) { i.Svids[0].Chain = [][]byte{{1, 2, 3}} })},
		{"a chain without end", "issued_chain", issued(func(i *assayv1.Issued) {
			for len(i.Svids[0].Chain) < 9 {
				i.Svids[0].Chain = append(i.Svids[0].Chain, i.Svids[0].Chain[0])
			}
		})},
		{"another key", "issued_key", func(s *faultyServer) {
			s.issue = func(m *assayv1.AttestResponse) {
				key := must(P256.generate())
				m.GetIssued().Svids[0].Chain[0] = must(s.ca.sign(leafTemplate(s.ids[0], time.Hour), key.Public()))
			}
		}},
		{"a CA certificate", "issued_leaf", certify(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })},
		{"a certificate that signs certificates", "issued_leaf", certify(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })},
		{"a certificate that signs nothing", "issued_leaf", certify(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })},
		{"two names", "issued_id", certify(func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: testDomain.Name(), Path: "/b"})
		})},
		{"no name", "issued_id", certify(func(c *x509.Certificate) { c.URIs = nil })},
		{"another name than it says", "issued_id", issued(func(i *assayv1.Issued) { i.Svids[0].SpiffeId += "x" })},
		{"a name in another trust domain", "issued_id", named("spiffe://other.example.org/orders")},
		{"a name without path", "issued_id", named("spiffe://" + testDomain.Name())},
		{"a name of the service", "issued_id", named("spiffe://" + testDomain.Name() + "/assay/server")},
		{"a name that is no SPIFFE ID", "issued_id", named("https://" + testDomain.Name() + "/orders")},
		{"an expired SVID", "issued_validity", func(s *faultyServer) { s.life = -time.Second }},
		{"an SVID for a year", "issued_validity", func(s *faultyServer) { s.life = 365 * 24 * time.Hour }},
		{"an SVID that begins tomorrow", "issued_validity", certify(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(25*time.Hour)
		})},
		{"another end than it says", "issued_validity", issued(func(i *assayv1.Issued) { i.Svids[0].NotAfterUnixMs += 1000 })},
		{"no bundle", "bundle", issued(func(i *assayv1.Issued) { i.Bundle = nil })},
		{"a bundle of another trust domain", "bundle_trust_domain", issued(func(i *assayv1.Issued) { i.Bundle.TrustDomain = "other.example.org" })},
		{"a bundle without authorities", "bundle_authorities", issued(func(i *assayv1.Issued) { i.Bundle.X509Authorities = nil })},
		{"a bundle of noise", "bundle_authorities", issued(func(i *assayv1.Issued) { i.Bundle.X509Authorities[0] = []byte{0x30} })},
		{"a bundle of leaves", "bundle_authorities", issued(func(i *assayv1.Issued) { i.Bundle.X509Authorities[0] = i.Svids[0].Chain[0] })},
		{"a bundle that did not sign the SVID", "issued_trust", func(s *faultyServer) {
			other := newAuthority(s.t, "other")
			s.issue = func(m *assayv1.AttestResponse) { m.GetIssued().Bundle.X509Authorities[0] = other.cert.Raw }
		}},
		{"a renewal after the end", "issued_renewal", issued(func(i *assayv1.Issued) {
			i.RenewAfterUnixMs, i.RenewBeforeUnixMs = time.Now().UnixMilli(), i.Svids[0].NotAfterUnixMs+1
		})},
		{"a renewal window the wrong way round", "issued_renewal", issued(func(i *assayv1.Issued) {
			i.RenewAfterUnixMs, i.RenewBeforeUnixMs = time.Now().Add(time.Minute).UnixMilli(), time.Now().Add(time.Second).UnixMilli()
		})},
		{"a renewal in the past", "issued_renewal", issued(func(i *assayv1.Issued) { i.RenewAfterUnixMs, i.RenewBeforeUnixMs = 1, 2 })},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newFaultyServer(t)
			c.fault(s)
			s.start()
			is, err := attestWith(t, s, nil)
			wantCheck(t, err, attest.Untrusted, c.check)
			if is != nil {
				t.Error("an error and a result")
			}
		})
	}
}

func TestAnotherNameThanAskedForIsRefused(t *testing.T) {
	s := newFaultyServer(t)
	s.start()
	_, err := attestWith(t, s, func(a *attestation) { a.ids = []string{"spiffe://" + testDomain.Name() + "/inventory"} })
	wantCheck(t, err, attest.Untrusted, "issued_requested_id")
}

func TestSVIDsOutOfOrderAreRefused(t *testing.T) {
	s := newFaultyServer(t)
	s.ids = append(s.ids, "spiffe://"+testDomain.Name()+"/inventory")
	s.issue = func(m *assayv1.AttestResponse) {
		sv := m.GetIssued().Svids
		sv[0], sv[1] = sv[1], sv[0]
	}
	s.start()
	_, err := attestWith(t, s, func(a *attestation) { a.ids = []string{"", ""} })
	wantCheck(t, err, attest.Untrusted, "issued_key_index")
}

func TestOnlyAServerUnderThePinnedRootIsSpokenTo(t *testing.T) {
	for _, c := range []struct {
		name, check string
		kind        attest.Kind
		leaf        func(s *faultyServer) tls.Certificate
	}{
		{"of a foreign root", "server_chain", attest.Untrusted, func(s *faultyServer) tls.Certificate {
			return newAuthority(s.t, "bootstrap").serverLeaf(s.t, nil)
		}},
		{"under the CA of SVIDs", "server_chain", attest.Untrusted, func(s *faultyServer) tls.Certificate { return s.ca.serverLeaf(s.t, nil) }},
		{"expired", "server_chain", attest.Stale, func(s *faultyServer) tls.Certificate {
			return s.bootstrap.serverLeaf(s.t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
		}},
		{"for clients only", "server_chain", attest.Untrusted, func(s *faultyServer) tls.Certificate {
			return s.bootstrap.serverLeaf(s.t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		}},
		{"of a workload", "server_id", attest.Untrusted, func(s *faultyServer) tls.Certificate {
			return s.bootstrap.serverLeaf(s.t, func(c *x509.Certificate) { c.URIs[0].Path = "/orders" })
		}},
		{"of another trust domain", "server_id", attest.Untrusted, func(s *faultyServer) tls.Certificate {
			return s.bootstrap.serverLeaf(s.t, func(c *x509.Certificate) { c.URIs[0].Host = "other.example.org" })
		}},
		{"with a second name", "server_id", attest.Untrusted, func(s *faultyServer) tls.Certificate {
			return s.bootstrap.serverLeaf(s.t, func(c *x509.Certificate) {
				c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: testDomain.Name(), Path: "/x"})
			})
		}},
		{"with a DNS name alone", "server_id", attest.Untrusted, func(s *faultyServer) tls.Certificate {
			return s.bootstrap.serverLeaf(s.t, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{testDomain.Name()} })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newFaultyServer(t)
			s.leaf = c.leaf(s)
			s.start()
			_, err := attestWith(t, s, nil)
			wantCheck(t, err, c.kind, c.check)
			if n := len(s.heard()); n != 0 {
				t.Errorf("it was told %d Hellos", n)
			}
		})
	}
}

func TestTheNextBootstrapRootIsAccepted(t *testing.T) {
	s := newFaultyServer(t)
	s.start()
	cfg := s.config(t)
	cfg.BootstrapRoots = must(newAuthority(t, "current").roots(t).Add(s.bootstrap.roots(t)))
	a := must(New(cfg))
	l := must(a.members[0].server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	if _, err := a.members[0].attestOnce(context.Background(), l); err != nil {
		t.Fatal(err)
	}
}

func TestAServerOfTLS12IsRefused(t *testing.T) {
	s := newFaultyServer(t)
	trust := must(newServerTrust(testDomain, s.bootstrap.roots(t), time.Now))
	if v := trust.tlsConfig(nil).MinVersion; v != tls.VersionTLS13 {
		t.Errorf("MinVersion %s", tls.VersionName(v))
	}
	good := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{must(x509.ParseCertificate(s.leaf.Certificate[0]))}}
	if err := trust.verify(good); err != nil {
		t.Fatal(err)
	}
	old := good
	old.Version = tls.VersionTLS12
	wantCheck(t, trust.verify(old), attest.Untrusted, "server_tls_version")
	anonymous := good
	anonymous.PeerCertificates = nil
	wantCheck(t, trust.verify(anonymous), attest.Untrusted, "server_certificate")
}

func TestTheRefusalOfAServerIsReportedInItsWords(t *testing.T) {
	s := newFaultyServer(t)
	s.refuse = func(*assayv1.Hello) *assayv1.Denied {
		return &assayv1.Denied{Kind: "denied", Check: "policy", Reference: "as-abcdefghij", RetryAfterMs: 1 << 62}
	}
	s.start()
	_, err := attestWith(t, s, nil)
	wantCheck(t, err, attest.Denied, "policy")
	if want := "the server refused: denied, check policy, reference as-abcdefghij"; err.Error() != want {
		t.Errorf("got %q", err)
	}
	if d := retryAfter(err, &backoff{}); d < maxRetryAfter || d > 2*maxRetryAfter {
		t.Errorf("waits %s when asked to wait for ever", d)
	}
}

func FuzzReply(f *testing.F) {
	s := newFaultyServer(f)
	k := must(newKeyRequest(P256, ""))
	good := must(s.issued(&assayv1.Hello{Keys: []*assayv1.KeyRequest{{Csr: k.csr}}}))
	f.Add(must(marshal(good)))
	f.Add(must(marshal(&assayv1.AttestResponse{Message: &assayv1.AttestResponse_Challenge{Challenge: &assayv1.Challenge{Nonce: make([]byte, 32), TimeUnixMs: 1, DeadlineUnixMs: 2}}})))
	leaf := must(x509.ParseCertificate(s.leaf.Certificate[0]))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m assayv1.AttestResponse
		if unmarshal(b, &m) != nil {
			return
		}
		if d, err := checkChallenge(&m, leaf); err == nil && (d.nonce == attest.Nonce{} || d.lifetime <= 0) {
			t.Errorf("accepted %+v", d)
		}
		is, err := checkIssued(&m, testDomain, []keyRequest{k}, time.Now())
		if (is == nil) == (err == nil) {
			t.Errorf("result %v and error %v", is, err)
		}
		if is != nil && is.svids[0].id.TrustDomain() != testDomain {
			t.Errorf("accepted %s", is.svids[0].id)
		}
	})
}

func TestAnErrorIsOfTheAttemptThatFailed(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.leaf = newAuthority(t, "bootstrap").serverLeaf(t, nil)
	s.start()
	a := must(New(s.config(t)))
	l := must(a.members[0].server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	_, err := a.members[0].attestOnce(context.Background(), l)
	wantCheck(t, err, attest.Untrusted, "server_chain")
	s.stop()
	eventually(t, "the absence of the server is what is reported", func() bool {
		_, err := a.members[0].attestOnce(context.Background(), l)
		return attest.KindOf(err) == attest.Unavailable && attest.CheckOf(err) == "server"
	})
}
