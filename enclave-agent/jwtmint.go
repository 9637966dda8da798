package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	attested "github.com/assay-project/assay/svid"
)

// Bounds of what a workload may ask for, as in the protocol.
const (
	maxTokenAudiences = 8
	maxTokenAudience  = 255 // bytes of one
)

// mintTimeout is how long the server may take for one token.
const mintTimeout = 10 * time.Second

// How many tokens the server is asked for at once, and how many of them for one user:
// root, and the agent's own user, have four times that.
const (
	maxMinting        = 64
	maxMintingPerUser = 8
)

// notGrantedFor is how long it is remembered that policy grants no token: the server is
// asked in the name of the whole TEE, and takes so many questions of it and no more.
// What changes in a policy comes by the watch, which has it forgotten.
const notGrantedFor = 5 * time.Second

// maxTokens bounds the tokens that are kept; further ones are minted each time.
const maxTokens = 1024

// minLife is how long a token must still live to be handed out a second time.
const minLife = 10 * time.Second

// token is one that was minted.
type token struct {
	text     string
	keyID    string // of the JWT authority that signed it
	notAfter time.Time
	fresh    time.Time // until half of its life: then another is minted
}

// tokenKey says what a token is for. A token of another SVID of the same name
// is as good: its own end is what counts.
type tokenKey struct{ id, audiences string }

// minter asks the server for tokens, and keeps them until half of their life is
// over. It holds one connection for each identity, which shows that identity's SVID:
// the server takes the name from there.
type minter struct {
	now    func() time.Time
	log    *slog.Logger
	denied func() error // the server's last word on attestation, where that is a denial: a status
	turned func(*svid)  // hears of an SVID that the server does not take any more
	dial   func(certificate func() *tls.Certificate) (*link, error)

	mu      sync.Mutex
	tokens  map[tokenKey]token
	minting map[tokenKey]*minting
	links   map[string]*tokenLink // by SPIFFE ID
	closed  bool
	// underway is how many requests are: those that were forgotten count too.
	underway tally
	crowd    *crowd                 // knows which users have larger shares
	refused  map[tokenKey]time.Time // until when policy's refusal is remembered
	era      uint64                 // how often all tokens were forgotten
}

// minting is a request that is under way; others who want the same wait for it.
type minting struct {
	done  chan struct{}
	era   uint64
	leave func() // the room of the user who asked first
	token token
	err   error
	away  bool // err says that the server did not answer, and nothing of what it would say
}

// tokenLink is a connection that shows one SVID, and how many calls use it.
type tokenLink struct {
	*link
	svid    *svid
	calls   int
	retired bool // a newer SVID has one of its own
}

func newMinter(now func() time.Time, log *slog.Logger, denied func() error, turned func(*svid), dial func(func() *tls.Certificate) (*link, error)) *minter {
	return &minter{now: now, log: log, denied: denied, turned: turned, dial: dial, crowd: newCrowd(), underway: newTally(), refused: map[tokenKey]time.Time{}, tokens: map[tokenKey]token{}, minting: map[tokenKey]*minting{}, links: map[string]*tokenLink{}}
}

// get returns a token of the SVID's identity for the audiences, which are checked.
// The error is a status for the workload.
func (m *minter) get(ctx context.Context, own *svid, b *trustBundle, audiences []string) (string, error) {
	if err := m.denied(); err != nil {
		return "", err
	}
	audiences = slices.Sorted(slices.Values(audiences))            // the order says nothing (RFC 7519, section 4.1.3)
	key := tokenKey{own.id.String(), strings.Join(audiences, " ")} // an audience has no space
	m.mu.Lock()
	kept, ok := m.held(key, b)
	if ok && m.now().Before(kept.fresh) {
		m.mu.Unlock()
		return kept.text, nil
	}
	if m.now().Before(m.refused[key]) {
		m.mu.Unlock()
		return "", errNotGranted()
	}
	call := m.minting[key]
	if call == nil || call.era != m.era {
		leave, err := m.crowd.enter(&m.underway, callerOf(ctx).user(), maxMinting, maxMintingPerUser)
		if err != nil { // as if the server were away: what is kept serves
			call = &minting{done: make(chan struct{}), away: true, err: status.Error(codes.ResourceExhausted, "too many tokens are being minted")}
			close(call.done)
		} else {
			call = &minting{done: make(chan struct{}), era: m.era, leave: leave}
			m.minting[key] = call
			// Its own life: the workload that asked first may leave, others wait.
			go m.fetch(context.WithoutCancel(ctx), key, call, own, b, audiences)
		}
	}
	m.mu.Unlock()
	select {
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	case <-call.done:
	}
	switch {
	case call.err == nil && !b.trusts(call.token):
		return "", status.Error(codes.Unavailable, "the JWT authority that signed the token was revoked meanwhile; ask again")
	case call.err == nil:
		return call.token.text, nil
	case call.away:
		// What is left of the one before serves, unless the server's word on something
		// else has ended it meanwhile.
		m.mu.Lock()
		defer m.mu.Unlock()
		if kept, ok := m.held(key, b); ok && kept.notAfter.Sub(m.now()) >= minLife {
			return kept.text, nil
		}
	}
	return "", call.err
}

