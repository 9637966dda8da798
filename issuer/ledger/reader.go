package ledger

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Reader reads the chains of a trust domain, and the denials beside them, from a
// store: that of a running server, or a file that its owner opened read-only.
// Look-ups go over all chains; what is said of "the chain" is about one.
type Reader struct {
	st          store.Store
	trustDomain string
	chain       string
}

// NewReader reads the chain of that name; "" is the only server's.
func NewReader(st store.Store, trustDomain, chain string) *Reader {
	def(&chain, MainChain)
	return &Reader{st: st, trustDomain: trustDomain, chain: chain}
}

// In is a reader of another chain of the same trust domain.
func (r *Reader) In(chain string) *Reader { return NewReader(r.st, r.trustDomain, chain) }

// Chain is the name of the chain.
func (r *Reader) Chain() string { return r.chain }

// Chains lists all chains of the trust domain, by name: this one too, when nothing
// is in it yet.
func (r *Reader) Chains(ctx context.Context) ([]string, error) {
	names, err := r.st.Chains(ctx, r.trustDomain)
	if err != nil {
		return nil, unavailable(err)
	}
	if i, ok := slices.BinarySearch(names, r.chain); !ok {
		names = slices.Insert(names, i, r.chain)
	}
	return names, nil
}

// Item is one record as it is stored.
type Item struct {
	Chain string `json:"chain,omitempty"` // empty for a denial
	// Sequence is the position in the chain, from 1. Denials are not chained:
	// theirs is the position among the denials.
	Sequence uint64          `json:"sequence"`
	Previous attest.Bytes    `json:"previous_hash,omitempty"` // 32 bytes; nil for a denial
	Hash     attest.Bytes    `json:"hash,omitempty"`          // 32 bytes; nil for a denial
	Payload  json.RawMessage `json:"payload"`                 // the bytes that are hashed
	Entry    Entry           `json:"-"`                       // Payload, decoded

	index *store.Entry // the look-up columns, where the item comes from a store
}

// Get finds one record: by its reference ("as-…", or the jti of a token), which
// every chain is looked through for; by its sequence number in this chain ("17"); or
// by that in another chain ("CHAIN/17"). The error satisfies errors.Is(err,
// store.ErrNotFound) when there is none.
func (r *Reader) Get(ctx context.Context, key string) (Item, error) {
	chain, number, ok := strings.Cut(key, "/")
	if !ok {
		chain, number = r.chain, key
	}
	if seq, err := strconv.ParseUint(number, 10, 63); err == nil && len(number) < 32 {
		e, err := r.st.Entry(ctx, r.trustDomain, chain, seq)
		if err != nil {
			return Item{}, fmt.Errorf("ledger: entry %d of %.64s: %w", seq, chain, err)
		}
		return r.item(ctx, e)
	}
	if !isReference(key) { // an empty one would match everything
		return Item{}, fmt.Errorf("ledger: %.40q is no reference and no sequence number: %w", key, store.ErrNotFound)
	}
	find := store.Find{Reference: key, Limit: 1}
	entries, err := r.st.FindEntries(ctx, r.trustDomain, "", find)
	if err != nil {
		return Item{}, unavailable(err)
	}
	if len(entries) > 0 {
		return r.item(ctx, entries[0])
	}
	denials, err := r.st.FindDenials(ctx, r.trustDomain, find)
	if err != nil {
		return Item{}, unavailable(err)
	}
	if len(denials) > 0 {
		return denialItem(denials[0])
	}
	return Item{}, fmt.Errorf("ledger: reference %.40q: %w", key, store.ErrNotFound)
}

// item makes an Item of a row, and reads the row before for its hash. What is shown is what was hashed: a payload that was
// altered is an error here too, not only in a verification of the whole chain.
func (r *Reader) item(ctx context.Context, e store.Entry) (Item, error) {
	entry, err := ParseEntry(e.Payload)
	if err != nil {
		return Item{}, damaged(e.Sequence, err)
	}
	var previous [32]byte
	if e.Sequence > 1 {
		p, err := r.st.Entry(ctx, r.trustDomain, e.Chain, e.Sequence-1)
		if err != nil {
			return Item{}, damaged(e.Sequence, fmt.Errorf("the entry before it: %w", err))
		}
		previous = p.Hash
	}
	if hash := entryHash(r.trustDomain, e.Chain, e.Sequence, previous, e.Payload); hash != e.Hash {
		err := damaged(e.Sequence, errors.New("its payload or hash was altered"))
		err.Check, err.Expected, err.Got = "chain_hash", hex.EncodeToString(hash[:]), hex.EncodeToString(e.Hash[:])
		return Item{}, err
	}
	return Item{Chain: e.Chain, Sequence: e.Sequence, Previous: previous[:], Hash: slices.Clone(e.Hash[:]), Payload: e.Payload, Entry: entry}, nil
}

