package sevsnp

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
)

// openKDS serves a KDS that knows one chip of each product and has no limit.
func openKDS(t *testing.T, a *Authority, faults ...string) (k *KDS, base string) {
	t.Helper()
	o := KDSOptions{Burst: -1}
	for _, p := range Products() {
		o.Chips = append(o.Chips, testChip(t, a, p))
	}
	k = a.KDS(o)
	for _, name := range faults {
		f, ok := KDSFaultByName(name)
		if !ok {
			t.Fatalf("there is no fault %s", name)
		}
		k.SetFaults(f)
	}
	s := httptest.NewServer(k)
	t.Cleanup(s.Close)
	return k, s.URL
}

func get(t *testing.T, u string) (status int, media string, body []byte) {
	t.Helper()
	r, err := http.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	if body, err = io.ReadAll(r.Body); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header.Get("Content-Type"), body
}

// vcekPath is what clients ask for.
func vcekPath(c *Chip, t TCB) string {
	q := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if c.Product() == Turin {
		q = fmt.Sprintf("fmcSPL=%02d&%s", t.FMC, q)
	}
	return "/vcek/v1/" + c.Product().Line() + "/" + hex.EncodeToString(c.HWID()) + "?" + q
}

func TestTheKDSHandsOutChainsInPEM(t *testing.T) {
	a := testAuthority(t)
	_, base := openKDS(t, a)
	for _, p := range Products() {
		for k, want := range map[SigningKey]*x509.Certificate{VCEK: a.Chain(p).ASK, VLEK: a.Chain(p).ASVK} {
			status, media, body := get(t, base+"/"+string(k)+"/v1/"+p.Line()+"/cert_chain")
			if status != http.StatusOK || media != mediaPEM {
				t.Errorf("%s %s: %d %s", p, k, status, media)
			}
			for _, w := range []*x509.Certificate{want, a.Chain(p).ARK} {
				block, rest := pem.Decode(body)
				if block == nil || !bytes.Equal(block.Bytes, w.Raw) {
					t.Fatalf("%s %s: want %s next", p, k, w.Subject.CommonName)
				}
				body = rest
			}
			if len(body) != 0 {
				t.Errorf("%s %s: %d bytes more", p, k, len(body))
			}
		}
	}
}

func TestTheKDSHandsOutTheCertificateThatAGuestHas(t *testing.T) {
	a := testAuthority(t)
	k, base := openKDS(t, a)
	for _, p := range Products() {
		c := testChip(t, a, p)
		g := testGuest(t, c, Launch{})
		status, media, body := get(t, base+vcekPath(c, p.DefaultTCB()))
		if status != http.StatusOK || media != mediaBinary || !bytes.Equal(body, g.Endorsements()[0]) {
			t.Errorf("%s: %d %s, %d bytes", p, status, media, len(body))
		}
		// Another TCB, another key.
		older := p.DefaultTCB()
		older.SNP--
		_, _, other := get(t, base+vcekPath(c, older))
		if bytes.Equal(parse(t, other).RawSubjectPublicKeyInfo, parse(t, body).RawSubjectPublicKeyInfo) {
			t.Errorf("%s: the key is the same at an older TCB", p)
		}
	}
	if got := k.RequestCount(); got != 8 {
		t.Errorf("%d requests counted, want 8", got)
	}
	if got := k.Requests()["/vcek/v1/Turin/"+hex.EncodeToString(testChip(t, a, Turin).HWID())]; got != 2 {
		t.Errorf("%d requests for the Turin chip, want 2: %v", got, k.Requests())
	}
}

func TestTheKDSPublishesOneCRLForEachLine(t *testing.T) {
	a := testAuthority(t)
	_, base := openKDS(t, a)
	for _, p := range []Product{Milan, Genoa, Turin} {
		status, media, body := get(t, base+"/vcek/v1/"+p.Line()+"/crl")
		crl, err := x509.ParseRevocationList(body)
		if err != nil || status != http.StatusOK || media != mediaBinary {
			t.Fatalf("%s: %d %s: %v", p, status, media, err)
		}
		if err := crl.CheckSignatureFrom(a.Chain(p).ARK); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if now := time.Now(); now.Before(crl.ThisUpdate) || now.After(crl.NextUpdate) || len(crl.RevokedCertificateEntries) != 0 {
			t.Errorf("%s: from %v to %v, %d entries", p, crl.ThisUpdate, crl.NextUpdate, len(crl.RevokedCertificateEntries))
		}
		if _, _, again := get(t, base+"/vlek/v1/"+p.Line()+"/crl"); !bytes.Equal(again, body) {
			t.Errorf("%s: the CRL for VLEKs is another one", p)
		}
	}
}

