package sevsnp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rsa"
	"crypto/sha512"
	"errors"
	"fmt"
	"strings"

	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// rsaBits is the size of AMD's root and signing keys.
const rsaBits = 4096

// The roles of a product line's long-lived keys.
const (
	roleARK  = "ark"  // the root
	roleASK  = "ask"  // signs VCEK certificates
	roleASVK = "asvk" // signs VLEK certificates
)

// foreignLine is the file name of somebody else's keys, for faults.
const foreignLine = "foreign"

// keyFile is where a line's key is, "milan-ark.key".
func keyFile(line, role string) string { return strings.ToLower(line) + "-" + role + ".key" }

// certificateFile is where its certificate is, "milan-ark.pem".
func certificateFile(line, role string) string { return strings.ToLower(line) + "-" + role + ".pem" }

// nextKey takes one of AMD's keys off the beginning of a file's content.
func nextKey(content []byte) (key *rsa.PrivateKey, rest []byte, err error) {
	k, rest, err := keyfile.Key(content)
	if err != nil {
		return nil, nil, err
	}
	key, ok := k.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() != rsaBits {
		return nil, nil, fmt.Errorf("want an RSA key of %d bits", rsaBits)
	}
	return key, rest, nil
}

// deriveKey makes the P-384 key of a VCEK or VLEK from a secret of the
// authority, as a chip derives its own from a fused secret and the TCB: the same
// input gives the same key, in every process that opens the same authority.
func deriveKey(secret []byte, info string) (*ecdsa.PrivateKey, error) {
	for i := range 8 { // a scalar out of range has probability 2^-190
		b, err := hkdf.Key(sha512.New384, secret, nil, fmt.Sprintf("assay simulated AMD-SP\x00%d\x00%s", i, info), 48)
		if err != nil {
			return nil, fmt.Errorf("sevsnp: deriving a key: %w", err)
		}
		if k, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), b); err == nil {
			return k, nil
		}
	}
	return nil, errors.New("sevsnp: no key can be derived")
}
