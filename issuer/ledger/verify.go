package ledger

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Report is what a verification found to hold.
type Report struct {
	Entries     uint64       `json:"entries"`
	Head        attest.Bytes `json:"head"` // hash of the last entry; zeros for none
	Checkpoints int          `json:"checkpoints"`
	// Covered is how many entries the newest checkpoint covers. Those after it
	// are chained, and nobody outside could tell if they were cut off.
	Covered uint64 `json:"covered"`
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
	var open []Checkpoint
	for i, note := range checkpoints {
		cp, err := openCheckpoint(trustDomain, chain, note, key)
		if err != nil {
			return Report{}, fmt.Errorf("checkpoint %d: %w", i+1, err)
		}
		open = append(open, cp)
	}
	slices.SortStableFunc(open, func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })

	v := newChainVerifier(trustDomain, chain)
	rest := open
	check := func() error {
		for len(rest) > 0 && rest[0].Size == v.at.Sequence {
			if rest[0].Head != v.at.Hash {
				return mismatch(rest[0], v.at.Hash)
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
		return Report{}, truncated(rest[len(rest)-1], v.at.Sequence)
	}
	r := Report{Entries: v.at.Sequence, Head: v.at.Hash[:], Checkpoints: len(open)}
	if len(open) > 0 {
		r.Covered = open[len(open)-1].Size
	}
	return r, nil
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

func truncated(cp Checkpoint, have uint64) error {
	e := untrusted("checkpoint_truncation", fmt.Errorf("a checkpoint of %s covers entries that are not there: the end was cut off, or an old copy restored", cp.Time.Format("2006-01-02T15:04:05Z")))
	e.Expected = fmt.Sprintf("%d entries or more", cp.Size)
	if have > 0 {
		e.Got = fmt.Sprint(have)
	}
	return e
}

func mismatch(cp Checkpoint, got [32]byte) error {
	e := untrusted("checkpoint_mismatch", fmt.Errorf("entry %d is not the one that a checkpoint of %s covers: the chain was written anew", cp.Size, cp.Time.Format("2006-01-02T15:04:05Z")))
	e.Expected, e.Got = hex.EncodeToString(cp.Head[:]), hex.EncodeToString(got[:])
	return e
}
