package svid

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// DenyList follows the deny-list of one trust domain: it holds the newest one,
// and replaces it only by one of the same root and trust domain with a higher
// sequence, so that nobody can bring back what was denied. Hand it to [NotDenied].
// It is safe for concurrent use.
//
//	list, err := svid.NewDenyList(td, verifierRoot)
//	go list.Run(ctx, svid.DenyListFrom{URL: "https://assay.example.org/deny-list"})
//	… svid.ServerTLS(own, src, svid.NotDenied(list))
type DenyList struct {
	td   spiffeid.TrustDomain
	root crypto.PublicKey

	mu   sync.RWMutex
	doc  []byte
	list signedList // the zero value while there is none
	etag string     // of the URL that doc came from
}

// NewDenyList makes one that holds nothing yet, under a pinned verifier root.
// While it holds nothing, [NotDenied] refuses everybody.
func NewDenyList(td spiffeid.TrustDomain, root crypto.PublicKey) (*DenyList, error) {
	if td.IsZero() {
		return nil, fail(attest.Malformed, "verifier_root", "no trust domain")
	}
	if _, err := p256(root); err != nil {
		return nil, fail(attest.Malformed, "verifier_root", "%w", err)
	}
	return &DenyList{td: td, root: root}, nil
}

// TrustDomain is the one that the list is of.
func (l *DenyList) TrustDomain() spiffeid.TrustDomain { return l.td }

// Denials is the content of the list that is held. Beside the dates' checks of
// [ParseDenyList]:
//
//	deny_list             Unavailable: a list is held
//	deny_list_incomplete  Stale: it names all that is denied
func (l *DenyList) Denials(at time.Time) (*Denials, error) {
	l.mu.RLock()
	d := l.list.denials
	l.mu.RUnlock()
	if d == nil {
		err := fail(attest.Unavailable, "deny_list", "there is no deny-list of %s yet", l.td)
		err.Hint = "fetch it, or name the file that holds it"
		return nil, err
	}
	if err := d.current(at); err != nil {
		return nil, err
	}
	if d.Omitted > 0 {
		err := fail(attest.Stale, "deny_list_incomplete", "the deny-list of %s leaves out %d SVIDs for want of room", l.td, d.Omitted)
		err.Hint = "its operator should deny the policy, or taint the authority, instead of so many SVIDs"
		return nil, err
	}
	return d, nil
}

// Update verifies a list and, if it is newer, takes it over. The very same one
// again is no error. Beside the checks of [ParseDenyList]:
//
//	deny_list_keys_rollback  Stale: the document of its keys is no older than one that was seen
//	deny_list_rollback       Stale: of a higher sequence than the one held, unless that document
//	                         has left out the key that signed the one held
func (l *DenyList) Update(doc []byte, at time.Time) error { return l.update(doc, "", at) }

func (l *DenyList) update(doc []byte, etag string, at time.Time) error {
	list, err := parseDenyList(doc, l.root, l.td, at)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list.denials != nil {
		if bytes.Equal(doc, l.doc) {
			l.etag = etag
			return nil
		}
		if err := list.replaces(l.list); err != nil {
			return err
		}
	}
	l.list, l.doc, l.etag = list, bytes.Clone(doc), etag
	return nil
}

// Document is the list that is held, as it was received, or nil. A program that
// restarts keeps it, and hands it to Update first: one that forgets the sequence
// can be shown an older list until its next update.
func (l *DenyList) Document() []byte {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return bytes.Clone(l.doc)
}

// UpdateFile is Update with the content of a file. Check deny_list_file
// (Unavailable): it can be read.
func (l *DenyList) UpdateFile(path string, at time.Time) error {
	f, err := os.Open(path)
	if err != nil {
		return &attest.Error{Kind: attest.Unavailable, Check: "deny_list_file", Err: err}
	}
	defer func() { _ = f.Close() }()
	doc, err := io.ReadAll(io.LimitReader(f, MaxDenyListSize+1))
	if err != nil {
		return &attest.Error{Kind: attest.Unavailable, Check: "deny_list_file", Err: err}
	}
	return l.Update(doc, at)
}

// UpdateURL is Update with what a URL answers. It sends the ETag of the list
// that is held; 304 (Not Modified) is no error. The list is signed, so that the
// connection need not be trusted; http is accepted on the loopback alone all the
// same, since others would see who asks. Checks (Unavailable): deny_list_url,
// deny_list_fetch.
func (l *DenyList) UpdateURL(ctx context.Context, client *http.Client, address string, at time.Time) error {
	fetch := func(format string, args ...any) error {
		return fail(attest.Unavailable, "deny_list_fetch", format, args...)
	}
	if err := checkURL("deny_list_url", address); err != nil {
		return err
	}
	l.mu.RLock()
	held := l.etag
	l.mu.RUnlock()
	doc, etag, err := get(ctx, client, address, held, MaxDenyListSize)
	if err != nil {
		return fetch("%w", err)
	}
	if doc == nil {
		return nil
	}
	return l.update(doc, etag, at)
}

