package issuer_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// watch opens a watch with an SVID and reads its first event, the bundle.
func (o *office) watch(own ...tls.Certificate) (assayv1.Attestation_WatchClient, error) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	o.t.Cleanup(cancel)
	w, err := assayv1.NewAttestationClient(o.connect(own...)).Watch(ctx, &assayv1.WatchRequest{})
	must(o.t, err)
	e, err := w.Recv()
	if err != nil {
		return nil, err
	}
	if e.GetBundle().GetTrustDomain() != o.domain() {
		o.t.Errorf("the first event is %v, want the bundle", e)
	}
	return w, nil
}

func TestAWatchHearsOfAPolicyChange(t *testing.T) {
	o := open(t, func(c *config.Config) { c.ReattestSpread = 30 * time.Second })
	w, err := o.watch(o.boot(o.connect()).certificate())
	must(t, err)
	if o.gauge("assay_watches") != 1 {
		t.Error("the watch is not counted")
	}
	o.replacePolicy(strings.Replace(policyText(2), "30m", "31m", 1))
	e, err := w.Recv()
	must(t, err)
	r := e.GetReattest()
	if r.GetReason() != assayv1.Reattest_REASON_POLICY_CHANGED || r.GetWithinMs() != 30_000 {
		t.Errorf("got %v", e)
	}
}

func TestAWatchNeedsALiveSVID(t *testing.T) {
	o := open(t)
	live := o.boot(o.connect())
	for name, own := range map[string][]tls.Certificate{
		"none":         nil,
		"self-signed":  {selfSigned(t).certificate()},
		"not recorded": {o.unrecorded(live).certificate()},
	} {
		if _, err := o.watch(own...); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := o.watch(live.certificate()); err != nil {
		t.Errorf("the live one: %v", err)
	}
	o.clock.Advance(time.Until(live.leaf.NotAfter) + time.Second)
	if _, err := o.watch(live.certificate()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("expired: got %v", err)
	}
}

// A handshake is not a lease: the certificate is checked again in each call on
// a connection that was opened while it was live.
func TestALiveConnectionOutlivesNoSVID(t *testing.T) {
	o := open(t)
	live := o.boot(o.connect())
	conn := o.connect(live.certificate())
	open := func() error {
		w, err := assayv1.NewAttestationClient(conn).Watch(t.Context(), &assayv1.WatchRequest{})
		must(t, err)
		_, err = w.Recv()
		return err
	}
	must(t, open())
	o.clock.Advance(time.Until(live.leaf.NotAfter) + time.Second)
	if err := open(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
}

func TestAWatchEndsWithItsSVID(t *testing.T) {
	o := open(t)
	live := o.boot(o.connect())
	o.clock.Advance(time.Until(live.leaf.NotAfter) - time.Second)
	w, err := o.watch(live.certificate())
	must(t, err)
	if _, err := w.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want an end with OK", err)
	}
}

func TestAWatchEndsWhenTheServerStops(t *testing.T) {
	o := open(t)
	w, err := o.watch(o.boot(o.connect()).certificate())
	must(t, err)
	must(t, o.stop())
	if _, err := w.Recv(); !errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestACertificateThatTheLedgerDoesNotKnowRenewsNothing(t *testing.T) {
	o := open(t)
	conn := o.connect()
	r := o.renewal(conn, o.unrecorded(o.boot(conn)))
	_, err := r.run()
	d := denied(t, err)
	if d.GetCheck() != "renewal_proof" {
		t.Errorf("got %v", err)
	}
	if !contains(o.log.String(), "serial number is not in the ledger") {
		t.Error("the log does not say why")
	}
}

// unrecorded is what a thief of the CA's key could make: like the SVID in all
// but a serial number that the ledger never recorded.
func (o *office) unrecorded(like identity) identity {
	t := o.t
	t.Helper()
	files, err := filepath.Glob(filepath.Join(o.cfg.DataDir, "keys", "x509-ca-*.key"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("CA keys: %v", files)
	}
	src, err := os.ReadFile(files[0])
	must(t, err)
	block, _ := pem.Decode(src)
	signer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	k := newKey(t, "")
	tmpl := &x509.Certificate{
		SerialNumber: new(big.Int).Add(like.leaf.SerialNumber, big.NewInt(1)), Subject: like.leaf.Subject, URIs: like.leaf.URIs,
		NotBefore: like.leaf.NotBefore, NotAfter: like.leaf.NotAfter, KeyUsage: like.leaf.KeyUsage, ExtKeyUsage: like.leaf.ExtKeyUsage, BasicConstraintsValid: true,
	}
	authority := o.ca.Bundle().X509Authorities()[0]
	der, err := x509.CreateCertificate(rand.Reader, tmpl, authority, k.signer.Public(), signer.(crypto.Signer))
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return identity{k, leaf}
}
