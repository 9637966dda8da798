package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// AMDKDS is AMD's key distribution service (KDS, publication 57230).
const AMDKDS = "https://kdsintf.amd.com"

const (
	kdsTimeout = 10 * time.Second
	// maxKDSBody is many times a certificate, which has about 1.4 KiB.
	maxKDSBody = 16 << 10
	// After a failure the KDS is left alone for a while; it may say for how long,
	// up to a limit.
	kdsPause    = 30 * time.Second
	maxKDSPause = 15 * time.Minute
)

// KDS fetches the certificate of the VCEK that signs this guest's reports, and
// keeps it in memory until the chip or its TCB changes. The certificate is not
// trusted for where it came from: it must fit the report before it is used, and
// the server verifies it.
type KDS struct {
	base   string
	client *http.Client
	now    func() time.Time

	mu    sync.Mutex
	der   []byte    // the last certificate
	after time.Time // no request before
}

// NewKDS takes the service's address, as of [AMDKDS].
func NewKDS(base string) (*KDS, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, errors.New("it is no URL")
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, fmt.Errorf("want https://HOST, got %q", clip(base))
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("user, query and fragment have no place in it")
	}
	return &KDS{
		base: u.JoinPath("/").String(), now: time.Now,
		client: &http.Client{
			Timeout:       kdsTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it redirects, which the KDS does not") },
			// One request in weeks: no connection is kept.
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxKDSBody,
			},
		},
	}, nil
}

// String is the address.
func (k *KDS) String() string { return k.base }

// vcek returns the certificate that fits the report.
func (k *KDS) vcek(ctx context.Context, r snpReport) ([]byte, error) {
	lines := r.lines()
	switch {
	case r.masked():
		return nil, errors.New("the host masks the chip's id, without which its certificate cannot be named")
	case len(lines) == 0:
		return nil, errors.New("the report names a processor that this agent does not know")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.der != nil && r.fits(k.der) == nil {
		return bytes.Clone(k.der), nil
	}
	if wait := k.after.Sub(k.now()); wait > 0 {
		return nil, fmt.Errorf("%s failed before: it is asked again in %s", k.base, wait.Round(time.Second))
	}
	var errs []error
	for _, l := range lines {
		der, pause, err := k.get(ctx, r, l)
		if err == nil {
			err = r.fitsLine(der, l)
		}
		if err == nil {
			k.der, k.after = der, time.Time{}
			return bytes.Clone(der), nil
		}
		k.after = k.now().Add(min(max(pause, kdsPause), maxKDSPause))
		errs = append(errs, fmt.Errorf("%s, %s: %w", k.base, l.name, err))
		if pause > 0 {
			break // it wants to be left alone
		}
	}
	return nil, errors.Join(errs...)
}

// get asks once. pause is how long the service wants to be left alone.
func (k *KDS) get(ctx context.Context, r snpReport, l snpLine) (_ []byte, pause time.Duration, err error) {
	t, address := r.levels(l), fmt.Sprintf("%svcek/v1/%s/%x?", k.base, l.name, r.hwid(l))
	if l.fmc {
		address += fmt.Sprintf("fmcSPL=%02d&", t.fmc)
	}
	address += fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", t.bl, t.tee, t.snp, t.ucode)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	res, err := k.client.Do(req)
	if err != nil {
		// Without the address, which names the chip: logs leave the guest.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, 0, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
			pause = min(time.Duration(s)*time.Second, maxKDSPause)
		}
		if res.StatusCode == http.StatusTooManyRequests {
			pause = max(pause, kdsPause)
		}
		return nil, pause, fmt.Errorf("it answers %d %s", res.StatusCode, http.StatusText(res.StatusCode))
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxKDSBody+1))
	switch {
	case err != nil:
		return nil, 0, err
	case len(b) > maxKDSBody:
		return nil, 0, fmt.Errorf("its answer has more than %d bytes", maxKDSBody)
	}
	return b, 0, nil
}
