package collateral_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

// pointedCRL is a CRL of Milan's ARK with an issuing distribution point.
func (w *world) pointedCRL(t testing.TB, number int64, point string) []byte {
	t.Helper()
	wrap := func(class, tag int, content []byte) []byte {
		b, err := asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: tag != 6, Bytes: content})
		check(t, err)
		return b
	}
	value := wrap(0, 16, wrap(2, 0, wrap(2, 0, wrap(2, 6, []byte(point)))))
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		SignatureAlgorithm: x509.SHA384WithRSAPSS, Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: value}},
	}, w.authority.Chain(simsnp.Milan).ARK, arkKey(t, "milan"))
	check(t, err)
	return der
}

func TestTheCRLOfTheOtherIssuerDoesNotKeepTheTrueOneOut(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	chain := w.authority.Chain(simsnp.Milan)
	points := map[string]string{"vcek": chain.ASK.CRLDistributionPoints[0], "vlek": chain.ASVK.CRLDistributionPoints[0]}
	for own, other := range map[string]string{"vcek": "vlek", "vlek": "vcek"} {
		dir := t.TempDir()
		c := w.cache(t, dir)
		if _, _, err := c.PutCRL("milan", own, w.pointedCRL(t, 100, points[other])); err == nil || !strings.Contains(err.Error(), "distribution point") {
			t.Errorf("the CRL of milan %s as that of %s: %v, want a refusal that names the distribution point", other, own, err)
		}
		if f := files(t, dir); len(f) != 0 {
			t.Errorf("files: %q", f)
		}
		if _, stored, err := c.PutCRL("milan", own, w.pointedCRL(t, 7, points[own])); err != nil || !stored {
			t.Errorf("the true CRL of milan %s: stored %t, %v", own, stored, err)
		}
	}
}
