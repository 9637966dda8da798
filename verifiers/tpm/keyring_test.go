package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"math/big"
	"slices"
	"sync"
	"testing"
)

// Kinds of keys.
const (
	p256    = "P-256"
	p384    = "P-384"
	p521    = "P-521"
	rsa2048 = "RSA-2048"
	rsa1024 = "RSA-1024"
	roca    = "ROCA"
)

// keyring holds keys by kind and use: making RSA keys takes long, and no test
// changes one.
var keyring sync.Map

func keyOf(t testing.TB, kind, use string) crypto.Signer {
	t.Helper()
	once, _ := keyring.LoadOrStore(kind+"/"+use, sync.OnceValues(func() (crypto.Signer, error) {
		switch kind {
		case p256:
			return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		case p384:
			return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		case p521:
			return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		case rsa2048:
			return rsa.GenerateKey(rand.Reader, 2048)
		case rsa1024:
			return weakKey(512, rand.Prime)
		case roca:
			return weakKey(1024, rocaPrime)
		}
		return nil, errors.New("no such key: " + kind)
	}))
	k, err := once.(func() (crypto.Signer, error))()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// weakKey makes an RSA key that crypto/rsa would not.
func weakKey(bits int, prime func(rand io.Reader, bits int) (*big.Int, error)) (crypto.Signer, error) {
	for {
		p, err := prime(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		q, err := prime(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		one, n := big.NewInt(1), new(big.Int).Mul(p, q)
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		d := new(big.Int).ModInverse(big.NewInt(65537), phi)
		if d == nil || n.BitLen() != 2*bits {
			continue
		}
		return &textbook{rsa.PublicKey{N: n, E: 65537}, d}, nil
	}
}

// textbook signs with PKCS #1 v1.5, for keys that crypto/rsa does not sign with.
type textbook struct {
	public rsa.PublicKey
	d      *big.Int
}

func (k *textbook) Public() crypto.PublicKey { return &k.public }

func (k *textbook) Sign(_ io.Reader, sum []byte, _ crypto.SignerOpts) ([]byte, error) {
	// RFC 8017, section 9.2, for SHA-256.
	prefix := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
	em := slices.Repeat([]byte{0xff}, k.public.Size())
	em[0], em[1] = 0, 1
	tail := append(append([]byte{0}, prefix...), sum...)
	copy(em[len(em)-len(tail):], tail)
	return new(big.Int).Exp(new(big.Int).SetBytes(em), k.d, k.public.N).FillBytes(em), nil
}

// rocaPrime makes a prime as the key generator of CVE-2017-15361 did: k·M +
// (65537^a mod M), M the product of the first 126 primes.
func rocaPrime(random io.Reader, bits int) (*big.Int, error) {
	m, found := big.NewInt(1), 0
	for p := int64(2); found < 126; p++ {
		if big.NewInt(p).ProbablyPrime(20) {
			m.Mul(m, big.NewInt(p))
			found++
		}
	}
	span := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), uint(bits)), m)
	for {
		k, err := rand.Int(random, span)
		if err != nil {
			return nil, err
		}
		a, err := rand.Int(random, m)
		if err != nil {
			return nil, err
		}
		p := new(big.Int).Exp(big.NewInt(65537), a, m)
		p.Add(p, k.Mul(k, m))
		if p.BitLen() == bits && p.Bit(bits-2) == 1 && p.ProbablyPrime(20) {
			return p, nil
		}
	}
}
