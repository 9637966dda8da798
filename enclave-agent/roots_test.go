package agent

import (
	"encoding/pem"
	"testing"
	"time"
)

func TestBootstrapRootsAreCACertificatesInPEM(t *testing.T) {
	t.Parallel()
	a, b := newAuthority(t, "a"), newAuthority(t, "b")
	if r, err := ParseBootstrapRoots(append(a.pem(), b.pem()...)); err != nil || r.Len() != 2 {
		t.Errorf("%d roots, %v", r.Len(), err)
	}
	var many []byte
	for range maxRoots + 1 {
		many = append(many, a.pem()...)
	}
	for name, in := range map[string][]byte{
		"nothing":     nil,
		"no PEM":      []byte("hello"),
		"a key":       pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
		"noise":       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"a leaf":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.serverLeaf(t, nil).Certificate[0]}),
		"a key after": append(a.pem(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})...),
		"too many":    many,
	} {
		if r, err := ParseBootstrapRoots(in); err == nil {
			t.Errorf("%s: accepted %d roots", name, r.Len())
		}
	}
}

func TestABootstrapRootNamesItsTrustDomain(t *testing.T) {
	t.Parallel()
	r := newAuthority(t, "a").roots(t)
	if td, err := r.TrustDomain(); err != nil || td != testDomain {
		t.Errorf("%s, %v", td, err)
	}
	if n := len(r.Expired(time.Now())); n != 0 {
		t.Errorf("%d expired", n)
	}
	if n := len(r.Expired(time.Now().Add(48 * time.Hour))); n != 1 {
		t.Errorf("%d expired in two days", n)
	}
}

func FuzzBootstrapRoots(f *testing.F) {
	f.Add(newAuthority(f, "a").pem())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseBootstrapRoots(b)
		if (err == nil) != (r.Len() > 0) {
			t.Errorf("%d roots and %v", r.Len(), err)
		}
		_, _ = r.TrustDomain()
	})
}
