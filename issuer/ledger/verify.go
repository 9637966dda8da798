package ledger

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Report is what a verification found to hold of a chain.
type Report struct {
	Chain       string       `json:"chain"`
	Entries     uint64       `json:"entries"`
	Head        attest.Bytes `json:"head"` // hash of the last entry; zeros for none
	Checkpoints int          `json:"checkpoints"`
	// Covered is how many entries the newest checkpoint covers, one of its own or
	// of another chain that names it. Those after it are chained, and nobody
	// outside could tell if they were cut off.
	Covered uint64 `json:"covered"`
	// Peers counts the checkpoints of other chains that name a head of this one.
	Peers int `json:"peers"`
}

// VerifyChain checks a chain from its first entry, and checkpoints of it from
// anywhere. It needs no database: entries may come from an export. The error is
// an *attest.Error, Untrusted, about the first thing that does not hold:
//
//	chain_sequence         entries are numbered 1, 2, 3, …: none missing, none twice, in order
//	chain_previous         each names the hash of the one before it
//	chain_hash             each hash is that of the entry: payload and hash unaltered
//	chain_payload          the payload is an entry, of this trust domain and chain
//	chain_index            a store's look-up columns say what the payload says
//	checkpoint_format      a checkpoint is a signed note of the known form
//	checkpoint_signature   the key signed it
//	checkpoint_origin      it is of this trust domain and chain
//	checkpoint_truncation  the chain is at least as long as it says
//	checkpoint_mismatch    the entry at its size has the hash that it says
//
// An altered payload whose hash, and all after it, were computed again is
// consistent in itself: only a checkpoint betrays it. The same goes for an end
// that was cut off. Errors that the iterator yields are returned as they are.
func VerifyChain(trustDomain, chain string, entries iter.Seq2[Item, error], checkpoints [][]byte, key VerifierKey) (Report, error) {
	open, err := openCheckpoints(trustDomain, chain, checkpoints, key)
	if err != nil {
		return Report{}, err
	}
	return verifyChain(trustDomain, chain, entries, marks(open, nil))
}

func openCheckpoints(trustDomain, chain string, notes [][]byte, key VerifierKey) ([]Checkpoint, error) {
	out := make([]Checkpoint, 0, len(notes))
	for i, note := range notes {
		cp, err := openCheckpoint(trustDomain, chain, note, key)
		if err != nil {
			return nil, fmt.Errorf("checkpoint %d of %s: %w", i+1, chain, err)
		}
		out = append(out, cp)
	}
	return out, nil
}

// mark is what a chain is held against at one size.
type mark struct {
	Checkpoint
	by string // the chain whose checkpoint says so, if it is another one
}

// marks are a chain's own checkpoints, and what others say of it, by size.
func marks(own []Checkpoint, others []mark) []mark {
	out := slices.Clone(others)
	for _, cp := range own {
		out = append(out, mark{Checkpoint: cp})
	}
	slices.SortStableFunc(out, func(a, b mark) int { return cmp.Compare(a.Size, b.Size) })
	return out
}

func verifyChain(trustDomain, chain string, entries iter.Seq2[Item, error], all []mark) (Report, error) {
	v := newChainVerifier(trustDomain, chain)
	rest := all
	check := func() error {
		for len(rest) > 0 && rest[0].Size == v.at.Sequence {
			if rest[0].Head != v.at.Hash {
				return rest[0].mismatch(v.at.Hash)
			}
			rest = rest[1:]
		}
		return nil
	}
	if err := check(); err != nil {
		return Report{}, err
	}
	for item, err := range entries {
		if err != nil {
			return Report{}, err
		}
		if err := v.next(item); err != nil {
			return Report{}, err
		}
		if err := check(); err != nil {
			return Report{}, err
		}
	}
	if len(rest) > 0 {
		return Report{}, rest[len(rest)-1].truncated(v.at.Sequence)
	}
	r := Report{Chain: chain, Entries: v.at.Sequence, Head: v.at.Hash[:]}
	for _, m := range all {
		if m.by == "" {
			r.Checkpoints++
		} else {
			r.Peers++
		}
		r.Covered = m.Size
	}
	return r, nil
}

func (m mark) mismatch(got [32]byte) error {
	err := mismatch(m.Checkpoint, got)
	if m.by != "" {
		err.Check = "peer_mismatch"
		err.Err = fmt.Errorf("chain %s, entry %d: it is not the one that chain %s saw at %s: the one or the other was written anew", m.Chain, m.Size, m.by, stampOf(m.Time))
	}
	return err
}

func (m mark) truncated(have uint64) error {
	err := truncated(m.Checkpoint, have)
	if m.by != "" {
		err.Check = "peer_truncation"
		err.Err = fmt.Errorf("chain %s: entries are not there that chain %s saw at %s: the end was cut off, or an old copy restored", m.Chain, m.by, stampOf(m.Time))
	}
	return err
}

