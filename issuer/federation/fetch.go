package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
)

// Bounds of one fetch.
const (
	fetchTimeout   = 20 * time.Second // all of it, redirects included
	connectTimeout = 10 * time.Second
	maxRedirects   = 3
	maxHeader      = 16 << 10 // bytes
)

// fetcher gets documents. go-spiffe's federation.FetchBundle is not used: it reads
// without bound, takes every status for a bundle, follows any redirect, and checks
// SVIDs in a callback that TLS skips for sessions that are resumed.
type fetcher struct {
	now func() time.Time
	// dial reaches endpoints; nil is the network, where addresses count that are
	// public, and those of private.
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	private []netip.Prefix
	// systemRoots are the web's CAs where a relation names none; nil is the system's.
	systemRoots *x509.CertPool
	timeout     time.Duration // of all of it: fetchTimeout
}

// fetch gets the document at the relation's URL. bundles holds the trust domain of
// the endpoint's SPIFFE ID, for https_spiffe. The checks, beside the URL's:
//
//	endpoint_address      it is at a public address, or at one that the configuration names
//	endpoint_unreachable  the endpoint answers, in time
//	endpoint_certificate  it is the one that was named: host (https_web) or SPIFFE ID (https_spiffe)
//	endpoint_redirect     it redirects to few places, each a valid URL where the same is checked
//	endpoint_status       it answers with 200
//	bundle_size           with at most MaxDocument bytes
func (f fetcher) fetch(ctx context.Context, r *relation, bundles x509bundle.Source) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	network := &guarded{private: f.private}
	dial := f.dial
	if dial == nil {
		dial = network.dial
	}
	transport := &http.Transport{
		Proxy:                  network.proxy, // TLS goes through it
		DialContext:            dial,
		TLSClientConfig:        f.tls(r, bundles),
		TLSHandshakeTimeout:    connectTimeout,
		ResponseHeaderTimeout:  connectTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableKeepAlives:      true,
		DisableCompression:     true,                                                   // a few bytes would be many
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1: nothing is gained by more
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: redirect}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url.String(), http.NoBody)
	if err != nil {
		return nil, refused("endpoint_url", errors.New("not a URL"), "")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "assay")
	resp, err := client.Do(req)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode != http.StatusOK {
		return nil, unavailable("endpoint_status", fmt.Errorf("the endpoint answered with status %d", resp.StatusCode))
	}
	doc, err := io.ReadAll(io.LimitReader(resp.Body, MaxDocument+1))
	switch {
	case err != nil:
		return nil, explain(err)
	case len(doc) > MaxDocument:
		return nil, malformed("bundle_size", fmt.Errorf("more than %d bytes", MaxDocument))
	}
	return doc, nil
}

// redirect follows what the specification allows (SPIFFE Federation, sections
// 5.2.1.4 and 5.2.2.4). The next fetch begins at the configured URL again.
func redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return untrusted("endpoint_redirect", fmt.Errorf("more than %d redirects", maxRedirects))
	}
	if _, err := endpointURL(req.URL.String()); err != nil {
		return untrusted("endpoint_redirect", fmt.Errorf("the endpoint redirects to what is no endpoint: %w", errors.Unwrap(err)))
	}
	req.Header.Del("Referer")
	return nil
}

// tls authenticates the endpoint. No session is resumed, so that every connection
// is checked.
func (f fetcher) tls(r *relation, bundles x509bundle.Source) *tls.Config {
	// TLS 1.2 at least: SPIFFE Federation, section 5.2.
	c := &tls.Config{MinVersion: tls.VersionTLS12, Time: f.now, NextProtos: []string{"http/1.1"}}
	if r.profile == Web {
		if c.RootCAs = r.roots; c.RootCAs == nil {
			c.RootCAs = f.systemRoots
		}
		return c
	}
	c.InsecureSkipVerify = true // an SVID has no host name: VerifyConnection checks chain and SPIFFE ID
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		id, _, err := x509svid.Verify(cs.PeerCertificates, bundles, x509svid.WithTime(f.now()))
		switch {
		case err != nil:
			return untrusted("endpoint_certificate", err)
		case id != r.endpoint:
			return untrusted("endpoint_certificate", fmt.Errorf("the endpoint shows %.200q, want %s", id.String(), r.endpoint))
		}
		return nil
	}
	return c
}

// explain names what went wrong on the way.
func explain(err error) error {
	var own *attest.Error
	var verify *tls.CertificateVerificationError
	var host x509.HostnameError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &verify), errors.As(err, &host):
		return untrusted("endpoint_certificate", shorten(err))
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable("endpoint_unreachable", errors.New("no answer in time"))
	}
	return unavailable("endpoint_unreachable", shorten(err))
}

// shorten bounds what a stranger can have us log and store.
func shorten(err error) error {
	const most = 300
	if s := err.Error(); len(s) > most {
		return fmt.Errorf("%s…", s[:most])
	}
	return err
}

func untrusted(check string, err error) error {
	return &attest.Error{Kind: attest.Untrusted, Check: check, Err: err}
}

func unavailable(check string, err error) error {
	return &attest.Error{Kind: attest.Unavailable, Check: check, Err: err}
}
