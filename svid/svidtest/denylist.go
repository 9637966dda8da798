package svidtest

import (
	"testing"
	"time"

	"github.com/assay-project/assay/svid"
)

// DenyList signs a deny-list of the authority, as its server would publish it.
// TrustDomain is filled in; so are a sequence of 1 and an hour from now on where
// there is none.
func (a *Authority) DenyList(t testing.TB, d svid.Denials) []byte {
	t.Helper()
	d.TrustDomain = a.TrustDomain
	if d.Sequence == 0 {
		d.Sequence = 1
	}
	if d.IssuedAt.IsZero() {
		d.IssuedAt = a.Now()
	}
	if d.NextUpdate.IsZero() {
		d.NextUpdate = d.IssuedAt.Add(time.Hour)
	}
	// The key signs lists alone: a new one each time, which the list brings along.
	key := NewKey(t)
	keys, err := svid.SignDenyListKeys(&svid.VerifierKeys{
		TrustDomain: a.TrustDomain, Sequence: d.Sequence, IssuedAt: d.IssuedAt, NextUpdate: d.NextUpdate,
		Keys: []svid.VerifierKey{{Key: &key.PublicKey, NotBefore: d.IssuedAt.Add(-time.Hour), NotAfter: d.NextUpdate}},
	}, a.verifierRoot)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := d.Sign(key, keys)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}
