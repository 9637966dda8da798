package soak

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store/postgres"
)

// audit looks at the ledger when the storm is over: as who verifies it elsewhere
// does, by the keys that init and join wrote and the checkpoints in the sinks.
func (r *run) audit(ctx context.Context) (err error) {
	st, err := postgres.OpenReadOnly(ctx, postgres.Config{ConnString: r.database.url})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	keys := map[string]ledger.VerifierKey{}
	var witnessed [][]byte
	for _, s := range r.servers {
		text, err := os.ReadFile(filepath.Join(s.data, "checkpoint.pub"))
		if err != nil {
			return err
		}
		if keys[s.name], err = ledger.ParseVerifierKey(string(text)); err != nil {
			return err
		}
		sink, err := os.ReadFile(s.sink())
		if err != nil {
			return err
		}
		witnessed = append(witnessed, ledger.SplitNotes(sink)...)
	}
	reader := ledger.NewReader(st, trustDomain, r.servers[0].name)
	reports, err := reader.VerifyAll(ctx, keys, witnessed)
	if err != nil {
		r.violated("ledger", "it does not verify: %v", err)
		return nil //nolint:nilerr // a violation, not a failure to look
	}
	peers := 0
	for _, c := range reports {
		r.report.Entries[c.Chain] = c.Entries
		peers += c.Peers
		r.say("chain %s: %d entries, %d checkpoints in the database and the sink, %d of the other chain that name it", c.Chain, c.Entries, c.Checkpoints, c.Peers)
	}
	if len(reports) != len(r.servers) || peers == 0 {
		r.violated("ledger", "there are %d chains, which name each other %d times", len(reports), peers)
	}
	return r.serialsOnRecord(ctx, reader)
}

// serialsOnRecord looks that every serial is there once, and every key.
func (r *run) serialsOnRecord(ctx context.Context, reader *ledger.Reader) error {
	names, err := reader.Chains(ctx)
	if err != nil {
		return err
	}
	known, keys := map[string]string{}, map[string]string{}
	for _, name := range names {
		for item, err := range reader.In(name).Entries(ctx, 0) {
			if err != nil {
				return err
			}
			at := fmt.Sprintf("%s/%d", name, item.Sequence)
			for _, id := range item.Entry.Identities {
				if before, twice := known[id.Serial]; twice {
					r.violated("serial twice", "%s is in %s and %s", id.Serial, before, at)
				}
				if before, twice := keys[id.KeyThumbprint.String()]; twice {
					r.violated("key twice", "%s is in %s and %s", id.KeyThumbprint, before, at)
				}
				known[id.Serial], keys[id.KeyThumbprint.String()] = at, at
			}
		}
	}
	r.mu.Lock()
	seen := make([]string, 0, len(r.serials))
	for s := range r.serials {
		seen = append(seen, s)
	}
	r.mu.Unlock()
	for _, s := range seen {
		if _, ok := known[s]; !ok {
			r.violated("serial missing", "an agent was seen with %s, and the ledger does not know it", s)
		}
	}
	r.say("the ledger has %d serials, each once, and all %d that agents were seen with", len(known), len(seen))
	return nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// String is the summary.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %s:\n", r.Seed, r.Duration)
	for _, name := range sorted(r.Events) {
		fmt.Fprintf(&b, "  %-28s %d\n", name, r.Events[name])
	}
	fmt.Fprintf(&b, "  %d SVIDs were seen in %d looks, signed by %d authorities; %d verifications, with bundles up to %s old\n", r.SVIDs, r.Looks, r.Signers, r.Checks, r.Oldest.Round(100e6))
	fmt.Fprintf(&b, "  %d verifications of tokens, signed by %d keys; %d deny-lists; %d times an older bundle lacked an authority after a taint by force\n", r.Tokens, r.Minters, r.Lists, r.Excused)
	fmt.Fprintf(&b, "  the longest time without any server: %s; the slowest answer of an agent: %s\n", r.Longest.Round(100e6), r.Slowest.Round(10e6))
	for _, name := range sorted(r.Entries) {
		fmt.Fprintf(&b, "  chain %s has %d entries\n", name, r.Entries[name])
	}
	if len(r.Violations) == 0 {
		b.WriteString("  nothing was violated\n")
		return b.String()
	}
	fmt.Fprintf(&b, "  %d VIOLATIONS; everything is left in %s\n", len(r.Violations), r.Directory)
	for i, v := range r.Violations {
		if i == 50 {
			b.WriteString("  …\n")
			break
		}
		b.WriteString("  " + v + "\n")
	}
	return b.String()
}
