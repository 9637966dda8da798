package issuer_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// present shakes hands with a client certificate, opens HTTP/2, and reports
// whether the server kept the connection.
func (o *office) present(t *testing.T, own tls.Certificate) (kept bool) {
	t.Helper()
	cfg := o.tlsClient(own)
	cfg.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", o.addr, cfg)
	if err != nil {
		return false
	}
	defer conn.Close()
	// The server's part of the handshake is over when it answers the preface.
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return false
	}
	must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = conn.Read(make([]byte, 9))
	return err == nil
}

// TestAClientCertificateThatIsTooLargeIsRefusedBeforeItIsKept: what a stranger
// shows in the handshake stays in memory for the life of the connection, and a
// parsed certificate can be fifty times as large as its bytes.
func TestAClientCertificateThatIsTooLargeIsRefusedBeforeItIsKept(t *testing.T) {
	o := open(t)
	refused := func(limit string) float64 {
		return o.counter(`assay_admission_refused_total{limit="` + limit + `",trust_domain="` + trustDomain + `",what="handshake"}`)
	}
	k := newKey(t, "")
	base := func() *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	}
	make := func(tmpl *x509.Certificate) tls.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.signer.Public(), k.signer)
		must(t, err)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.signer}
	}
	names := func(n int) tls.Certificate {
		var body []byte
		for range n {
			body = append(body, 0x86, 2, 'a', ':')
		}
		san, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: body})
		must(t, err)
		tmpl := base()
		tmpl.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}
		return make(tmpl)
	}
	few := selfSigned(t).certificate()
	many := few
	for range 4 {
		many.Certificate = append(many.Certificate, few.Certificate[0])
	}
	policies := base()
	for i := range 500 {
		policies.Policies = append(policies.Policies, oid(t, uint64(i)))
	}
	usages := base()
	for i := range 500 {
		usages.UnknownExtKeyUsage = append(usages.UnknownExtKeyUsage, asn1.ObjectIdentifier{1, 3, i})
	}
	subject := base()
	for i := range 200 {
		subject.Subject.ExtraNames = append(subject.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{1, 2, i}, Value: "a"})
	}
	large := base()
	large.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 35}, Value: bytesOf(10 << 10)}}
	for name, tt := range map[string]struct {
		own   tls.Certificate
		limit string // "" = kept
	}{
		"258 kB of names":          {names(64_500), "bytes"},
		"12 kB of names":           {names(3000), "certificate"},
		"five certificates":        {many, "certificate"},
		"500 policies":             {make(policies), "certificate"},
		"500 usages":               {make(usages), "certificate"},
		"200 attributes in a name": {make(subject), "certificate"},
		"a large known extension":  {make(large), "certificate"},
		"a self-signed one":        {few, ""},
		"an SVID":                  {o.boot(o.connect()).certificate(), ""},
	} {
		before := refused(tt.limit)
		if kept := o.present(t, tt.own); kept != (tt.limit == "") {
			t.Errorf("%s: kept %t", name, kept)
		}
		if tt.limit != "" {
			eventually(t, name+" to be counted", func() bool { return refused(tt.limit) == before+1 })
		}
	}
	if _, err := o.attempt(o.connect()).run(); err != nil {
		t.Errorf("an attestation afterwards: %v", err)
	}
}

func oid(t *testing.T, n uint64) x509.OID {
	t.Helper()
	o, err := x509.OIDFromInts([]uint64{1, 3, n})
	must(t, err)
	return o
}

func bytesOf(n int) []byte { return []byte(strings.Repeat("x", n)) }

// TestTheLargestSVIDIsNotTooLargeForAHandshake: a policy may publish much, and
// keys may be long.
func TestTheLargestSVIDIsNotTooLargeForAHandshake(t *testing.T) {
	o := open(t)
	live := o.boot(o.connect())
	k, err := rsa.GenerateKey(rand.Reader, 4096)
	must(t, err)
	u, err := url.Parse(paymentsID)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{u}, NotBefore: live.leaf.NotBefore, NotAfter: live.leaf.NotAfter,
		KeyUsage: live.leaf.KeyUsage, ExtKeyUsage: live.leaf.ExtKeyUsage, BasicConstraintsValid: true, Subject: live.leaf.Subject, SubjectKeyId: live.leaf.SubjectKeyId,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 35}, Value: bytesOf(4096 + 64)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	must(t, err)
	if !o.present(t, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}) {
		t.Errorf("a certificate of %d bytes is refused", len(der))
	}
}

// TestAConnectionEndsWithTheSVIDThatItWasOpenedWith: streams end with the SVID
// and say so; then the connection is closed.
func TestAConnectionEndsWithTheSVIDThatItWasOpenedWith(t *testing.T) {
	o := open(t)
	o.server.SetClosingGrace(300 * time.Millisecond)
	live := o.boot(o.connect())
	o.clock.Advance(time.Until(live.leaf.NotAfter) - time.Second)
	before := o.gauge("assay_connections")
	w, err := o.watch(live.certificate())
	must(t, err)
	if _, err := w.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the watch: %v, want an end with OK", err)
	}
	eventually(t, "the connection to be closed", func() bool { return o.gauge("assay_connections") == before })
}

// TestAConnectionWithoutALiveSVIDIsNotClosedForIt: an agent whose SVID has ended
// attests again, whatever certificate it shows.
func TestAConnectionWithoutALiveSVIDIsNotClosedForIt(t *testing.T) {
	o := open(t)
	o.server.SetClosingGrace(0)
	live := o.boot(o.connect())
	o.clock.Advance(time.Until(live.leaf.NotAfter) + time.Second)
	conn := o.connect(live.certificate())
	for range 2 {
		a := o.attempt(conn)
		a.document.Timestamp = o.clock.Now()
		if _, err := a.run(); err != nil {
			t.Error(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	w, err := assayv1.NewAttestationClient(conn).Watch(t.Context(), &assayv1.WatchRequest{})
	must(t, err)
	if _, err := w.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a watch with it: %v", err)
	}
}