// held is the token that is kept, where relying parties that have this bundle would
// take it.
func (m *minter) held(key tokenKey, b *trustBundle) (token, bool) {
	kept, ok := m.tokens[key]
	if ok && !b.trusts(kept) {
		delete(m.tokens, key)
		return token{}, false
	}
	return kept, ok
}

// trusts reports whether the bundle has the authority that signed a token.
func (b *trustBundle) trusts(t token) bool { return b.jwt.bundle.HasJWTAuthority(t.keyID) }

// away is an error of a server that does not answer, or has no time: that is all it
// says.
type away struct{ error }

func (a away) Unwrap() error { return a.error }

func (m *minter) fetch(ctx context.Context, key tokenKey, call *minting, own *svid, b *trustBundle, audiences []string) {
	ctx, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	call.token, call.err = guard(func() (token, error) { return m.mint(ctx, own, b, audiences) })
	if a := (away{}); errors.As(call.err, &a) {
		call.err, call.away = a.error, true
	}
	if _, ok := status.FromError(call.err); !ok {
		m.log.Warn("no token", "spiffe_id", key.id, "check", attest.CheckOf(call.err), "error", call.err.Error())
		call.err = status.Error(codes.Unavailable, "no token: "+clip(call.err.Error()))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	call.leave()
	if m.minting[key] == call {
		delete(m.minting, key)
	}
	switch {
	case status.Code(call.err) == codes.PermissionDenied:
		delete(m.tokens, key) // also for the next time that the server is away
		if call.era == m.era {
			m.remember(key)
		}
	case call.err == nil && !m.closed && call.era == m.era:
		m.keep(key, call.token)
	}
	close(call.done)
}

// remember that policy grants no such token, where there is room.
func (m *minter) remember(key tokenKey) {
	at := m.now()
	if len(m.refused) >= maxTokens {
		maps.DeleteFunc(m.refused, func(_ tokenKey, until time.Time) bool { return !at.Before(until) })
	}
	if len(m.refused) < maxTokens {
		m.refused[key] = at.Add(notGrantedFor)
	}
}

// keep remembers a token, where there is room.
func (m *minter) keep(key tokenKey, t token) {
	if len(m.tokens) >= maxTokens {
		at := m.now()
		for k, old := range m.tokens {
			if !at.Before(old.fresh) {
				delete(m.tokens, k)
			}
		}
	}
	if _, there := m.tokens[key]; there || len(m.tokens) < maxTokens {
		m.tokens[key] = t
	}
}

// mint asks the server once.
func (m *minter) mint(ctx context.Context, own *svid, b *trustBundle, audiences []string) (token, error) {
	l, err := m.connect(own)
	if err != nil {
		return token{}, err
	}
	defer m.release(l)
	r, err := assayv1.NewAttestationClient(l).MintJWTSVID(ctx, &assayv1.MintJWTSVIDRequest{Audience: audiences})
	if err != nil {
		switch status.Code(err) { //nolint:exhaustive // the connection is good for the others
		case codes.Unauthenticated:
			m.retire(l) // the SVID is not taken: the next call opens a connection with what is held then
			m.forget()  // and what it was good for before, it is no more
			m.turned(own)
			if err := m.denied(); err != nil {
				return token{}, err
			}
			return token{}, errNotTaken
		case codes.Unavailable:
			m.retire(l) // gRPC would try on by itself, once a second
			return token{}, away{ofMint(err)}
		case codes.DeadlineExceeded, codes.ResourceExhausted:
			return token{}, away{ofMint(err)}
		}
		return token{}, ofMint(err)
	}
	return checkToken(r, own, b, audiences, m.now())
}

// checkToken checks what a server answered: the token is for whom it was asked
// for, holds under the bundle that this agent has, and ends no later than the SVID.
func checkToken(r *assayv1.MintJWTSVIDResponse, own *svid, b *trustBundle, audiences []string, at time.Time) (token, error) {
	s, err := attested.VerifyJWTSVID(r.GetToken(), b.jwt.bundle, audiences[0], at)
	if err != nil {
		return token{}, replyError("minted_token", "%w", err)
	}
	switch {
	case s.ID != own.id || r.GetSpiffeId() != own.id.String():
		return token{}, replyError("minted_id", "a token for %s, want %s", clip(s.ID.String()), own.id)
	case !slices.Equal(s.Audience, audiences):
		return token{}, replyError("minted_audience", "a token for %s, want %s", clip(strings.Join(s.Audience, " ")), clip(strings.Join(audiences, " ")))
	case s.Expiry.After(own.notAfter()) || s.Expiry.UnixMilli() != r.GetNotAfterUnixMs():
		return token{}, replyError("minted_validity", "the token ends at %s, the answer says %s, the SVID ends at %s", stamp(s.Expiry), stamp(time.UnixMilli(r.GetNotAfterUnixMs())), stamp(own.notAfter()))
	}
	return token{text: r.GetToken(), keyID: s.KeyID, notAfter: s.Expiry, fresh: at.Add(s.Expiry.Sub(at) / 2)}, nil
}

// ofMint turns the server's refusal into what a workload hears (SPIFFE Workload
// API, section 6.2.1).
func ofMint(err error) error {
	why := clip(status.Convert(err).Message())
	switch status.Code(err) { //nolint:exhaustive // every other code is the server's trouble, and passes
	case codes.PermissionDenied:
		return errNotGranted()
	case codes.InvalidArgument:
		return status.Error(codes.InvalidArgument, "the server does not take the request: "+why)
	case codes.Unimplemented:
		return status.Error(codes.Unimplemented, "the server is of a version that mints no tokens")
	}
	return status.Error(codes.Unavailable, "the server minted no token: "+why)
}

func errNotGranted() error {
	return status.Error(codes.PermissionDenied, "policy grants this identity no token for this audience")
}

// errNotTaken is an SVID that the server does not take any more, for whatever reason:
// the agent attests again, and hears then whether it is to have another.
var errNotTaken = status.Error(codes.Unavailable, "the server does not take this agent's SVID any more; it attests again")

var errMinterClosed = errors.New("the agent is stopping")

// connect returns the connection that shows the SVID.
func (m *minter) connect(own *svid) (*tokenLink, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errMinterClosed
	}
	id := own.id.String()
	l := m.links[id]
	if l == nil || l.svid != own {
		m.drop(l)
		cert := own.certificate()
		made, err := m.dial(func() *tls.Certificate { return cert })
		if err != nil {
			return nil, err
		}
		l = &tokenLink{link: made, svid: own}
		m.links[id] = l
	}
	l.calls++
	return l, nil
}

// release ends one use.
func (m *minter) release(l *tokenLink) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.calls--
	if l.retired && l.calls == 0 {
		_ = l.Close()
	}
}

func (m *minter) retire(l *tokenLink) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(l)
}

// drop closes a connection when its last call has ended.
func (m *minter) drop(l *tokenLink) {
	if l == nil || l.retired {
		return
	}
	l.retired = true
	if id := l.svid.id.String(); m.links[id] == l {
		delete(m.links, id)
	}
	if l.calls == 0 {
		_ = l.Close()
	}
}

// forget lets all tokens go: policy, or what is known of this agent, has changed.
func (m *minter) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.tokens)
	clear(m.refused)
	m.era++ // what is being minted now is handed out to who waits, and not kept
}

// close ends all connections, and forgets all tokens.
func (m *minter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	clear(m.tokens)
	for _, l := range m.links {
		m.drop(l)
	}
}
