package collateral

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// AMDKDS is AMD's Key Distribution Service.
const AMDKDS = "https://kdsintf.amd.com"

// Defaults of [KDSConfig], and bounds that cannot be changed.
const (
	DefaultTimeout  = 10 * time.Second
	DefaultBurst    = 4
	DefaultInterval = 10 * time.Second

	minPause  = time.Second      // the least that a Retry-After counts
	maxPause  = time.Hour        // and the most
	basePause = 5 * time.Second  // after the first failure; twice as long after each further one
	topPause  = 5 * time.Minute  // the most after failures
	noAfter   = 30 * time.Second // a 429 that does not say how long

	maxChainSize  = 64 << 10
	maxRedirects  = 3
	maxChainCerts = 4
)

// ErrNone says that there is no such thing: it is not held, and may not or
// cannot be fetched. It is not a failure of the source.
var ErrNone = errors.New("collateral: there is none")

// KDSConfig says where the KDS is and how much may be asked of it. AMD's limits
// requests to a few in a short time for each address.
type KDSConfig struct {
	URL       string            // "" = AMDKDS; plain HTTP is for loopback only
	Timeout   time.Duration     // of one request, body and all; 0 = DefaultTimeout
	Burst     int               // requests at once; 0 = DefaultBurst
	Interval  time.Duration     // one further request for each; 0 = DefaultInterval
	Transport http.RoundTripper // nil = TLS 1.2 or later, through the environment's proxy
	Now       func() time.Time  // nil = time.Now
}

// KDS is a client of a Key Distribution Service. It checks only that answers have
// the right size: whether they are what was asked for, and true, is for
// [Cache] to say.
//
// It asks for nothing while the KDS wants to be left alone (429 and 503, with
// their Retry-After) or fails (longer each time), and never more than its rate.
// All errors but [ErrNone] are of kind Unavailable.
type KDS struct {
	base    *url.URL
	client  *http.Client
	timeout time.Duration
	now     func() time.Time
	bucket  *rate.Limiter

	mu       sync.Mutex
	failures int       // in a row
	until    time.Time // no request before
	requests uint64
	failed   uint64
	limited  uint64 // refused for want of a token
	paused   uint64 // refused during a pause
}

// NewKDS makes a client. It opens no connection.
func NewKDS(c KDSConfig) (*KDS, error) {
	if c.URL == "" {
		c.URL = AMDKDS
	}
	base, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("collateral: KDS: %w", err)
	}
	switch {
	case base.Scheme != "https" && base.Scheme != "http" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("collateral: KDS URL %q: want https://HOST[:PORT][/PATH]", c.URL)
	case base.Scheme == "http" && !loopback(base.Hostname()):
		return nil, fmt.Errorf("collateral: KDS URL %q: plain HTTP is accepted on this machine only (127.0.0.1, ::1, localhost)", c.URL)
	case c.Timeout < 0 || c.Burst < 0 || c.Interval < 0:
		return nil, errors.New("collateral: KDS: a limit is negative")
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Burst == 0 {
		c.Burst = DefaultBurst
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Transport == nil {
		c.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: c.Timeout}).DialContext,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: c.Timeout,
			ResponseHeaderTimeout: c.Timeout, MaxResponseHeaderBytes: 16 << 10,
			MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
		}
	}
	return &KDS{
		base: base, timeout: c.Timeout, now: c.Now, bucket: rate.NewLimiter(rate.Every(c.Interval), c.Burst),
		client: &http.Client{Transport: c.Transport, CheckRedirect: sameHost},
	}, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// sameHost follows redirects within the host that was asked, over the same
// scheme, and no others.
func sameHost(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) > maxRedirects || r.URL.Host != first.Host || r.URL.Scheme != first.Scheme {
		return fmt.Errorf("a redirect to %s://%s is not followed", r.URL.Scheme, r.URL.Host)
	}
	return nil
}

// VCEK fetches the certificate of a chip's key (publication 57230, section 4.1).
func (k *KDS) VCEK(ctx context.Context, key sevsnp.Key) ([]byte, error) {
	w, ok := want(key)
	if !ok || w.signingKey != sevsnp.VCEK {
		return nil, ErrNone
	}
	q := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", w.tcb.Bootloader, w.tcb.TEE, w.tcb.SNP, w.tcb.Microcode)
	if w.tcb.FMC != nil {
		q = fmt.Sprintf("fmcSPL=%02d&", *w.tcb.FMC) + q
	}
	b, err := k.get(ctx, w.slot, fmt.Sprintf("%x", w.hwid), q, maxCertificateSize)
	if err != nil {
		return nil, err
	}
	certs, err := certificates(b)
	if err != nil || len(certs) != 1 {
		return nil, k.wrong("the answer is not one certificate")
	}
	return certs[0], nil
}