// get fetches a document of at most limit bytes, and one more of a longer one. It
// is nil, without an error, where the server says that the one with the given ETag
// still stands.
func get(ctx context.Context, client *http.Client, address, held string, limit int64) (doc []byte, etag string, err error) {
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second, CheckRedirect: onlyWhereAsked}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, "", err
	}
	if held != "" {
		req.Header.Set("If-None-Match", held)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusNotModified && held != "":
		return nil, held, nil
	case resp.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("%s answered %s", req.URL.Redacted(), resp.Status)
	}
	doc, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && doc == nil {
		doc = []byte{}
	}
	return doc, resp.Header.Get("ETag"), err
}

// onlyWhereAsked keeps a redirect to what could have been asked in the first place,
// and one of another machine off the programs on this one.
func onlyWhereAsked(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	if err := checkURL("", req.URL.String()); err != nil || via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("a redirect to %.200s, which is not https", req.URL.Redacted())
	}
	return nil
}

func checkURL(check, address string) error {
	u, err := url.Parse(address)
	if err == nil && u.Host == "" {
		err = errors.New("it names no host")
	}
	if err == nil {
		ip, perr := netip.ParseAddr(u.Hostname())
		loopback := u.Hostname() == "localhost" || perr == nil && ip.IsLoopback()
		if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
			err = fmt.Errorf("scheme %q, want https", u.Scheme)
		}
	}
	if err != nil {
		return fail(attest.Malformed, check, "%.200q: %w", address, err)
	}
	return nil
}

// DenyListFrom says where [DenyList.Run] gets the list: exactly one of File, URL
// and Get.
type DenyListFrom struct {
	File string
	URL  string
	// Get returns the bytes of the newest list: those that the agent has, say.
	Get func(context.Context) ([]byte, error)

	Every  time.Duration // 0 is a minute
	Client *http.Client  // of URL; nil has a limit of 30 seconds
	Log    *slog.Logger  // nil discards it
	Now    func() time.Time
}

// Run fetches the list at once and then again and again until the context ends,
// and returns nil then. An error is logged, and the list that is held stays until
// its next update. While none is held, it is tried more often. Followers are spread
// by a jitter of a tenth.
func (l *DenyList) Run(ctx context.Context, from DenyListFrom) error {
	n := 0
	for _, has := range []bool{from.File != "", from.URL != "", from.Get != nil} {
		if has {
			n++
		}
	}
	switch {
	case n != 1:
		return fail(attest.Internal, "deny_list_source", "%d sources of the deny-list, want one", n)
	case from.Every < 0:
		return fail(attest.Internal, "deny_list_source", "an interval of %s", from.Every)
	}
	if from.URL != "" {
		if err := checkURL("deny_list_url", from.URL); err != nil {
			return err
		}
	}
	if from.Every == 0 {
		from.Every = time.Minute
	}
	if from.Now == nil {
		from.Now = time.Now
	}
	follow(ctx, from.Every, from.Log, "deny-list not updated", []any{"trust_domain", l.td.Name()}, l.holds, func(ctx context.Context) error {
		return l.fetch(ctx, from)
	})
	return nil
}

// holds reports whether there is a list.
func (l *DenyList) holds() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.list.denials != nil
}

func (l *DenyList) fetch(ctx context.Context, from DenyListFrom) error {
	switch {
	case from.File != "":
		return l.UpdateFile(from.File, from.Now())
	case from.URL != "":
		return l.UpdateURL(ctx, from.Client, from.URL, from.Now())
	}
	doc, err := from.Get(ctx)
	if err != nil {
		return fail(attest.Unavailable, "deny_list_fetch", "%w", err)
	}
	return l.Update(doc, from.Now())
}

// NotDenied demands that the deny-list of the SVID's trust domain, one of these (or
// each, where several are of it: under the verifier root and the next one), names
// neither its serial number (of a token: that of the SVID it was minted
// for), nor its key, nor the policy that its result rests on. Without a current list nobody satisfies it. The list is asked every
// time: an [Attested.Check] later sees what was denied meanwhile. Checks:
//
//	deny_list    Unavailable: there is a list of the trust domain
//	deny_list_…  Stale: it is current and complete (see [DenyList.Denials])
//	denied       Denied: it does not name the SVID
func NotDenied(lists ...*DenyList) Requirement {
	return Requirement{check: func(a *Attested, at time.Time) error {
		td := a.ID.TrustDomain()
		followed := false
		for _, l := range lists {
			if l == nil || l.td != td {
				continue
			}
			followed = true
			d, err := l.Denials(at)
			if err != nil {
				return err
			}
			if err := d.names(a); err != nil {
				return err
			}
		}
		if !followed {
			return fail(attest.Unavailable, "deny_list", "no deny-list of %s is followed", td)
		}
		return nil
	}}
}

// names is an error that says what of the SVID the list names, or nil.
func (d *Denials) names(a *Attested) error {
	denied := func(what string) error {
		return fail(attest.Denied, "denied", "%s: the deny-list names %s (sequence %d)", a.ID, what, d.Sequence)
	}
	if a.Certificate != nil {
		if what := d.Certificate(a.Certificate); what != "" {
			return denied("its " + what)
		}
	}
	if a.Token != nil {
		if serial, err := hex.DecodeString(a.Token.Serial); err == nil && len(serial) == SerialSize && d.Serial([SerialSize]byte(serial)) {
			return denied("the SVID that the token was minted for")
		}
	}
	if d.Policy(a.Result.PolicyDigest) {
		return denied("the policy that its result rests on, " + a.Result.Policy)
	}
	return nil
}
