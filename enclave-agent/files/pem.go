package files

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Certificates are certificates as PEM, in their order.
func Certificates(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

// PrivateKey is a key as PEM (PKCS#8, RFC 5958).
func PrivateKey(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// trustDomain is the name in an ID as the Workload API writes it, spiffe://NAME.
func trustDomain(id string) (string, error) {
	td, err := spiffeid.TrustDomainFromString(strings.TrimSuffix(id, "/"))
	if err != nil {
		return "", fmt.Errorf("a bundle of %q: %w", id, err)
	}
	return td.Name(), nil
}

// maxDomainName keeps names of files below the 255 bytes that file systems have.
const maxDomainName = 230

// pems is the set of files for what is had; may is asked which identities are
// written.
func (m *material) pems(may func(*identity) bool) ([]File, error) {
	var out []File
	count := map[string]int{}
	for i := range m.identities {
		id := &m.identities[i]
		td := id.svid.ID.TrustDomain().Name()
		if m.first == "" || td == m.first {
			td = ""
		}
		n := name{td: td, n: count[td]}
		count[td]++
		if len(td) > maxDomainName {
			continue
		}
		if n == (name{}) || may(id) {
			out = append(out, File{Name: n.of(bundleFile, ".pem"), Content: Certificates(id.bundle)})
		}
		if !may(id) {
			continue
		}
		key, err := PrivateKey(id.svid.PrivateKey)
		if err != nil {
			return nil, err
		}
		chain := Certificates(id.svid.Certificates)
		out = append(out,
			File{Name: n.of(svidFile, ".pem"), Content: chain},
			File{Name: n.of(svidFile, ".key"), Content: key, Secret: true},
			// For software that wants both in one file. They belong together whenever it is read.
			File{Name: n.of(bothFile, ".pem"), Content: bytes.Join([][]byte{chain, key}, nil), Secret: true},
		)
	}
	for td, certs := range m.federated {
		if len(td) <= maxDomainName {
			out = append(out, File{Name: "federated." + td + ".pem", Content: Certificates(certs)})
		}
	}
	return out, nil
}
