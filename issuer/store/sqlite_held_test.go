package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/storetest"
)

// counted counts what is read of a store.
type counted struct {
	store.Store
	pages, rows, longest int
}

func (c *counted) count(n int) {
	c.pages++
	c.rows += n
	c.longest = max(c.longest, n)
}

func (c *counted) HeldIdentities(ctx context.Context, td string, f store.FindHeld) ([]store.HeldIdentity, error) {
	rows, err := c.Store.HeldIdentities(ctx, td, f)
	c.count(len(rows))
	return rows, err
}

func (c *counted) Holders(ctx context.Context, td string, f store.FindHeld) ([]store.Holder, error) {
	rows, err := c.Store.Holders(ctx, td, f)
	c.count(len(rows))
	return rows, err
}

// With a hundred thousand SVIDs a list has a page of them in memory, each comes once,
// and the first few cost no more than they are.
func TestAHundredThousandSVIDsAreListedAPageAtATime(t *testing.T) {
	t.Parallel()
	const many, instances = 100_000, 2_500
	p := newPath(t)
	s := open(t, p)
	first := storetest.Batch("a", 1, 1)
	if err := s.InitTrustDomain(t.Context(), store.TrustDomain{Name: first.TrustDomain, Simulated: true, CreatedAt: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, stmt := range []string{
		`WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < %[1]d)
			INSERT INTO entries (trust_domain, chain, sequence, hash, payload, at, reference, instance, evidence_digest, outcome)
			SELECT '%[2]s', 'main', x, zeroblob(32), x'7b7d', 1000000 * x, 'as-' || x, 'aws-nitro:i-' || (x * 7919 %% %[3]d), zeroblob(32), 'granted' FROM n`,
		`WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x < %[1]d)
			INSERT INTO identities (trust_domain, serial, chain, sequence, position, spiffe_id, key_thumbprint, not_after)
			SELECT '%[2]s', printf('%%032x', x), 'main', x, 0, 'spiffe://%[2]s/w', randomblob(32), 1000000 * (x + 3600) FROM n`,
	} {
		if _, err := db.ExecContext(t.Context(), fmt.Sprintf(stmt, many, first.TrustDomain, instances)); err != nil {
			t.Fatal(err)
		}
	}

	c := &counted{Store: s}
	seen := make([]bool, many+1)
	n := many
	for h, err := range store.EachHeld(t.Context(), c, first.TrustDomain, store.FindHeld{}) {
		if err != nil {
			t.Fatal(err)
		}
		if h.Sequence != uint64(n) || seen[h.Sequence] {
			t.Fatalf("entry %d comes where %d should", h.Sequence, n)
		}
		seen[h.Sequence] = true
		n--
	}
	if n != 0 || c.rows != many || c.longest > store.HeldPage || c.pages > many/store.HeldPage+1 {
		t.Errorf("%d left; %d rows were read in %d pages, the longest of %d", n, c.rows, c.pages, c.longest)
	}
	*c = counted{Store: s}
	holders := map[string]bool{}
	for h, err := range store.EachHolder(t.Context(), c, first.TrustDomain, store.FindHeld{}) {
		if err != nil {
			t.Fatal(err)
		}
		if holders[h.Instance] || h.Attestations != many/instances {
			t.Fatalf("%+v", h)
		}
		holders[h.Instance] = true
	}
	if len(holders) != instances || c.rows != instances || c.longest > store.HeldPage {
		t.Errorf("%d instances; %d rows were read in %d pages, the longest of %d", len(holders), c.rows, c.pages, c.longest)
	}

	// The first fifty are read, and no more; so are fifty from the middle on.
	for what, f := range map[string]store.FindHeld{
		"the newest":      {Limit: 50},
		"from the middle": {Limit: 50, Beyond: store.HeldPlace{At: time.Unix(many/2, 0), Chain: "main", Sequence: many / 2}},
		"live":            {Limit: 50, EndsAfter: time.Unix(many, 0), MadeAfter: time.Unix(many-86400, 0)},
		"of a platform":   {Limit: 50, Prefix: "aws-nitro:"},
	} {
		*c = counted{Store: s}
		n, began := 0, time.Now()
		for _, err := range store.EachHeld(t.Context(), c, first.TrustDomain, f) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 50 || c.rows != 50 {
			t.Errorf("%s: %d came, %d were read", what, n, c.rows)
		}
		if took := time.Since(began); took > time.Second { // sorting all of them takes that long; a page takes a millisecond
			t.Errorf("%s: fifty took %s", what, took)
		}
	}
}
