package tpm

import (
	"crypto/rsa"
	"math/big"
)

// rocaPrimes are the primes that divide the modulus M of the smallest affected
// key size, and so of every larger one: M is a primorial.
var rocaPrimes = [...]uint64{
	3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
}

// rocaWeak reports whether an RSA modulus has the fingerprint of the key
// generator of CVE-2017-15361, which many TPMs had: its primes are
// k·M + (65537^a mod M), so that the modulus is a power of 65537 modulo each
// prime that divides M (Nemec, Sys, Svenda, Klinec, Matyas: "The Return of
// Coppersmith's Attack", CCS 2017, section 2.2). A sound key has the fingerprint
// with a probability of 2^-27.
func rocaWeak(k *rsa.PublicKey) bool {
	m := new(big.Int)
	for _, p := range rocaPrimes {
		rest := m.Mod(k.N, new(big.Int).SetUint64(p)).Uint64()
		if !powerOf65537(rest, p) {
			return false
		}
	}
	return true
}

// powerOf65537 reports whether n is a power of 65537 modulo p.
func powerOf65537(n, p uint64) bool {
	for power, x := uint64(0), uint64(1); power < p; power++ {
		if x == n {
			return true
		}
		x = x * 65537 % p
	}
	return false
}