func denialItem(d store.Denial) (Item, error) {
	entry, err := ParseEntry(d.Payload)
	if err != nil {
		return Item{}, damaged(d.ID, err)
	}
	return Item{Sequence: d.ID, Payload: d.Payload, Entry: entry}, nil
}

// damaged is a row that cannot be what was written.
func damaged(sequence uint64, err error) *attest.Error {
	return &attest.Error{
		Kind: attest.Untrusted, Check: "chain_payload", Err: fmt.Errorf("entry %d: %w", sequence, err),
		Hint: "the database was changed: 'assay ledger verify' finds where, a backup holds what was there",
	}
}

// Entries yields the chain after a sequence number, in order, for export and
// verification. Payloads that are damaged are yielded with a zero Entry: the
// verification reports them.
func (r *Reader) Entries(ctx context.Context, after uint64) iter.Seq2[Item, error] {
	const page = 256
	return func(yield func(Item, error) bool) {
		previous := make([]byte, 32)
		if after > 0 {
			e, err := r.st.Entry(ctx, r.trustDomain, r.chain, after)
			if err != nil {
				yield(Item{}, fmt.Errorf("ledger: entry %d: %w", after, err))
				return
			}
			copy(previous, e.Hash[:])
		}
		for {
			entries, err := r.st.Entries(ctx, r.trustDomain, r.chain, after, page)
			if err != nil {
				yield(Item{}, err)
				return
			}
			for i := range entries {
				e := &entries[i]
				if e.Identities, err = r.st.EntryIdentities(ctx, r.trustDomain, r.chain, e.Sequence); err != nil {
					yield(Item{}, err)
					return
				}
				entry, _ := ParseEntry(e.Payload) // a zero Entry fails the verification, which names the reason
				item := Item{Chain: r.chain, Sequence: e.Sequence, Previous: slices.Clone(previous), Hash: slices.Clone(e.Hash[:]), Payload: e.Payload, Entry: entry, index: e}
				if !yield(item, nil) {
					return
				}
				copy(previous, e.Hash[:])
				after = e.Sequence
			}
			if len(entries) < page {
				return
			}
		}
	}
}

// HasSerial reports whether an issuance of this trust domain named the serial
// (lower-case hex): nothing else was ever signed.
func (r *Reader) HasSerial(ctx context.Context, serial string) (bool, error) {
	ok, err := r.st.HasSerial(ctx, r.trustDomain, serial)
	if err != nil {
		return false, unavailable(err)
	}
	return ok, nil
}

// Evidence returns what an attester sent, while it is kept. The error satisfies
// errors.Is(err, store.ErrNotFound) when it never was, or no longer is.
func (r *Reader) Evidence(ctx context.Context, digest [32]byte) (store.Evidence, error) {
	return r.st.Evidence(ctx, r.trustDomain, digest)
}

// Certificate returns an SVID as issued, by its serial (lower-case hex), while
// it is kept; best effort. Errors as of Evidence.
func (r *Reader) Certificate(ctx context.Context, serial string) ([]byte, error) {
	c, err := r.st.Certificate(ctx, r.trustDomain, serial)
	if err != nil {
		return nil, err
	}
	return c.DER, nil
}

// NewestCheckpoint returns the stored checkpoint of the greatest size. Its
// signature is not checked. The error satisfies errors.Is(err, store.ErrNotFound)
// where there is none.
func (r *Reader) NewestCheckpoint(ctx context.Context) ([]byte, error) {
	c, err := r.st.LastCheckpoint(ctx, r.trustDomain, r.chain)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, err
	case err != nil:
		return nil, unavailable(err)
	}
	return c.Note, nil
}

// Checkpoints returns the stored checkpoints, oldest first. Their signatures
// are not checked.
func (r *Reader) Checkpoints(ctx context.Context) ([][]byte, error) {
	out := [][]byte{}
	for note, err := range r.EachCheckpoint(ctx) {
		if err != nil {
			return nil, err
		}
		out = append(out, note)
	}
	return out, nil
}

// EachCheckpoint yields what Checkpoints returns, with no more than a page of them
// in memory: a server makes half a million a year.
func (r *Reader) EachCheckpoint(ctx context.Context) iter.Seq2[[]byte, error] {
	const page = 256
	return func(yield func([]byte, error) bool) {
		for beyond := uint64(0); ; {
			cps, err := r.st.Checkpoints(ctx, r.trustDomain, r.chain, beyond, page)
			if err != nil {
				yield(nil, unavailable(err))
				return
			}
			for _, c := range cps {
				if !yield(c.Note, nil) {
					return
				}
				beyond = c.Size
			}
			if len(cps) < page {
				return
			}
		}
	}
}