// openCheckpoint checks one checkpoint by itself.
func openCheckpoint(trustDomain, chain string, note []byte, key VerifierKey) (Checkpoint, error) {
	text, err := openNote(note, key)
	switch {
	case errors.Is(err, errNoteUnsigned):
		e := untrusted("checkpoint_signature", err)
		e.Hint = "check that this is the ledger's checkpoint key (checkpoint.pub), and its checkpoint"
		return Checkpoint{}, e
	case err != nil:
		return Checkpoint{}, untrusted("checkpoint_format", err)
	}
	cp, err := parseCheckpointText(text)
	if err != nil {
		return Checkpoint{}, untrusted("checkpoint_format", err)
	}
	if cp.TrustDomain != trustDomain || cp.Chain != chain {
		e := untrusted("checkpoint_origin", errors.New("the checkpoint is of another ledger"))
		e.Expected, e.Got = ChainName(trustDomain, chain), clip(ChainName(cp.TrustDomain, cp.Chain), 200)
		return Checkpoint{}, e
	}
	return cp, nil
}

func (r *Reader) openCheckpoint(note []byte, key VerifierKey) (Checkpoint, error) {
	return openCheckpoint(r.trustDomain, r.chain, note, key)
}

// chainVerifier follows a chain from one entry to the next.
type chainVerifier struct {
	trustDomain, chain string
	at                 store.Head
}

func newChainVerifier(trustDomain, chain string) *chainVerifier {
	return &chainVerifier{trustDomain: trustDomain, chain: chain}
}

func (v *chainVerifier) next(item Item) error {
	if item.Sequence != v.at.Sequence+1 {
		e := untrusted("chain_sequence", errors.New("an entry is missing, twice, or out of order"))
		e.Expected, e.Got = fmt.Sprint(v.at.Sequence+1), fmt.Sprint(item.Sequence)
		return e
	}
	wrong := func(check, what string, want, got []byte) error {
		e := untrusted(check, fmt.Errorf("entry %d: %s", item.Sequence, what))
		e.Expected, e.Got = hex.EncodeToString(want), clip(hex.EncodeToString(got), 80)
		return e
	}
	if !bytes.Equal(item.Previous, v.at.Hash[:]) {
		return wrong("chain_previous", "it names another entry as the one before it", v.at.Hash[:], item.Previous)
	}
	hash := entryHash(v.trustDomain, v.chain, item.Sequence, v.at.Hash, item.Payload)
	if !bytes.Equal(item.Hash, hash[:]) {
		return wrong("chain_hash", "its payload or hash was altered", hash[:], item.Hash)
	}
	// The Entry of the item is not used: it is not what was hashed.
	e, err := ParseEntry(item.Payload)
	if err != nil {
		return untrusted("chain_payload", fmt.Errorf("entry %d: %w", item.Sequence, err))
	}
	if e.TrustDomain != v.trustDomain || e.Chain != v.chain {
		u := untrusted("chain_payload", fmt.Errorf("entry %d is of another ledger", item.Sequence))
		u.Expected, u.Got = ChainName(v.trustDomain, v.chain), clip(ChainName(e.TrustDomain, e.Chain), 200)
		return u
	}
	if item.index != nil {
		if what := indexDiffers(item.index, e); what != "" {
			return untrusted("chain_index", fmt.Errorf("entry %d: the look-up column for %s is not what the entry says", item.Sequence, what))
		}
	}
	v.at = store.Head{Sequence: item.Sequence, Hash: hash}
	return nil
}

// indexDiffers names the first look-up column that does not repeat the payload.
func indexDiffers(row *store.Entry, e Entry) string {
	ids := lookupsOf(e.Identities)
	switch {
	case !row.At.Equal(e.Time.Truncate(1000)): // columns hold microseconds
		return "time"
	case row.Outcome != e.Outcome:
		return "outcome"
	case row.Reference != e.Reference:
		return "reference"
	case row.Instance != string(e.Instance):
		return "instance"
	case len(e.EvidenceDigest) == 0 && row.EvidenceDigest != [32]byte{},
		len(e.EvidenceDigest) != 0 && !bytes.Equal(row.EvidenceDigest[:], e.EvidenceDigest):
		return "evidence"
	case !slices.Equal(row.Identities, ids):
		return "identities"
	}
	return ""
}

// lookupsOf is lookups for a payload that was read, whose lengths are not known
// to be right.
func lookupsOf(ids []Identity) []store.Identity {
	for _, id := range ids {
		if len(id.KeyThumbprint) != 32 {
			return nil
		}
	}
	out := lookups(ids)
	for i := range out {
		out[i].NotAfter = out[i].NotAfter.Truncate(1000).UTC()
	}
	return out
}

func untrusted(check string, err error) *attest.Error {
	return &attest.Error{
		Kind: attest.Untrusted, Check: check, Err: err,
		Hint: "somebody or something changed the ledger: keep a copy as it is, and compare with a backup",
	}
}

func stampOf(t time.Time) string { return t.Format("2006-01-02T15:04:05Z") }

func truncated(cp Checkpoint, have uint64) *attest.Error {
	e := untrusted("checkpoint_truncation", fmt.Errorf("a checkpoint of %s covers entries that are not there: the end was cut off, or an old copy restored", stampOf(cp.Time)))
	e.Expected = fmt.Sprintf("%d entries or more", cp.Size)
	if have > 0 {
		e.Got = fmt.Sprint(have)
	}
	return e
}

func mismatch(cp Checkpoint, got [32]byte) *attest.Error {
	e := untrusted("checkpoint_mismatch", fmt.Errorf("entry %d is not the one that a checkpoint of %s covers: the chain was written anew", cp.Size, stampOf(cp.Time)))
	e.Expected, e.Got = hex.EncodeToString(cp.Head[:]), hex.EncodeToString(got[:])
	return e
}