// Chain fetches a product line's ASK (signingKey "vcek") or ASVK ("vlek") and its
// ARK, in the KDS's order (section 4.2).
func (k *KDS) Chain(ctx context.Context, product, signingKey string) ([][]byte, error) {
	b, err := k.get(ctx, slot{product, signingKey}, "cert_chain", "", maxChainSize)
	if err != nil {
		return nil, err
	}
	certs, err := certificates(b)
	if err != nil || len(certs) == 0 || len(certs) > maxChainCerts {
		return nil, k.wrong("the answer is not a certificate chain")
	}
	return certs, nil
}

// CRL fetches the CRL of a product line's ARK for its ASK and VCEKs, or for its
// ASVK and VLEKs (section 4.3).
func (k *KDS) CRL(ctx context.Context, product, signingKey string) ([]byte, error) {
	b, err := k.get(ctx, slot{product, signingKey}, "crl", "", maxCRLSize)
	if err != nil {
		return nil, err
	}
	if p, _ := pem.Decode(b); p != nil {
		b = p.Bytes
	}
	return b, nil
}

// certificates splits DER, or PEM with nothing but certificates.
func certificates(b []byte) ([][]byte, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN ")) {
		return [][]byte{b}, nil
	}
	var out [][]byte
	for {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil {
			return out, nil
		}
		if p.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %.40q", p.Type)
		}
		out = append(out, p.Bytes)
	}
}

// pause is how long no request may be made, 0 if one may be made now.
func (k *KDS) pause() time.Duration {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	return max(0, k.until.Sub(now))
}

// spare reports whether a request may be made now and one more after it: what
// runs on a schedule leaves the last token to a request that somebody waits
// for.
func (k *KDS) spare() bool {
	return k.pause() == 0 && k.bucket.TokensAt(k.now()) >= float64(min(2, k.bucket.Burst()))
}

// get makes one request. The path below /SIGNINGKEY/v1/PRODUCT is last, and the
// answer has at most limit bytes.
func (k *KDS) get(ctx context.Context, at slot, last, query string, limit int64) ([]byte, error) {
	if err := k.admit(); err != nil {
		return nil, err
	}
	u := k.base.JoinPath(at.signingKey, "v1", amdName(at.product), last)
	u.RawQuery = query
	own, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(own, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, k.wrong(err.Error())
	}
	r.Header.Set("User-Agent", "assay")
	resp, err := k.client.Do(r)
	if err != nil {
		return nil, k.lost(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		return nil, k.asked(resp)
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusBadRequest:
		k.good()
		return nil, ErrNone
	default:
		return nil, k.wrong(fmt.Sprintf("it answered %s", resp.Status))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, k.lost(ctx, err)
	case int64(len(b)) > limit:
		return nil, k.wrong(fmt.Sprintf("it answered with more than %d bytes", limit))
	case len(b) == 0:
		return nil, k.wrong("its answer is empty")
	}
	k.good()
	return b, nil
}

// admit takes a token, or refuses at once: whoever waits in a request must not
// wait for a rate.
func (k *KDS) admit() error {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.until.Sub(now); d > 0 {
		k.paused++
		return unavailable(fmt.Sprintf("it is left alone for another %s, after it failed or asked for that", d.Round(time.Second)))
	}
	if !k.bucket.AllowN(now, 1) {
		k.limited++
		return unavailable("the limit on requests is reached")
	}
	k.requests++
	return nil
}

func (k *KDS) good() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failures = 0
}

// wrong notes a failure: the pause doubles with each one in a row, half of it
// random, so that servers do not come back all at once.
func (k *KDS) wrong(why string) error {
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed++
	d := basePause << min(k.failures, 10)
	d = jitter(min(d, topPause), 0.5)
	k.failures++
	if t := now.Add(d); t.After(k.until) {
		k.until = t
	}
	return unavailable(why)
}

// lost is a request without an answer. One that its own caller gave up is no
// fault of the KDS.
func (k *KDS) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &attest.Error{Kind: attest.Unavailable, Check: "kds", Err: fmt.Errorf("nobody waits for the KDS any more: %w", ctx.Err())}
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL, which names the chip
	}
	return k.wrong(err.Error())
}

// asked is a 429 or 503 that says how long to wait (RFC 9110, section 10.2.3).
func (k *KDS) asked(resp *http.Response) error {
	now := k.now()
	d := noAfter
	after := resp.Header.Get("Retry-After")
	if s, err := strconv.ParseInt(after, 10, 32); err == nil {
		d = time.Duration(s) * time.Second
	} else if t, err := http.ParseTime(after); err == nil {
		d = t.Sub(now)
	}
	d = min(max(d, minPause), maxPause)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed++
	if t := now.Add(d); t.After(k.until) {
		k.until = t
	}
	return unavailable(fmt.Sprintf("it answered %s: no request for %s", resp.Status, d.Round(time.Second)))
}

func unavailable(why string) error {
	return &attest.Error{Kind: attest.Unavailable, Check: "kds", Err: fmt.Errorf("the key distribution service: %s", why), Hint: "try again later"}
}

// jitter takes up to a part of d away.
func jitter(d time.Duration, part float64) time.Duration {
	return d - time.Duration(rand.Float64()*part*float64(d)) //nolint:gosec // spreads load, keeps no secret
}
