package ledger

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// Span selects records for those who go through many: issuances of one chain, or
// denials, which have sequences of their own.
type Span struct {
	Outcome string // Granted or Denied
	After   uint64 // sequence greater than
	// Since and Until leave out what was recorded before, or from then on, but for
	// an hour at either end, in which clocks may have been set: who wants it
	// exactly compares [Gist.Time]. Zero has no end.
	Since, Until time.Time
	Limit        int // 0 is all
}

// clockSlack is how much the clock of a server may have been set back.
const clockSlack = time.Hour

// recordsPage is how many rows one query reads.
const recordsPage = 256

// Records yields records as they are stored, oldest first, with a zero Entry:
// nothing is decoded, and nothing that is damaged ends it. [Item.Check] and
// [ParseGist] are for whoever gets them, on all cores.
func (r *Reader) Records(ctx context.Context, s Span) iter.Seq2[Item, error] {
	switch s.Outcome {
	case Granted:
		return r.issuances(ctx, s)
	case Denied:
		return r.denials(ctx, s)
	}
	return func(yield func(Item, error) bool) {
		yield(Item{}, fmt.Errorf("ledger: outcome %.40q, want %q or %q", s.Outcome, Granted, Denied))
	}
}

func (r *Reader) issuances(ctx context.Context, s Span) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		after, last, err := r.between(ctx, s)
		if err != nil {
			yield(Item{}, err)
			return
		}
		var previous [32]byte
		if after > 0 && after < last {
			e, err := r.st.Entry(ctx, r.trustDomain, r.chain, after)
			if err != nil && !errors.Is(err, store.ErrNotFound) { // a row that is gone makes the next one's hash wrong
				yield(Item{}, unavailable(err))
				return
			}
			previous = e.Hash
		}
		for left := s.Limit; after < last; {
			rows, err := r.st.Entries(ctx, r.trustDomain, r.chain, after, recordsPage)
			if err != nil {
				yield(Item{}, unavailable(err))
				return
			}
			for i := range rows {
				e := &rows[i]
				if e.Sequence > last {
					return
				}
				// What else is in the chain is read for its hash, and left out.
				if e.Outcome == Granted || !isOther(e) {
					if !yield(Item{Chain: r.chain, Sequence: e.Sequence, Previous: slices.Clone(previous[:]), Hash: slices.Clone(e.Hash[:]), Payload: e.Payload}, nil) {
						return
					}
					if left--; left == 0 {
						return
					}
				}
				previous, after = e.Hash, e.Sequence
			}
			if len(rows) < recordsPage {
				return
			}
		}
	}
}

// isOther reports whether an entry is no issuance, by its own word: a column that
// was changed leaves nothing out.
func isOther(e *store.Entry) bool {
	var g struct {
		Outcome string `json:"outcome"`
	}
	return json.Unmarshal(e.Payload, &g) == nil && g.Outcome == e.Outcome
}

func (r *Reader) denials(ctx context.Context, s Span) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		find := store.Find{After: s.After, Oldest: true}
		for left := s.Limit; ; {
			find.Limit = recordsPage
			if s.Limit > 0 {
				find.Limit = min(find.Limit, left)
			}
			rows, err := r.st.FindDenials(ctx, r.trustDomain, find)
			if err != nil {
				yield(Item{}, unavailable(err))
				return
			}
			for _, d := range rows {
				if !yield(Item{Sequence: d.ID, Payload: d.Payload}, nil) {
					return
				}
				find.After = d.ID
			}
			if left -= len(rows); len(rows) < find.Limit || s.Limit > 0 && left <= 0 {
				return
			}
		}
	}
}

// between finds the sequences of a span of issuances: after the first, up to and
// with the last. The time is that of the payload, which the chain vouches for.
func (r *Reader) between(ctx context.Context, s Span) (after, last uint64, err error) {
	head, err := r.st.Head(ctx, r.trustDomain, r.chain)
	if err != nil {
		return 0, 0, unavailable(err)
	}
	last, after = head.Sequence, s.After
	if !s.Since.IsZero() {
		n, ok, err := r.firstFrom(ctx, last, s.Since.Add(-clockSlack))
		if err != nil {
			return 0, 0, err
		}
		if ok && n > 0 {
			after = max(after, n-1)
		}
	}
	if !s.Until.IsZero() {
		n, ok, err := r.firstFrom(ctx, last, s.Until.Add(clockSlack))
		if err != nil {
			return 0, 0, err
		}
		if ok {
			last = min(last, n-1)
		}
	}
	return after, last, nil
}