func TestTheKDSRefusesWhatTheRealOneDoes(t *testing.T) {
	a := testAuthority(t)
	_, base := openKDS(t, a)
	milan, turin := testChip(t, a, Milan), testChip(t, a, Turin)
	stranger, err := a.Chip(Milan, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	good := vcekPath(milan, Milan.DefaultTCB())
	for path, want := range map[string]int{
		"/":                              404,
		"/vcek/v1/Rome/cert_chain":       404,
		"/vcek/v1/milan/cert_chain":      404, // products are spelt as in certificates
		"/vcek/v2/Milan/cert_chain":      404,
		"/vcek/v1/Milan/cert_chain/more": 404,
		"/vtek/v1/Milan/cert_chain":      404,
		vcekPath(stranger, TCB{}):        404,
		"/vcek/v1/Genoa/" + hex.EncodeToString(milan.HWID()): 404, // a chip of another line
		"/vcek/v1/Milan/00ff":                                400,
		"/vcek/v1/Milan/xyz":                                 400,
		"/vcek/v1/Turin/" + hex.EncodeToString(turin.ID()):   400, // 64 bytes: Turin's id has eight
		good + "&fmcSPL=1":                                   400,
		good + "&spl4=0":                                     400,
		good + "&blSPL=4":                                    400,
		strings.Replace(good, "teeSPL=00", "teeSPL=256", 1):  400,
		strings.Replace(good, "teeSPL=00", "teeSPL=-1", 1):   400,
		strings.Replace(good, "teeSPL=00", "teeSPL=", 1):     400,
		good + "&%zz":                                        400,
		"/vlek/v1/Milan/cert?blSPL=04":                       401,
		good:                                                 200,
	} {
		if status, _, body := get(t, base+path); status != want {
			t.Errorf("%s: %d %.60s, want %d", path, status, body, want)
		}
	}
	r, err := http.Post(base+good, "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", r.StatusCode)
	}
}

// clock is a time that a test moves on.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestAClientThatAsksTooOftenHasToWait(t *testing.T) {
	c := &clock{t: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	a, err := NewAuthority(Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	k := a.KDS(KDSOptions{})
	ask := func(from string) (int, string) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/vcek/v1/Milan/cert_chain", nil)
		r.RemoteAddr = from
		k.ServeHTTP(w, r)
		return w.Code, w.Header().Get("Retry-After")
	}
	for i := range DefaultBurst {
		if code, _ := ask(fmt.Sprint("192.0.2.1:", 1000+i)); code != http.StatusOK {
			t.Fatalf("request %d: %d", i, code)
		}
	}
	for range 3 {
		if code, wait := ask("192.0.2.1:2000"); code != http.StatusTooManyRequests || wait != "10" {
			t.Errorf("one too many: %d, Retry-After %q", code, wait)
		}
	}
	if code, _ := ask("192.0.2.2:1000"); code != http.StatusOK {
		t.Errorf("another client: %d", code)
	}
	c.pass(4 * time.Second)
	if code, wait := ask("192.0.2.1:2001"); code != http.StatusTooManyRequests || wait != "6" {
		t.Errorf("too soon: %d, Retry-After %q", code, wait)
	}
	c.pass(6 * time.Second)
	if code, _ := ask("192.0.2.1:2002"); code != http.StatusOK {
		t.Errorf("after waiting: %d", code)
	}
	if code, _ := ask("192.0.2.1:2003"); code != http.StatusTooManyRequests {
		t.Errorf("only one more was earned: %d", code)
	}
	if got := k.RequestCount(); got != DefaultBurst+7 {
		t.Errorf("%d requests counted, refused ones too", got)
	}
}

