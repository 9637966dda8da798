package issuer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// administrators is a trust domain of administrators, with its authority.
type administrators struct {
	t    testing.TB
	td   string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAdministratorsOf(t testing.TB, td string) *administrators {
	t.Helper()
	a := &administrators{t: t, td: td}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	u := &url.URL{Scheme: "spiffe", Host: td}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	return a
}

func (a *administrators) bundle() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *administrators) id(name string) string { return "spiffe://" + a.td + "/" + name }

// svid is an administrator's.
func (a *administrators) svid(name string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	u, err := url.Parse(a.id(name))
	must(a.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	must(a.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// administered is a house whose trust domains listen for administrators.
type administered struct {
	*house
	at map[string]string
}

// administer adds the section administration; roles is YAML.
func (h *administered) administer(name string, who *administrators, roles string) {
	h.t.Helper()
	if h.at[name] == "" {
		h.at[name] = freeAddress(h.t)
	}
	h.write(filepath.Join(h.data(name), "admins.pem"), who.bundle())
	var kept []string
	for line := range strings.Lines(h.read(h.file(name))) {
		if !strings.HasPrefix(line, "administration:") {
			kept = append(kept, line)
		}
	}
	h.write(h.file(name), strings.Join(kept, "")+fmt.Sprintf("administration: {listen: %q, trust_domain: %s, bundle: admins.pem, roles: %s}\n", h.at[name], who.td, roles))
}

// status asks a trust domain's remote admin service, with a certificate or none.
func (h *administered) status(name string, own ...tls.Certificate) error {
	h.t.Helper()
	_, err := assayv1.NewAdminClient(h.remote(name, own...)).Status(h.t.Context(), &assayv1.StatusRequest{})
	return err
}

func (h *administered) remote(name string, own ...tls.Certificate) *grpc.ClientConn {
	h.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+h.at[name], grpc.WithTransportCredentials(credentials.NewTLS(h.office(name).tlsClient(own...))))
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestAnAdministratorOfOneTenantIsNobodyToAnother(t *testing.T) {
	h := &administered{newHouse(t, []string{first, second}), map[string]string{}}
	ofA, ofB := newAdministratorsOf(t, "admins.a.example"), newAdministratorsOf(t, "admins.b.example")
	h.administer(first, ofA, "{operator: ["+ofA.id("alice")+"]}")
	h.administer(second, ofB, "{operator: ["+ofB.id("bob")+"]}")
	h.start(first, second)
	alice, bob := ofA.svid("alice"), ofB.svid("bob")
	if err := h.status(first, alice); err != nil {
		t.Fatalf("at home: %v", err)
	}
	if err := h.status(second, bob); err != nil {
		t.Fatalf("at home: %v", err)
	}
	forged := newAdministratorsOf(t, ofB.td).svid("bob") // under an authority of that name, and not that one
	o := h.office(first)
	for name, own := range map[string][]tls.Certificate{
		"an operator of the other":           {alice},
		"a namesake under another authority": {forged},
		"a workload of the other":            {o.boot(o.connect()).certificate()},
		"a workload of one's own":            {h.office(second).boot(h.office(second).connect()).certificate()},
		"nobody":                             nil,
	} {
		if err := h.status(second, own...); err == nil {
			t.Errorf("%s is let in", name)
		} else if c := status.Code(err); c != codes.Unauthenticated && c != codes.PermissionDenied && c != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An administrator is no workload: the attestation service gives nothing for it.
	if _, err := o.watch(alice); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Watch with an administrator's SVID: %v", err)
	}
	h.stop()
}

// The same people may have roles in several trust domains: in each its own.
func TestARoleInOneTrustDomainIsNoneInAnother(t *testing.T) {
	h := &administered{newHouse(t, []string{first, second}), map[string]string{}}
	people := newAdministratorsOf(t, "admins.example")
	h.administer(first, people, "{operator: ["+people.id("alice")+"]}")
	h.administer(second, people, "{viewer: ["+people.id("alice")+"], operator: ["+people.id("bob")+"]}")
	h.start(first, second)
	alice, bob := people.svid("alice"), people.svid("bob")
	bans := 0
	ban := func(name string, own tls.Certificate) error {
		bans++ // each another one
		_, err := assayv1.NewAgentsClient(h.remote(name, own)).Ban(t.Context(), &assayv1.BanRequest{Who: &assayv1.BanRequest_SpiffeId{SpiffeId: fmt.Sprintf("spiffe://%s/x%d", name, bans)}, Reason: "test"})
		return err
	}
	if err := ban(first, alice); err != nil {
		t.Errorf("an operator: %v", err)
	}
	if err := h.status(second, alice); err != nil {
		t.Errorf("a viewer: %v", err)
	}
	if err := ban(second, alice); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an operator elsewhere, a viewer here: %v", err)
	}
	if err := h.status(first, bob); err == nil {
		t.Error("an operator elsewhere, nobody here, is let in")
	}

	// Roles are taken over while it runs.
	h.administer(first, people, "{operator: ["+people.id("bob")+"]}")
	h.hangup()
	h.said("the configuration was read again")
	if err := ban(first, alice); err == nil {
		t.Error("who lost the role has it")
	}
	if err := ban(first, bob); err != nil {
		t.Errorf("who got the role: %v", err)
	}
	// A bundle that cannot be read is refused, and with it all of the new file.
	h.administer(first, people, "{operator: ["+people.id("alice")+"]}")
	h.write(filepath.Join(h.data(first), "other.pem"), "no certificate\n")
	h.write(h.file(first), strings.Replace(h.read(h.file(first)), "bundle: admins.pem", "bundle: other.pem", 1))
	h.hangup()
	h.said("the configuration is refused", "nothing of it is in force")
	if err := ban(first, alice); err == nil {
		t.Error("half of a refused configuration is in force")
	}
	if err := ban(first, bob); err != nil {
		t.Errorf("the one before it is not: %v", err)
	}
	h.stop()
}
