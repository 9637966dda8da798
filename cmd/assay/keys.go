package main

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

// keyName says what kind of public key it is.
func keyName(k any) string {
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return "RSA " + strconv.Itoa(k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", k)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// measurementOrder sorts names so that pcr2 comes before pcr10.
func measurementOrder(m map[string]attest.Bytes) []string {
	number := func(s string) (string, int) {
		word := strings.TrimRight(s, "0123456789")
		n, err := strconv.Atoi(s[len(word):])
		if err != nil {
			n = -1
		}
		return word, n
	}
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		wa, na := number(a)
		wb, nb := number(b)
		return cmp.Or(cmp.Compare(wa, wb), cmp.Compare(na, nb), cmp.Compare(a, b))
	})
}
