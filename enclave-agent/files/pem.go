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

// numbered is the name of a file of the i-th identity: svid.pem of the first,
// svid.1.pem of the second.
func numbered(name, suffix string, i int) string {
	if i == 0 {
		return name + suffix
	}
	return fmt.Sprintf("%s.%d%s", name, i, suffix)
}

// maxDomainName keeps names of files below the 255 bytes that file systems have.
const maxDomainName = 240

// pems is the set of files for what is had; may is asked which identities are
// written.
func (m *material) pems(may func(int, *identity) bool) ([]File, error) {
	var out []File
	for i := range m.identities {
		id := &m.identities[i]
		if i == 0 || may(i, id) {
			out = append(out, File{Name: numbered("bundle", ".pem", i), Content: Certificates(id.bundle)})
		}
		if !may(i, id) {
			continue
		}
		key, err := PrivateKey(id.svid.PrivateKey)
		if err != nil {
			return nil, err
		}
		chain := Certificates(id.svid.Certificates)
		out = append(out,
			File{Name: numbered("svid", ".pem", i), Content: chain},
			File{Name: numbered("svid", ".key", i), Content: key, Secret: true},
			// For software that wants both in one file. They belong together whenever it is read.
			File{Name: numbered("svid-with-key", ".pem", i), Content: bytes.Join([][]byte{chain, key}, nil), Secret: true},
		)
	}
	for td, certs := range m.federated {
		if len(td) <= maxDomainName {
			out = append(out, File{Name: "federated." + td + ".pem", Content: Certificates(certs)})
		}
	}
	return out, nil
}