// firstFrom finds the first entry from a time on; size+1 where there is none. It
// is not ok where an entry cannot be read on the way: then all are looked at.
func (r *Reader) firstFrom(ctx context.Context, size uint64, t time.Time) (sequence uint64, ok bool, err error) {
	ok = true
	n := sort.Search(int(size), func(i int) bool {
		if !ok || err != nil {
			return true
		}
		e, failed := r.st.Entry(ctx, r.trustDomain, r.chain, uint64(i)+1)
		if failed != nil {
			ok = false
			if !errors.Is(failed, store.ErrNotFound) {
				err = unavailable(failed)
			}
			return true
		}
		var g struct {
			Time time.Time `json:"time"`
		}
		ok = json.Unmarshal(e.Payload, &g) == nil && !g.Time.IsZero()
		return !g.Time.Before(t)
	})
	return uint64(n) + 1, ok && err == nil, err
}

// Check is nil for a denial, and for an issuance whose hash is that of what it
// holds, in its place: in a chain, that which it says where it is empty.
func (i *Item) Check(trustDomain, chain string) error {
	if len(i.Hash) == 0 {
		return nil
	}
	def(&chain, i.Chain)
	def(&chain, MainChain)
	var previous [32]byte
	copy(previous[:], i.Previous)
	if hash := entryHash(trustDomain, chain, i.Sequence, previous, i.Payload); string(hash[:]) != string(i.Hash) {
		err := damaged(i.Sequence, errors.New("its payload or hash was altered"))
		err.Check, err.Expected, err.Got = "chain_hash", hex.EncodeToString(hash[:]), i.Hash.String()
		return err
	}
	return nil
}

// Gist is an [Entry] without the rules of its decision, which are most of it.
type Gist struct {
	Version     int             `json:"version"`
	TrustDomain string          `json:"trust_domain"`
	Time        time.Time       `json:"time"`
	Reference   string          `json:"reference"`
	Outcome     string          `json:"outcome"`
	Platform    attest.Platform `json:"tee"`
	Instance    attest.Instance `json:"instance"`
	VerifiedAt  time.Time       `json:"verified_at"`
	Policy      Policy          `json:"policy"`
	Claims      attest.Claims   `json:"claims"`
	Decision    struct {
		At       time.Time `json:"at"`
		Outcome  string    `json:"outcome"`
		Reason   string    `json:"reason"`
		Workload string    `json:"workload"`
	} `json:"decision"`
	Identities []Identity `json:"identities"`
}

// ParseGist reads a payload as [ParseEntry] does. That what it says twice agrees
// is checked, since nothing but a hash ties a payload to its row.
func ParseGist(payload []byte) (Gist, error) {
	var g Gist
	if err := json.Unmarshal(payload, &g); err != nil {
		return Gist{}, fmt.Errorf("ledger: the payload is not an entry: %w", err)
	}
	switch {
	case g.Version != payloadVersion:
		return Gist{}, fmt.Errorf("ledger: payload version %d, want %d", g.Version, payloadVersion)
	case g.Outcome != Granted && g.Outcome != Denied:
		return Gist{}, fmt.Errorf("ledger: outcome %.40q", g.Outcome)
	case g.Decision.Outcome != map[string]string{Granted: policy.Granted, Denied: policy.Refused}[g.Outcome]:
		return Gist{}, fmt.Errorf("ledger: outcome %s of a decision that says %.40q", g.Outcome, g.Decision.Outcome)
	case g.Platform != g.Claims.Platform, g.Instance != g.Claims.Instance():
		return Gist{}, errors.New("ledger: the claims are not of the entry's instance")
	case len(g.Policy.Digest) != 32:
		return Gist{}, fmt.Errorf("ledger: the policy's digest has %d bytes", len(g.Policy.Digest))
	}
	return g, nil
}
