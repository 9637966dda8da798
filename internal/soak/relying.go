package soak

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/svid"
)

// snapshot is what a relying party fetched at one time, from one of the servers.
type snapshot struct {
	at       time.Time
	from     string
	sequence uint64
	bundle   *x509bundle.Bundle
	source   svid.Source
}

// gatherBundles fetches what relying parties hold, once a second from each server
// that answers, until ctx ends.
func (r *run) gatherBundles(ctx context.Context) {
	answered := time.Now()
	for ctx.Err() == nil {
		for _, s := range r.servers {
			if !s.alive() {
				continue
			}
			snap, err := r.fetchBundle(ctx, s)
			if err != nil {
				continue // it is being killed, or started
			}
			answered = time.Now()
			r.mu.Lock()
			r.bundles = append(r.bundles, snap)
			for len(r.bundles) > 1 && snap.at.Sub(r.bundles[0].at) > propagation {
				r.bundles = r.bundles[1:]
			}
			r.mu.Unlock()
		}
		r.mu.Lock()
		r.report.Longest = max(r.report.Longest, time.Since(answered))
		r.mu.Unlock()
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

func (r *run) fetchBundle(ctx context.Context, s *server) (snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	began := time.Now()
	conn, err := grpc.NewClient("passthrough:///admin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.admin)
		}))
	if err != nil {
		return snapshot{}, err
	}
	defer func() { _ = conn.Close() }()
	resp, err := assayv1.NewAdminClient(conn).GetBundle(ctx, &assayv1.GetBundleRequest{})
	if err != nil {
		return snapshot{}, err
	}
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return snapshot{}, err
	}
	b := x509bundle.New(td)
	for _, der := range resp.GetBundle().GetX509Authorities() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return snapshot{}, err
		}
		b.AddX509Authority(c)
	}
	raw, err := os.ReadFile(filepath.Join(s.data, "verifier-root.pem"))
	if err != nil {
		return snapshot{}, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return snapshot{}, errors.New("the verifier root is no PEM")
	}
	root, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return snapshot{}, err
	}
	keys, err := svid.ParseVerifierKeys(resp.GetBundle().GetVerifierKeys(), root, time.Now())
	if err != nil {
		r.violated("verifier keys", "those of server %s are not good: %v", s.name, err)
		return snapshot{}, err
	}
	return snapshot{at: began, from: s.name, sequence: resp.GetBundle().GetSequence(), bundle: b, source: svid.NewSource(x509bundle.NewSet(b), keys)}, nil
}

// relyingParties are the oldest bundle that one may still hold, and the newest.
func (r *run) relyingParties(now time.Time) []snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bundles) == 0 {
		return nil
	}
	newest := r.bundles[len(r.bundles)-1]
	for _, s := range r.bundles {
		if now.Sub(s.at) <= relyingAge {
			return []snapshot{s, newest}
		}
	}
	return []snapshot{newest} // nothing was given out for that long: it is older than a relying party would hold
}

// met is what relying parties make of an SVID that they are shown.
func (r *run) met(n int, chain []*x509.Certificate, now time.Time) {
	parties := r.relyingParties(now)
	r.mu.Lock()
	r.serials[serialOf(chain[0])] = true
	r.signers[hex.EncodeToString(chain[0].AuthorityKeyId)] = true
	r.mu.Unlock()
	r.late(n, chain[0])
	for _, p := range parties {
		if err := p.verify(chain, now); err != nil {
			if r.excused(p, chain[0], now) {
				continue
			}
			r.violated("relying party", "SVID %s of agent %d (signed by %.8x, %s old) does not verify with the bundle (sequence %d, of server %s) of %s ago: %v",
				serialOf(chain[0]), n, chain[0].AuthorityKeyId, now.Sub(chain[0].NotBefore).Round(time.Second), p.sequence, p.from, now.Sub(p.at).Round(10*time.Millisecond), err)
			continue
		}
		r.mu.Lock()
		r.report.Checks++
		if now.Sub(p.at) <= relyingAge {
			r.report.Oldest = max(r.report.Oldest, now.Sub(p.at))
		}
		r.mu.Unlock()
	}
}

// verify is every way in which a relying party verifies.
func (s snapshot) verify(chain []*x509.Certificate, now time.Time) error {
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range s.bundle.X509Authorities() {
		pool.AddCert(c)
	}
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("crypto/x509: %w", err)
	}
	if _, _, err := x509svid.Verify(chain, s.bundle, x509svid.WithTime(now)); err != nil {
		return fmt.Errorf("go-spiffe: %w", err)
	}
	if _, err := svid.Verify(chain, s.source, now, svid.Simulated(), svid.Tee(attest.AWSNitro)); err != nil {
		return fmt.Errorf("svid: %w", err)
	}
	return nil
}
