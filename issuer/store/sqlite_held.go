package store

import (
	"context"
	"math"
	"slices"
	"strings"
)

// held is what selects SVIDs, over identities i and entries e.
func (f FindHeld) held(trustDomain string) (cond []string, args []any) {
	cond = []string{"i.trust_domain = ?"}
	args = []any{trustDomain}
	add := func(c string, arg ...any) { cond, args = append(cond, c), append(args, arg...) }
	if f.SPIFFEID != "" {
		add("i.spiffe_id = ?", f.SPIFFEID)
	}
	if f.Instance != "" {
		add("e.instance = ?", f.Instance)
	}
	if f.Prefix != "" {
		add("substr(e.instance, 1, length(?)) = ?", f.Prefix, f.Prefix)
	}
	if f.Serial != "" {
		add("i.serial = ?", f.Serial)
	}
	if !f.EndsAfter.IsZero() {
		add("i.not_after > ?", micros(f.EndsAfter))
	}
	if !f.MadeAfter.IsZero() {
		add("e.at >= ?", micros(f.MadeAfter))
	}
	if !f.MadeUntil.IsZero() {
		add("e.at <= ?", micros(f.MadeUntil))
	}
	return cond, args
}

// heldFrom joins SVIDs and their entries. The newest come first: where nothing picks
// out some few of them, the index of the entries by time is followed, so that a page
// costs what is in it; the planner has no statistics, and would sort them all.
func (f FindHeld) heldFrom(where []string) string {
	from := ` FROM identities i JOIN entries e`
	if f.SPIFFEID == "" && f.Instance == "" && f.Serial == "" {
		from = ` FROM entries e INDEXED BY entries_at CROSS JOIN identities i`
		where = append(where, "e.trust_domain = i.trust_domain")
	}
	return from + ` ON e.trust_domain = i.trust_domain AND e.chain = i.chain AND e.sequence = i.sequence WHERE ` + strings.Join(where, " AND ")
}

// HeldIdentities implements [BanStore].
func (s *SQLite) HeldIdentities(ctx context.Context, trustDomain string, f FindHeld) ([]HeldIdentity, error) {
	where, args := f.held(trustDomain)
	where, args = append(where, "e.trust_domain = ?"), append(args, trustDomain)
	if b := f.Beyond; !b.At.IsZero() {
		at, sequence := micros(b.At), int64(min(b.Sequence, math.MaxInt64))
		where = append(where, "e.at <= ?", "(e.at < ? OR e.chain > ? OR e.chain = ? AND (e.sequence < ? OR e.sequence = ? AND i.position > ?))")
		args = append(args, at, at, b.Chain, b.Chain, sequence, sequence, b.Position)
	}
	return query(ctx, s.r, `SELECT i.serial, i.spiffe_id, i.key_thumbprint, i.not_after, i.position, e.chain, e.sequence, e.reference, e.instance, e.at`+f.heldFrom(where)+
		` ORDER BY e.at DESC, e.chain, e.sequence DESC, i.position LIMIT ?`, append(args, f.Page()), func(scan func(...any) error) (h HeldIdentity, err error) {
		var sum []byte
		var end, sequence, at int64
		err = scan(&h.Serial, &h.SPIFFEID, &sum, &end, &h.Position, &h.Chain, &sequence, &h.Reference, &h.Instance, &at)
		h.KeyThumbprint, h.NotAfter, h.Sequence, h.At = fixed(sum), when(end), uint64(sequence), when(at)
		return h, err
	})
}

// Holders implements [BanStore]. It finds the page first, from an index alone, and
// looks only at the entries of those who are on it for the rest.
func (s *SQLite) Holders(ctx context.Context, trustDomain string, f FindHeld) ([]Holder, error) {
	where, args := f.held(trustDomain)
	which := strings.Join(where, " AND ")
	having, page := "", args
	if b := f.BeyondHolder; !b.Last.IsZero() {
		at := micros(b.Last)
		having, page = ` HAVING max(e.at) < ? OR max(e.at) = ? AND e.instance > ?`, append(slices.Clone(args), at, at, b.Instance)
	}
	out, err := query(ctx, s.r, `SELECT e.instance, max(e.at) FROM entries e INDEXED BY entries_instance_at
		JOIN identities i ON e.trust_domain = i.trust_domain AND e.chain = i.chain AND e.sequence = i.sequence
		WHERE e.trust_domain = ? AND `+which+` GROUP BY e.instance`+having+` ORDER BY max(e.at) DESC, e.instance LIMIT ?`,
		append(append([]any{trustDomain}, page...), f.Page()), func(scan func(...any) error) (h Holder, err error) {
			var last int64
			err = scan(&h.Instance, &last)
			h.Last = when(last)
			return h, err
		})
	if err != nil || len(out) == 0 {
		return out, err
	}
	at := map[string]*Holder{}
	args = append([]any{trustDomain}, args...)
	for i := range out {
		at[out[i].Instance] = &out[i]
		args = append(args, out[i].Instance)
	}
	until := f.MadeUntil
	if until.IsZero() {
		until = out[0].Last // who attests between the two looks is not on the page
	}
	_, err = query(ctx, s.r, `SELECT e.instance, min(e.at), max(i.not_after), count(DISTINCT e.chain || '/' || e.sequence) FROM entries e INDEXED BY entries_instance_at
		JOIN identities i ON e.trust_domain = i.trust_domain AND e.chain = i.chain AND e.sequence = i.sequence
		WHERE e.trust_domain = ? AND `+which+` AND e.instance IN (?`+strings.Repeat(",?", len(out)-1)+`) AND e.at <= ? GROUP BY e.instance`,
		append(args, micros(until)), func(scan func(...any) error) (none struct{}, err error) {
			var name string
			var first, end, n int64
			err = scan(&name, &first, &end, &n)
			if h := at[name]; h != nil {
				h.First, h.NotAfter, h.Attestations = when(first), when(end), uint64(n)
			}
			return none, err
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}
