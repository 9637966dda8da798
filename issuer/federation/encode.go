package federation

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
)

// jwkSet is a SPIFFE bundle document.
type jwkSet struct {
	Keys        []jose.JSONWebKey `json:"keys"` // an empty array and never null: a bundle without keys says so
	Sequence    *uint64           `json:"spiffe_sequence,omitempty"`
	RefreshHint *int64            `json:"spiffe_refresh_hint,omitempty"`
}

// Encode makes the document of a bundle: X.509 authorities in their order, then JWT
// authorities by key ID, so that the same bundle is the same bytes everywhere.
func Encode(b *spiffebundle.Bundle) ([]byte, error) {
	set := jwkSet{Keys: []jose.JSONWebKey{}}
	for _, c := range b.X509Authorities() {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: c.PublicKey, Certificates: []*x509.Certificate{c}, Use: "x509-svid"})
	}
	set.Keys = append(set.Keys, jwtKeys(b)...)
	if n, ok := b.SequenceNumber(); ok {
		set.Sequence = &n
	}
	if d, ok := b.RefreshHint(); ok {
		s := int64((d + time.Second - 1) / time.Second)
		set.RefreshHint = &s
	}
	return encode(set)
}

// EncodeJWT makes a JWK Set of the bundle's JWT authorities alone, as in its
// document; nil without any.
func EncodeJWT(b *spiffebundle.Bundle) ([]byte, error) {
	set := jwkSet{Keys: jwtKeys(b)}
	if len(set.Keys) == 0 {
		return nil, nil
	}
	return encode(set)
}

func jwtKeys(b *spiffebundle.Bundle) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	all := b.JWTAuthorities()
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out = append(out, jose.JSONWebKey{Key: all[id], KeyID: id, Use: "jwt-svid"})
	}
	return out
}

func encode(set jwkSet) ([]byte, error) {
	doc, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("federation: encoding a bundle: %w", err)
	}
	return doc, nil
}

// sorted orders bundles by trust domain.
func sorted(list []*spiffebundle.Bundle) []*spiffebundle.Bundle {
	slices.SortFunc(list, func(a, b *spiffebundle.Bundle) int {
		return cmp.Compare(a.TrustDomain().Name(), b.TrustDomain().Name())
	})
	return list
}
