package web

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
)

// lookEvery is how often the files are looked at, at most: in handshakes, so that
// nothing runs while nobody asks.
const lookEvery = 5 * time.Second

// maxPEM is far more than a chain needs, in bytes.
const maxPEM = 256 << 10

// Certificate is a certificate of the web's PKI in two PEM files, read again when
// one of them changes. What cannot be read leaves the one that was read before in
// use: files are replaced one after the other.
type Certificate struct {
	certFile, keyFile string
	now               func() time.Time
	log               *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	stamp   [2]stamp
	looked  time.Time
	failed  string // why the newest files cannot be used, as it was logged
}

// stamp tells one state of a file from another.
type stamp struct {
	at   time.Time
	size int64
	file fs.FileInfo
}

func (s stamp) same(o stamp) bool {
	return s.at.Equal(o.at) && s.size == o.size && os.SameFile(s.file, o.file)
}

// OpenCertificate reads the files. The checks:
//
//	web_certificate  both can be read and belong together
//	web_key          nobody but the owner and the group can read the key
//
// A certificate that has ended is served, loudly, until there is another: attestation
// must not wait for whoever renews it. [Certificate.Ended] tells.
func OpenCertificate(certFile, keyFile string, now func() time.Time, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, now: now, log: log}
	at, err := c.look()
	if err != nil {
		return nil, err
	}
	if c.current, err = c.read(); err != nil {
		return nil, err
	}
	if err := c.ended(c.current); err != nil {
		log.Error("web: the certificate has ended: nobody fetches anything until it is renewed", "error", err)
	}
	c.stamp, c.looked = at, now()
	return c, nil
}

// Ended is an error, by the check web_certificate, where the certificate in use is over.
func (c *Certificate) Ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended(c.current)
}

func (c *Certificate) ended(cert *tls.Certificate) error {
	if c.now().Before(cert.Leaf.NotAfter) {
		return nil
	}
	return fault("web_certificate", fmt.Errorf("%s ended at %s", c.certFile, cert.Leaf.NotAfter.UTC().Format(time.RFC3339)), "renew it")
}

// Get is for tls.Config.GetCertificate.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.looked) >= lookEvery || now.Before(c.looked) {
		c.looked = now
		c.reload()
	}
	return c.current, nil
}

// NotAfter is when the certificate in use ends.
func (c *Certificate) NotAfter() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current.Leaf.NotAfter
}

func (c *Certificate) reload() {
	at, err := c.look()
	if err == nil && at[0].same(c.stamp[0]) && at[1].same(c.stamp[1]) {
		c.failed = ""
		return
	}
	var next *tls.Certificate
	if err == nil {
		next, err = c.read()
	}
	if err == nil {
		err = c.ended(next)
	}
	if err != nil {
		if c.failed != err.Error() { // once, and not in every handshake
			c.failed = err.Error()
			c.log.Warn("web: the certificate changed and cannot be used, the one before stays", "error", c.failed)
		}
		return
	}
	c.current, c.stamp, c.failed = next, at, ""
	c.log.Info("web: new certificate", "not_after", next.Leaf.NotAfter)
}

func (c *Certificate) look() (at [2]stamp, err error) {
	for i, f := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(f)
		if err != nil {
			return [2]stamp{}, fault("web_certificate", err, "web.certificate and web.key name PEM files")
		}
		if i == 1 && info.Mode().Perm()&0o007 != 0 {
			return [2]stamp{}, fault("web_key", fmt.Errorf("%s can be read or written by everybody (mode %#o)", f, info.Mode().Perm()), "chmod 600 "+f)
		}
		at[i] = stamp{info.ModTime(), info.Size(), info}
	}
	return at, nil
}

func (c *Certificate) read() (*tls.Certificate, error) {
	var pem [2][]byte
	for i, f := range []string{c.certFile, c.keyFile} {
		var err error
		if pem[i], err = readBounded(f); err != nil {
			return nil, fault("web_certificate", err, "web.certificate and web.key name PEM files")
		}
	}
	cert, err := tls.X509KeyPair(pem[0], pem[1])
	if err != nil {
		return nil, fault("web_certificate", fmt.Errorf("%s and %s: %w", c.certFile, c.keyFile, err), "the first holds the chain, leaf first; the second the leaf's private key")
	}
	return &cert, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	var b bytes.Buffer
	if _, err := b.ReadFrom(io.LimitReader(f, maxPEM+1)); err != nil {
		return nil, err
	}
	if b.Len() > maxPEM {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxPEM)
	}
	return b.Bytes(), nil
}

func fault(check string, err error, hint string) error {
	if errors.Is(err, fs.ErrPermission) {
		hint = "the server's user must be able to read it"
	}
	return &attest.Error{Kind: attest.Internal, Check: check, Err: err, Hint: hint}
}
