package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/keys"
)

// ServerPath is the path of the server's own SPIFFE ID.
const ServerPath = "/assay/server"

// ServerID is the SPIFFE ID of every server of the trust domain.
func (c *CA) ServerID() spiffeid.ID { return spiffeid.RequireFromPath(c.td, ServerPath) }

// ServerCertificate is the TLS certificate of the server: for
// tls.Config.GetCertificate. It reads no file. The check of its error:
//
//	server_certificate  there is one, and it has not ended
func (c *CA) ServerCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert := c.server.Load()
	if cert == nil || !c.cfg.Now().Before(cert.Leaf.NotAfter) {
		return nil, fault("server_certificate", errors.New("the server's TLS certificate has ended"),
			"put the bootstrap root's key back into the keys directory: it is renewed by itself")
	}
	return cert, nil
}

// renewServer makes a new TLS certificate when half of the time of the old one
// is over. Key and certificate are kept in one file, replaced in one step, so
// that a server restarts while the bootstrap root's key is offline. The checks:
//
//	bootstrap-root          the key in the ring is that of bootstrap-root.pem
//	bootstrap_root_missing  no certificate is good any more, and the root's key is not there
//	bootstrap_root_expired  the root itself has ended
func (c *CA) renewServer(ctx context.Context, at stops, warn func(string, ...any)) error {
	now := c.cfg.Now()
	path := filepath.Join(KeysPath(c.cfg.DataDir), serverFile)
	current, problem := c.readServer(path, now)
	if problem == nil {
		c.server.Store(current)
		if now.Before(middle(current.Leaf.NotBefore, current.Leaf.NotAfter)) {
			return nil
		}
	}
	if err := c.bootstrapEnded(now); err != nil {
		return err
	}
	root, err := c.root(ctx, bootstrapRootKey, c.bootstrapRoot.PublicKey)
	if err != nil {
		if problem == nil && errors.Is(err, fs.ErrNotExist) {
			warn("the server's TLS certificate ends at %s, and the bootstrap root's key is not there to renew it", current.Leaf.NotAfter.Format(time.RFC3339))
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fault("bootstrap_root_missing", fmt.Errorf("the server has no TLS certificate that is good now: %w", errors.Join(problem, err)),
				"put the bootstrap root's key back into the keys directory, start the server once, and take it offline again")
		}
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fault("server_certificate", err, "")
	}
	notAfter := now.UTC().Add(c.cfg.ServerTTL)
	if notAfter.After(c.bootstrapRoot.NotAfter) {
		notAfter = c.bootstrapRoot.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber:          randomSerial(),
		Subject:               pkix.Name{Organization: []string{c.td.Name()}, CommonName: "Assay server"},
		NotBefore:             later(now.UTC().Add(-maxBackdate), c.bootstrapRoot.NotBefore).Truncate(time.Second),
		NotAfter:              notAfter.Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{c.ServerID().URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.bootstrapRoot, key.Public(), root)
	if err != nil {
		return fault("server_certificate", err, "")
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fault("server_certificate", err, "")
	}
	body := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if err := keys.WriteFile(path, body, 0o600, keys.Replace); err != nil {
		return err
	}
	if err := at("server file"); err != nil {
		return err
	}
	made, err := c.readServer(path, now)
	if err != nil {
		return err
	}
	c.server.Store(made)
	c.log.Info("ca: made a TLS certificate for the server", slog.Time("not_after", made.Leaf.NotAfter))
	return nil
}

// bootstrapEnded says so if the bootstrap root has ended.
func (c *CA) bootstrapEnded(now time.Time) error {
	if now.Before(c.bootstrapRoot.NotAfter) {
		return nil
	}
	return fault("bootstrap_root_expired", fmt.Errorf("the bootstrap root ended at %s", c.bootstrapRoot.NotAfter.Format(time.RFC3339)),
		"agents need a new bootstrap root in their measured configuration")
}

// readServer reads the file and checks that agents would accept what is in it.
func (c *CA) readServer(path string, now time.Time) (*tls.Certificate, error) {
	bad := func(format string, args ...any) (*tls.Certificate, error) {
		return nil, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...))
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return bad("not a regular file that is closed to others (mode %v)", info.Mode())
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(body, body)
	if err != nil {
		return bad("%w", err)
	}
	leaf := cert.Leaf
	roots := x509.NewCertPool()
	roots.AddCert(c.bootstrapRoot)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return bad("%w", err)
	}
	if !now.Before(leaf.NotAfter) {
		return bad("it ended at %s", leaf.NotAfter.Format(time.RFC3339))
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != c.ServerID().String() {
		return bad("it is not for %s", c.ServerID())
	}
	if len(cert.Certificate) != 1 || !bytes.Equal(cert.Certificate[0], leaf.Raw) {
		return bad("it holds %d certificates, want 1", len(cert.Certificate))
	}
	return &cert, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
