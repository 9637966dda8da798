package postgres

import (
	"context"
	"fmt"
	"math"

	"github.com/assay-project/assay/issuer/store"
)

// held is what selects SVIDs, over identities i and entries e.
func held(c *conditions, trustDomain string, f store.FindHeld) {
	c.add(`i.trust_domain = %s`, trustDomain)
	c.add(`e.trust_domain = %s`, trustDomain)
	if f.SPIFFEID != "" {
		c.add(`i.spiffe_id = %s`, text(f.SPIFFEID))
	}
	if f.Instance != "" {
		c.add(`e.instance = %s`, text(f.Instance))
	}
	if f.Prefix != "" {
		c.add(`starts_with(e.instance, %s)`, text(f.Prefix))
	}
	if f.Serial != "" {
		c.add(`i.serial = %s`, text(f.Serial))
	}
	if !f.EndsAfter.IsZero() {
		c.add(`i.not_after > %s`, micros(f.EndsAfter))
	}
	if !f.MadeAfter.IsZero() {
		c.add(`e.at >= %s`, micros(f.MadeAfter))
	}
	if !f.MadeUntil.IsZero() {
		c.add(`e.at <= %s`, micros(f.MadeUntil))
	}
}

// parameter adds a value, and is what stands for it.
func (c *conditions) parameter(arg any) string {
	c.args = append(c.args, arg)
	return fmt.Sprintf("$%d", len(c.args))
}

const heldFrom = ` FROM identities i JOIN entries e ON e.trust_domain = i.trust_domain AND e.chain = i.chain AND e.sequence = i.sequence`

// HeldIdentities implements [store.BanStore].
func (s *Store) HeldIdentities(ctx context.Context, trustDomain string, f store.FindHeld) ([]store.HeldIdentity, error) {
	var c conditions
	held(&c, trustDomain, f)
	if b := f.Beyond; !b.At.IsZero() {
		at, chain := c.parameter(micros(b.At)), c.parameter(text(b.Chain))
		sequence, position := c.parameter(int64(min(b.Sequence, math.MaxInt64))), c.parameter(b.Position)
		c.text = append(c.text, `e.at <= `+at, fmt.Sprintf(`(e.at < %s OR e.chain > %s OR e.chain = %s AND (e.sequence < %s OR e.sequence = %s AND i.position > %s))`,
			at, chain, chain, sequence, sequence, position))
	}
	text := `SELECT i.serial, i.spiffe_id, i.key_thumbprint, i.not_after, i.position, e.chain, e.sequence, e.reference, e.instance, e.at` + heldFrom + c.where() +
		` ORDER BY e.at DESC, e.chain, e.sequence DESC, i.position` + c.limit(f.Page())
	return query(ctx, s, text, c.args, func(scan func(...any) error) (h store.HeldIdentity, err error) {
		var sum []byte
		var end, sequence, at int64
		err = scan(&h.Serial, &h.SPIFFEID, &sum, &end, &h.Position, &h.Chain, &sequence, &h.Reference, &h.Instance, &at)
		h.KeyThumbprint, h.NotAfter, h.Sequence, h.At = fixed(sum), when(end), uint64(sequence), when(at)
		return h, err
	})
}

// Holders implements [store.BanStore]. It finds the page first, and looks only at the
// entries of those who are on it for the rest.
func (s *Store) Holders(ctx context.Context, trustDomain string, f store.FindHeld) ([]store.Holder, error) {
	var c conditions
	held(&c, trustDomain, f)
	having := ""
	if b := f.BeyondHolder; !b.Last.IsZero() {
		at, instance := c.parameter(micros(b.Last)), c.parameter(text(b.Instance))
		having = fmt.Sprintf(` HAVING max(e.at) < %s OR max(e.at) = %s AND e.instance > %s`, at, at, instance)
	}
	find := `SELECT e.instance, max(e.at)` + heldFrom + c.where() + ` GROUP BY e.instance` + having + ` ORDER BY max(e.at) DESC, e.instance` + c.limit(f.Page())
	out, err := query(ctx, s, find, c.args, func(scan func(...any) error) (h store.Holder, err error) {
		var last int64
		err = scan(&h.Instance, &last)
		h.Last = when(last)
		return h, err
	})
	if err != nil || len(out) == 0 {
		return out, err
	}
	at, names := map[string]*store.Holder{}, make([]string, len(out))
	for i := range out {
		at[out[i].Instance], names[i] = &out[i], out[i].Instance
	}
	if f.MadeUntil.IsZero() {
		f.MadeUntil = out[0].Last // who attests between the two looks is not on the page
	}
	var more conditions
	held(&more, trustDomain, f)
	more.add(`e.instance = ANY(%s::text[])`, names)
	_, err = query(ctx, s, `SELECT e.instance, min(e.at), max(i.not_after), count(DISTINCT (e.chain, e.sequence))`+heldFrom+more.where()+` GROUP BY e.instance`,
		more.args, func(scan func(...any) error) (none struct{}, err error) {
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
