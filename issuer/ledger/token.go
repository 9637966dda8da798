package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Token is a JWT-SVID to be signed: what the chain says of it. Claims and
// evidence are those of the issuance that Parent names.
type Token struct {
	SPIFFEID string   `json:"spiffe_id"` // sub
	Audience []string `json:"audience"`  // aud, 1 to 16
	// ID is the jti: 32 digits of lower-case hex, in no other token of the trust
	// domain; drawn where it is empty. It is the entry's reference as well.
	ID string `json:"jti"`
	// Parent is the serial of the live X.509-SVID that asked, as in [Identity].
	Parent   string          `json:"parent"`
	IssuedAt time.Time       `json:"issued_at"`
	NotAfter time.Time       `json:"not_after"`
	Instance attest.Instance `json:"-"` // the entry's; that of the parent
	Policy   Policy          `json:"-"` // the entry's; what allowed it
}

// Bounds of what a token or an action can make an entry hold.
const (
	maxAudiences = 16
	maxAudience  = 1024 // bytes of one
)

// RecordedToken is a token whose entry is durable. Only [Ledger.RecordToken]
// makes one. It is good for one signature, as [Recorded] is.
type RecordedToken struct{ r *recordedToken }

type recordedToken struct {
	spent       atomic.Bool
	trustDomain string
	sequence    uint64
	token       Token
}

// Spend uses it up. It returns ErrSpent the second time, and for a zero value.
func (r *RecordedToken) Spend() error {
	if r == nil || r.r == nil || !r.r.spent.CompareAndSwap(false, true) {
		return ErrSpent
	}
	return nil
}

func (r *RecordedToken) get() *recordedToken {
	if r == nil || r.r == nil {
		return &recordedToken{}
	}
	return r.r
}

// TrustDomain is the trust domain of the ledger that holds the record.
func (r *RecordedToken) TrustDomain() string { return r.get().trustDomain }

// Sequence is the position of the entry in its chain, from 1.
func (r *RecordedToken) Sequence() uint64 { return r.get().sequence }

// Token is what may be signed. Do not change what it shares.
func (r *RecordedToken) Token() Token { return r.get().token }

// RecordToken draws the token's ID where it has none, and returns when its entry
// is durable: nothing else may be signed. Errors are as of [Ledger.Record]; a
// token that cannot be one is Internal (ledger_token), since the server made it.
func (l *Ledger) RecordToken(ctx context.Context, t Token) (*RecordedToken, error) {
	if t.ID == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
		t.ID = hex.EncodeToString(b[:])
	}
	t.IssuedAt, t.NotAfter = t.IssuedAt.UTC().Round(0), t.NotAfter.UTC().Round(0)
	if err := t.check(l.trustDomain); err != nil {
		return nil, internal("ledger_token", err)
	}
	known, err := l.HasSerial(ctx, t.Parent)
	switch {
	case err != nil:
		return nil, err
	case !known:
		return nil, internal("ledger_token", fmt.Errorf("the SVID with serial %s is not on record", t.Parent))
	}
	e := l.envelope(Minted, t.ID)
	e.Instance, e.Policy, e.Token = t.Instance, t.Policy, &t
	done, err := l.append(ctx, e)
	if err != nil {
		return nil, err
	}
	return &RecordedToken{&recordedToken{trustDomain: l.trustDomain, sequence: done.sequence, token: t}}, nil
}

func (t Token) check(trustDomain string) error {
	switch {
	case !strings.HasPrefix(t.SPIFFEID, "spiffe://"+trustDomain+"/"):
		return fmt.Errorf("%.80q is not of trust domain %s", t.SPIFFEID, trustDomain)
	case len(t.Audience) == 0 || len(t.Audience) > maxAudiences:
		return fmt.Errorf("%d audiences, want 1 to %d", len(t.Audience), maxAudiences)
	case !isHex128(t.ID):
		return fmt.Errorf("the ID %.40q is not 32 digits of lower-case hex", t.ID)
	case !isHex128(t.Parent):
		return fmt.Errorf("the parent %.40q is not a serial", t.Parent)
	case t.Instance == "":
		return errors.New("it names no instance")
	case t.IssuedAt.IsZero() || !t.NotAfter.After(t.IssuedAt):
		return errors.New("it does not end after it begins")
	}
	for _, a := range t.Audience {
		if a == "" || len(a) > maxAudience {
			return fmt.Errorf("an audience has %d bytes, want 1 to %d", len(a), maxAudience)
		}
	}
	return nil
}

// isHex128 accepts 16 bytes in lower-case hex.
func isHex128(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16 && strings.ToLower(s) == s
}

// envelope is what every entry says, whatever it is of.
func (l *Ledger) envelope(outcome, reference string) Entry {
	return Entry{
		Version: payloadVersion, TrustDomain: l.trustDomain, Chain: l.chain, Simulated: l.simulated,
		Time: l.opt.Now().UTC().Round(0), Reference: reference, Outcome: outcome,
	}
}

// append chains an entry without identities, and returns when it is durable.
func (l *Ledger) append(ctx context.Context, e Entry) (outcome, error) {
	payload, err := e.encode()
	if err != nil {
		return outcome{}, internal("ledger_entry", err)
	}
	done, err := l.submit(ctx, &request{ctx: ctx, done: make(chan outcome, 1), entry: store.Entry{
		Outcome: e.Outcome, Payload: payload, At: e.Time, Reference: e.Reference, Instance: string(e.Instance),
	}})
	var refused *attest.Error
	switch {
	case errors.As(err, &refused):
		return outcome{}, refused
	case err != nil:
		return outcome{}, unavailable(err)
	}
	return done, nil
}
