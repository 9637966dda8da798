package svid

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// defaultChains bounds the memory of a source: about 100 bytes an entry.
const defaultChains = 4096

// window is when all certificates of one path to an authority are valid.
type window struct{ from, to time.Time }

// chains remembers which chains end in which authorities. Of what x509svid.Verify
// checks, only the time can differ between two calls with the same certificates and
// the same bundle, byte for byte. So an entry is kept under a digest of all of them
// and holds the windows of the paths that were found; at a time outside of them
// everything is verified again. An authority that is withdrawn, or one that is
// added, makes another digest.
type chains = memory[[]window]

// chainKey covers the peer's certificates and the bundle. Each is a certificate's
// DER, which carries its own length; the counts keep the two lists apart.
func chainKey(chain []*x509.Certificate, bundle *x509bundle.Bundle) [32]byte {
	h := sha256.New()
	var n [8]byte
	authorities := bundle.X509Authorities()
	for _, list := range [][]*x509.Certificate{chain, authorities} {
		binary.BigEndian.PutUint64(n[:], uint64(len(list)))
		h.Write(n[:])
		for _, c := range list {
			binary.BigEndian.PutUint64(n[:], uint64(len(c.Raw)))
			h.Write(n[:])
			h.Write(c.Raw)
		}
	}
	h.Write([]byte(bundle.TrustDomain().Name()))
	return [32]byte(h.Sum(nil))
}

// windowsOf are those of the paths that a verification has found.
func windowsOf(paths [][]*x509.Certificate) []window {
	out := make([]window, 0, len(paths))
	for _, path := range paths {
		var w window
		for i, c := range path {
			if i == 0 || c.NotBefore.After(w.from) {
				w.from = c.NotBefore
			}
			if i == 0 || c.NotAfter.Before(w.to) {
				w.to = c.NotAfter
			}
		}
		if len(path) > 0 {
			out = append(out, w)
		}
	}
	return out
}

// within tells whether one of the windows is open at the time, by the comparison
// that crypto/x509 makes.
func within(windows []window, at time.Time) bool {
	for _, w := range windows {
		if !at.Before(w.from) && !at.After(w.to) {
			return true
		}
	}
	return false
}