func TestACRLIsReplacedAtHalfLife(t *testing.T) {
	c := &clock{t: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	a, err := NewAuthority(Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	k := a.KDS(KDSOptions{Burst: -1, CRLLifetime: 10 * 24 * time.Hour})
	fetch := func() *x509.RevocationList {
		w := httptest.NewRecorder()
		k.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/vcek/v1/Turin/crl", nil))
		l, err := x509.ParseRevocationList(w.Body.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := fetch()
	if got := first.NextUpdate.Sub(first.ThisUpdate); got != 10*24*time.Hour {
		t.Errorf("it lives %v", got)
	}
	c.pass(4*24*time.Hour - time.Second) // it was a day old
	if !bytes.Equal(fetch().Raw, first.Raw) {
		t.Error("it was replaced too early")
	}
	c.pass(time.Second)
	second := fetch()
	if bytes.Equal(second.Raw, first.Raw) || second.Number.Cmp(first.Number) <= 0 {
		t.Error("it was not replaced by a later one")
	}
}

// libraryGetter sends go-sev-guest's requests for AMD's server to ours.
type libraryGetter struct{ base string }

func (g libraryGetter) Get(u string) ([]byte, error) {
	r, err := http.Get(strings.Replace(u, "https://kdsintf.amd.com", g.base, 1))
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		return nil, errors.New(r.Status)
	}
	return io.ReadAll(r.Body)
}

// The library finds all that it needs at our KDS, and a CRL that it believes.
func TestTheLibraryVerifiesAReportWithTheHelpOfTheKDS(t *testing.T) {
	a := namedAuthority(t)
	for _, p := range []Product{Milan, Genoa} {
		report := testReport(t, testGuest(t, testChip(t, a, p), Launch{}))
		for faultName, good := range map[string]bool{
			"": true, "expired-crl": true, // the library does not look at the dates
			"dead": false, "error": false, "limited": false, "truncated": false, "html": false, "other-tcb": false, "foreign": false,
			"broken-crl": false, "revoked-ask": false, "unknown-chips": false, "oversized": false,
			"revoked-vcek": true, "other-chip": false,
		} {
			var names []string
			if faultName != "" {
				names = []string{faultName}
			}
			_, base := openKDS(t, a, names...)
			o := libraryOptions(a, p)
			o.DisableCertFetching, o.CheckRevocations, o.Getter = false, true, libraryGetter{base}
			r, err := abi.ReportToProto(report)
			if err != nil {
				t.Fatal(err)
			}
			trust.ClearProductCertCache()
			if err := verify.SnpReport(r, o); (err == nil) != good {
				t.Errorf("%s with fault %q: %v", p, faultName, err)
			}
		}
	}
}

func TestADeadKDSClosesConnections(t *testing.T) {
	k, base := openKDS(t, testAuthority(t), "dead")
	r, err := http.Get(base + "/vcek/v1/Milan/crl")
	if err == nil {
		_ = r.Body.Close()
		t.Errorf("it answers %s", r.Status)
	}
	if k.RequestCount() == 0 {
		t.Error("the request was not counted")
	}
	k.SetFaults()
	if status, _, _ := get(t, base+"/vcek/v1/Milan/crl"); status != http.StatusOK {
		t.Errorf("it does not come back to life: %d", status)
	}
}

func TestASlowKDSTakesHalfAMinute(t *testing.T) {
	a := testAuthority(t)
	f, _ := KDSFaultByName("slow")
	synctest.Test(t, func(t *testing.T) {
		k := a.KDS(KDSOptions{Burst: -1})
		k.SetFaults(f)
		start := time.Now()
		w := httptest.NewRecorder()
		k.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/vcek/v1/Milan/cert_chain", nil))
		if w.Code != http.StatusOK || time.Since(start) != slowness {
			t.Errorf("%d after %v", w.Code, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start = time.Now()
		k.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/vcek/v1/Milan/cert_chain", nil))
		if time.Since(start) != time.Second {
			t.Errorf("a client that gave up kept it busy for %v", time.Since(start))
		}
	})
}

func TestEveryKDSFaultShowsInItsAnswers(t *testing.T) {
	a := testAuthority(t)
	c := testChip(t, a, Milan)
	good := testGuest(t, c, Launch{}).Endorsements()[0]
	seen := map[string]bool{}
	for _, f := range KDSFaults() {
		if f.Description == "" || seen[f.Name] {
			t.Errorf("fault %q: description %q", f.Name, f.Description)
		}
		seen[f.Name] = true
	}
	_, base := openKDS(t, a, "oversized")
	if _, _, b := get(t, base+"/vcek/v1/Milan/crl"); len(b) < oversized {
		t.Errorf("oversized: %d bytes", len(b))
	}
	_, base = openKDS(t, a, "other-chip")
	if _, _, b := get(t, base+vcekPath(c, Milan.DefaultTCB())); slices.Equal(parse(t, b).Extensions[10].Value, c.HWID()) {
		t.Error("other-chip: it is the chip's own")
	}
	_, base = openKDS(t, a, "foreign")
	_, _, b := get(t, base+vcekPath(c, Milan.DefaultTCB()))
	if parse(t, b).CheckSignatureFrom(a.Chain(Milan).ASK) == nil {
		t.Error("foreign: the certificate is the authority's")
	}
	_, _, chain := get(t, base+"/vcek/v1/Milan/cert_chain")
	block, _ := pem.Decode(chain)
	if block == nil || parse(t, b).CheckSignatureFrom(parse(t, block.Bytes)) != nil {
		t.Error("foreign: the chain does not belong to the certificate")
	}
	_, base = openKDS(t, a, "unknown-chips")
	if status, _, _ := get(t, base+vcekPath(c, Milan.DefaultTCB())); status != http.StatusNotFound {
		t.Errorf("unknown-chips: %d", status)
	}
	for name, serial := range map[string]int64{"revoked-ask": 0x10001, "revoked-asvk": 0x10101, "revoked-vcek": revokedSerial} {
		_, base := openKDS(t, a, name)
		_, _, b := get(t, base+"/vcek/v1/Milan/crl")
		l, err := x509.ParseRevocationList(b)
		if err != nil || len(l.RevokedCertificateEntries) != 1 || l.RevokedCertificateEntries[0].SerialNumber.Int64() != serial {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, late := range map[string]bool{"expired-crl": true, "future-crl": false} {
		_, base := openKDS(t, a, name)
		_, _, b := get(t, base+"/vlek/v1/Milan/crl")
		l, err := x509.ParseRevocationList(b)
		if err != nil {
			t.Fatal(err)
		}
		if now := time.Now(); now.After(l.NextUpdate) != late || now.Before(l.ThisUpdate) == late {
			t.Errorf("%s: %v to %v", name, l.ThisUpdate, l.NextUpdate)
		}
	}
	_, base = openKDS(t, a, "truncated")
	if _, _, b := get(t, base+vcekPath(c, Milan.DefaultTCB())); !bytes.HasPrefix(good, b[:100]) && len(b) != len(good)/2 {
		t.Errorf("truncated: %d bytes", len(b))
	}
}

// A handler that the network reaches survives every path and query.
func FuzzKDS(f *testing.F) {
	a, err := shared()
	if err != nil {
		f.Fatal(err)
	}
	c, err := a.Chip(Turin, "fuzz")
	if err != nil {
		f.Fatal(err)
	}
	k := a.KDS(KDSOptions{Chips: []*Chip{c}, Burst: -1})
	for _, s := range []string{
		vcekPath(c, Turin.DefaultTCB()), "/vcek/v1/Milan/crl", "/vlek/v1/Genoa/cert_chain", "/vcek/v1/Milan/?", "//", "/vcek/v1/Turin/%zz?blSPL=1;2",
	} {
		path, query, _ := strings.Cut(s, "?")
		f.Add(path, query)
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		w := httptest.NewRecorder()
		k.ServeHTTP(w, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: query}, RemoteAddr: "192.0.2.1:1"})
		if !slices.Contains([]int{200, 400, 401, 404}, w.Code) {
			t.Errorf("%q?%q: %d %s", path, query, w.Code, w.Body)
		}
		if len(k.Requests()) > maxClients+1 {
			t.Error("the count of paths has no bound")
		}
	})
}
