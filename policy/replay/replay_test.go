package replay_test

import (
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/replay"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func hexOf(s string) string {
	sum := sha512.Sum384([]byte(s))
	return fmt.Sprintf("%x", sum)
}

// claims are those of an enclave with an image, under a role. The nonce is new
// each time.
func claims(module, image, role string, nonce int) attest.Claims {
	pcr := func(s string) attest.Bytes { sum := sha512.Sum384([]byte(s)); return sum[:] }
	return attest.Claims{Platform: attest.AWSNitro, Nitro: &attest.Nitro{
		ModuleID: module, Timestamp: noon.Add(time.Duration(nonce) * time.Second), Nonce: fmt.Append(nil, nonce),
		PCRs: map[int]attest.Bytes{0: pcr(image), 1: pcr("kernel"), 2: pcr("app"), 3: pcr(role), 8: pcr("signer")},
	}}
}

const head = "version: 1\nbundle: prod\nrevision: %d\ntrust_domain: example.org\nsilence: [no-image, unreachable]\nworkloads:\n"

func bundle(t testing.TB, revision int, workloads ...string) *policy.Bundle {
	t.Helper()
	b, err := policy.Parse("policy.yaml", []byte(fmt.Sprintf(head, revision)+strings.Join(workloads, "")))
	if err != nil {
		// Silences that silence nothing are warnings.
		t.Fatal(err)
	}
	return b
}

// workload admits images under the role "prod".
func workload(name, issue string, images ...string) string {
	var in []string
	for _, i := range images {
		in = append(in, `"`+hexOf(i)+`"`)
	}
	return fmt.Sprintf("  - name: %s\n    tee: aws-nitro\n    mode: enforce\n    match:\n      pcr0: {in: [%s]}\n      pcr3: {eq: %q}\n    issue:\n%s",
		name, strings.Join(in, ", "), hexOf("prod"), issue)
}

func issue(ids ...string) string {
	var b strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&b, "      - {spiffe_id: \"spiffe://{td}/%s\", x509_ttl: 1h}\n", id)
	}
	return b.String()
}

// recordedBy is what a server would record of claims, had the policy been in
// force.
func recordedBy(b *policy.Bundle, n int, c attest.Claims) replay.Record {
	at := noon.Add(time.Duration(n) * time.Minute)
	d, e := b.Judge(c, at)
	then := &replay.Then{
		Policy: replay.Version{Name: b.Name(), Revision: b.Revision(), Digest: b.Digest()}, At: at,
		Outcome: d.Outcome, Reason: d.Reason, Workload: d.Workload, Decision: func() (policy.Decision, error) { return d, nil },
	}
	for _, id := range e.Identities {
		then.SPIFFEIDs = append(then.SPIFFEIDs, id.SPIFFEID)
	}
	return replay.Record{Reference: fmt.Sprintf("as-%06d", n), Time: at, Instance: c.Instance(), Claims: c, Then: then}
}

func source(records ...replay.Record) replay.Source {
	return func(yield func(replay.Item, error) bool) {
		for _, r := range records {
			if !yield(replay.Item{Name: r.Reference, Decode: func() (replay.Record, error) { return r, nil }}, nil) {
				return
			}
		}
	}
}

// only returns a policy of then, of those that are kept.
func only(kept ...*policy.Bundle) func(replay.Version) *policy.Bundle {
	return func(v replay.Version) *policy.Bundle {
		for _, b := range kept {
			if b.Digest() == v.Digest {
				return b
			}
		}
		return nil
	}
}

func run(t testing.TB, s replay.Source, o replay.Options) *replay.Report {
	t.Helper()
	if o.At.IsZero() {
		o.At = noon.Add(time.Hour)
	}
	if o.AgainstAt.IsZero() {
		o.AgainstAt = o.At
	}
	r, err := replay.Run(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// summary is one line for each group.
func summary(r *replay.Report) []string {
	out := []string{}
	for _, g := range r.Groups {
		s := fmt.Sprintf("%s %s→%s %d/%d/%d %s", g.Change, g.Before, g.After, g.Instances, g.Distinct, g.Attestations, g.Example)
		for _, w := range g.Transition.Why {
			s += " " + w.Workload + ":"
			for _, r := range w.Rules {
				s += r.Rule + ","
			}
		}
		for _, d := range g.Transition.Differences {
			s += fmt.Sprintf(" %s %s→%s", d.Property, d.Before, d.After)
		}
		out = append(out, s)
	}
	return out
}

func TestADraftKeepsLosesGainsAndChanges(t *testing.T) {
	then := bundle(t, 1, workload("a", issue("a"), "image a"), workload("b", issue("b", "b/admin"), "image b"), workload("c", issue("c"), "image c"), workload("d", issue("d"), "image d"))
	draft := bundle(t, 2,
		workload("a", issue("a"), "image a"),
		workload("b", issue("b"), "image b"),          // one ID less
		workload("c", issue("c"), "image c, rebuilt"), // the reference value was exchanged
		workload("d", strings.Replace(issue("d"), "1h", "2h", 1), "image d"),
		workload("e", issue("e"), "image e"))
	var all []replay.Record
	for i, image := range []string{"a", "b", "c", "d", "e", "f", "a", "c"} {
		all = append(all, recordedBy(then, i, claims(fmt.Sprint("i-", image, i), "image "+image, "prod", i)))
	}
	want := []string{
		"loses c→no_match 2/2/2 as-000007 c:pcr0,",
		"loses b→b 1/1/1 as-000001",
		"gains no_match→e 1/1/1 as-000004 a:pcr0,",
		"changes d→d 1/1/1 as-000003 x509_ttl 1h0m0s→2h0m0s max_evidence_age 1h0m0s→2h0m0s",
		"keeps a→a 2/2/2 as-000006",
		"denied no_match→no_match 1/1/1 as-000005 a:pcr0,",
	}
	kept := run(t, source(all...), replay.Options{Draft: draft, Policies: only(then)})
	if diff := cmp.Diff(want, summary(kept)); diff != "" {
		t.Errorf("with the policy of then (-want +got):\n%s", diff)
	}
	against := run(t, source(all...), replay.Options{Draft: draft, Against: then})
	want[2] = "gains no_match→e 1/1/1 as-000004 a:pcr0,"
	if diff := cmp.Diff(want, summary(against)); diff != "" {
		t.Errorf("against the policy itself (-want +got):\n%s", diff)
	}
	lost := kept.Groups[1].Transition
	if !slices.Equal(lost.Lost, []string{"spiffe://example.org/b/admin"}) || len(lost.Gained) != 0 {
		t.Errorf("lost %v, gained %v", lost.Lost, lost.Gained)
	}
	rule := kept.Groups[0].Transition.Why[0].Rules[0]
	if rule.Got != hexOf("image c") || !strings.Contains(rule.Expected, hexOf("image c, rebuilt")) || rule.Holds {
		t.Errorf("the rule that decides: %+v", rule)
	}

	// Without the policy of then, what was issued is compared, and that is said.
	gone := run(t, source(all...), replay.Options{Draft: draft})
	want[3], want[4] = "keeps a→a 2/2/2 as-000006", "keeps d→d 1/1/1 as-000003"
	if diff := cmp.Diff(want, summary(gone)); diff != "" {
		t.Errorf("without the policy of then (-want +got):\n%s", diff)
	}
	if gone.Partial != 4 || kept.Partial != 0 || against.Partial != 0 {
		t.Errorf("compared in part: %d, %d, %d", gone.Partial, kept.Partial, against.Partial)
	}
}

func TestWhoeverExchangesAnIDLosesAndGains(t *testing.T) {
	then := bundle(t, 1, workload("a", issue("a"), "image"))
	draft := bundle(t, 2, workload("a", issue("renamed"), "image"))
	r := run(t, source(recordedBy(then, 1, claims("i-1", "image", "prod", 1))), replay.Options{Draft: draft, Policies: only(then)})
	if g := r.Groups[0]; g.Change != replay.Exchanges || !slices.Equal(g.Transition.Lost, []string{"spiffe://example.org/a"}) || !slices.Equal(g.Transition.Gained, []string{"spiffe://example.org/renamed"}) {
		t.Errorf("got %+v", g)
	}
}

func TestAWorkloadThatIsGoneIsNamed(t *testing.T) {
	then := bundle(t, 1, workload("a", issue("a"), "image"))
	draft := bundle(t, 2, workload("z", issue("a"), "other"))
	r := run(t, source(recordedBy(then, 1, claims("i-1", "image", "prod", 1))), replay.Options{Draft: draft})
	why := r.Groups[0].Transition.Why[0]
	if why.Note != "prod@2 has no workload a" || why.Workload != "z" || len(why.Rules) != 1 || why.Rules[0].Rule != "pcr0" {
		t.Errorf("got %+v", why)
	}
}

func TestWhatEndsUntilThenIsLost(t *testing.T) {
	w := strings.Replace(workload("a", issue("a"), "image"), `["`+hexOf("image")+`"]`, `[{value: "`+hexOf("image")+`", not_after: 2027-01-31T00:00:00Z}]`, 1)
	b := bundle(t, 1, w)
	record := recordedBy(b, 1, claims("i-1", "image", "prod", 1))
	for at, want := range map[string]replay.Change{"2027-01-01": replay.Keeps, "2027-02-01": replay.Loses} {
		when, err := time.Parse(time.DateOnly, at)
		if err != nil {
			t.Fatal(err)
		}
		for name, o := range map[string]replay.Options{"then": {Draft: b, Policies: only(b)}, "against": {Draft: b, Against: b, AgainstAt: noon}} {
			o.At = when
			r := run(t, source(record), o)
			if got := r.Groups[0].Change; got != want {
				t.Errorf("%s at %s: %s, want %s", name, at, got, want)
			}
			if want == replay.Loses {
				if rule := r.Groups[0].Transition.Why[0].Rules[0]; rule.Rule != "pcr0" || !strings.Contains(rule.Got+rule.Hint, "2027-01-31") {
					t.Errorf("%s: the rule does not say that the value has ended: %+v", name, rule)
				}
			}
		}
	}
	// At its own time it is kept, whatever the time is now.
	r := run(t, source(record), replay.Options{Draft: b, AtRecorded: true, Policies: only(b), At: noon.AddDate(3, 0, 0)})
	if r.Groups[0].Change != replay.Keeps || r.At != nil {
		t.Errorf("got %+v", r.Groups[0])
	}
	// In the last hour the identities end with the value: that differs.
	r = run(t, source(record), replay.Options{Draft: b, Policies: only(b), At: time.Date(2027, 1, 30, 23, 30, 0, 0, time.UTC)})
	if diff := cmp.Diff([]string{"changes a→a 1/1/1 as-000001 lifetime 1h0m0s→30m0s"}, summary(r)); diff != "" {
		t.Error(diff)
	}
}

func TestTheSameClaimsCountOnceByTheNewestRecord(t *testing.T) {
	before := bundle(t, 1, workload("b", issue("b"), "other"))
	after := bundle(t, 2, workload("a", issue("a"), "image"))
	draft := bundle(t, 3, workload("a", issue("a"), "image"))
	// Denied at first, then granted by a better policy, many times.
	records := []replay.Record{recordedBy(before, 0, claims("i-1", "image", "prod", 0))}
	for n := range 99 {
		records = append(records, recordedBy(after, n+1, claims("i-1", "image", "prod", n+1)))
	}
	want := []string{"keeps a→a 1/1/100 as-000099"}
	for range 2 {
		r := run(t, source(records...), replay.Options{Draft: draft, Policies: only(before, after)})
		if diff := cmp.Diff(want, summary(r)); diff != "" {
			t.Error(diff)
		}
		slices.Reverse(records) // in whatever order
	}
	r := run(t, source(records...), replay.Options{Draft: draft, Policies: only(before, after), Each: true})
	if diff := cmp.Diff([]string{"gains no_match→a 1/1/1 as-000000 b:pcr0,", "keeps a→a 1/99/99 as-000099"}, summary(r)); diff != "" {
		t.Error(diff)
	}
	if m := r.Groups[1].Members; len(m) != 0 {
		t.Errorf("members were not asked for: %v", m)
	}
}

func TestADenialOfTheRequestIsNoDenialOfThePolicy(t *testing.T) {
	b := bundle(t, 1, workload("a", issue("a"), "image"))
	r := recordedBy(b, 1, claims("i-1", "image", "prod", 1))
	r.Then.Outcome, r.Then.Reason, r.Then.Workload, r.Then.SPIFFEIDs = policy.Refused, policy.ReasonNotGranted, "", nil
	got := run(t, source(r), replay.Options{Draft: b})
	if diff := cmp.Diff([]string{"keeps a→a 1/1/1 as-000001"}, summary(got)); diff != "" {
		t.Error(diff)
	}
	other := bundle(t, 2, workload("a", issue("a"), "other image"))
	got = run(t, source(r), replay.Options{Draft: other})
	if diff := cmp.Diff([]string{"loses a→no_match 1/1/1 as-000001 a:pcr0,"}, summary(got)); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutTheSecretARolloutIsUndecided(t *testing.T) {
	then := bundle(t, 1, workload("a", issue("a"), "image"))
	draft := bundle(t, 2, strings.Replace(workload("a", issue("a"), "image"), "mode: enforce", "mode: {rollout: 50%}", 1))
	var records []replay.Record
	for n := range 200 {
		records = append(records, recordedBy(then, n, claims(fmt.Sprint("i-", n), "image", "prod", n)))
	}
	counts := func(b *policy.Bundle) (keeps, loses, undecided uint64) {
		r := run(t, source(records...), replay.Options{Draft: b, Policies: only(then)})
		return r.Of(replay.Keeps).Distinct, r.Of(replay.Loses).Distinct, r.Of(replay.Undecides).Distinct
	}
	if k, l, u := counts(draft); k != 0 || l != 0 || u != 200 {
		t.Errorf("without the secret: %d keep, %d lose, %d undecided", k, l, u)
	}
	if k, l, u := counts(draft.AssumeRollout(true)); k != 200 || l != 0 || u != 0 {
		t.Errorf("assumed in: %d keep, %d lose, %d undecided", k, l, u)
	}
	if k, l, u := counts(draft.AssumeRollout(false)); k != 0 || l != 200 || u != 0 {
		t.Errorf("assumed out: %d keep, %d lose, %d undecided", k, l, u)
	}
	drawn, err := draft.WithSecret([]byte(strings.Repeat("s", policy.SecretSize)))
	if err != nil {
		t.Fatal(err)
	}
	if k, l, u := counts(drawn); k < 60 || l < 60 || k+l != 200 || u != 0 {
		t.Errorf("with a secret: %d keep, %d lose, %d undecided", k, l, u)
	}
	// Beside a workload that surely grants, a rollout may make it ambiguous, or not.
	both := bundle(t, 3, workload("a", issue("a"), "image"), strings.Replace(strings.Replace(workload("b", issue("b"), "image"), "mode: enforce", "mode: {rollout: 50%}", 1),
		"    issue:", "    expr: \"size(nitro.pcr0) > 0\"\n    issue:", 1))
	if k, l, u := counts(both); k != 0 || l != 0 || u != 200 {
		t.Errorf("beside another: %d keep, %d lose, %d undecided", k, l, u)
	}
}

func TestClaimsWithoutADecisionAreAdmittedOrRefused(t *testing.T) {
	b := bundle(t, 1, workload("a", issue("a"), "image"))
	var records []replay.Record
	for n, image := range []string{"image", "other"} {
		r := recordedBy(b, n, claims(fmt.Sprint("i-", n), image, "prod", n))
		r.Then = nil
		records = append(records, r)
	}
	r := run(t, source(records...), replay.Options{Draft: b})
	if diff := cmp.Diff([]string{"admitted →a 1/1/1 as-000000", "refused →no_match 1/1/1 as-000001 a:pcr0,"}, summary(r)); diff != "" {
		t.Error(diff)
	}
	r = run(t, source(records...), replay.Options{Draft: b, Against: b})
	if diff := cmp.Diff([]string{"keeps a→a 1/1/1 as-000000", "denied no_match→no_match 1/1/1 as-000001 a:pcr0,"}, summary(r)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatCannotBeReadIsCountedAndNamed(t *testing.T) {
	b := bundle(t, 1, workload("a", issue("a"), "image"))
	good := recordedBy(b, 1, claims("i-1", "image", "prod", 1))
	bad := map[string]func() (replay.Record, error){
		"does not parse": func() (replay.Record, error) { return replay.Record{}, errors.New("no JSON") },
		"panics":         func() (replay.Record, error) { panic("out of cheese") },
		"no claims": func() (replay.Record, error) {
			return replay.Record{Claims: attest.Claims{Platform: attest.AWSNitro}}, nil
		},
		"of no platform":      func() (replay.Record, error) { return replay.Record{}, nil },
		"of two platforms":    func() (replay.Record, error) { r := good; r.Claims.SNP = &attest.SNP{}; return r, nil },
		"of another platform": func() (replay.Record, error) { r := good; r.Claims.Platform = attest.TPM2; return r, nil },
		"of nobody": func() (replay.Record, error) {
			return replay.Record{Claims: attest.Claims{Platform: attest.TPM2, TPM: &attest.TPM{}}}, nil
		},
	}
	var items []replay.Item
	for name, f := range bad {
		items = append(items, replay.Item{Name: name, Decode: f})
	}
	items = append(items, replay.Item{Name: "good", Decode: func() (replay.Record, error) { return good, nil }})
	r := run(t, func(yield func(replay.Item, error) bool) {
		for _, i := range items {
			if !yield(i, nil) {
				return
			}
		}
	}, replay.Options{Draft: b})
	if r.Attestations != 1 || r.Unreadable != uint64(len(bad)) || len(r.Bad) != len(bad) {
		t.Fatalf("%d good, %d unreadable, named: %v", r.Attestations, r.Unreadable, r.Bad)
	}
	for i, x := range r.Bad {
		if x.Record != items[i].Name || x.Error == "" {
			t.Errorf("in the order of the source: %v", r.Bad)
		}
	}
	few := run(t, func(yield func(replay.Item, error) bool) {
		for n := range 1000 {
			if !yield(replay.Item{Name: fmt.Sprint(n), Decode: bad["does not parse"]}, nil) {
				return
			}
		}
	}, replay.Options{Draft: b, MaxBad: 3})
	if few.Unreadable != 1000 || len(few.Bad) != 3 || few.Bad[0].Record != "0" || few.Bad[2].Record != "2" {
		t.Errorf("%d unreadable, named %v", few.Unreadable, few.Bad)
	}
}

func TestASourceThatFailsIsNoReport(t *testing.T) {
	b := bundle(t, 1, workload("a", issue("a"), "image"))
	boom := errors.New("boom")
	r, err := replay.Run(t.Context(), func(yield func(replay.Item, error) bool) { yield(replay.Item{}, boom) }, replay.Options{Draft: b, At: noon})
	if r != nil || !errors.Is(err, boom) {
		t.Errorf("got %v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	r, err = replay.Run(ctx, func(yield func(replay.Item, error) bool) {
		for yield(replay.Item{Decode: func() (replay.Record, error) { return recordedBy(b, 1, claims("i-1", "image", "prod", 1)), nil }}, nil) {
			if n++; n == 10_000 {
				cancel()
			}
		}
	}, replay.Options{Draft: b, At: noon})
	if r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", r, err)
	}
	if _, err := replay.Run(t.Context(), source(), replay.Options{}); err == nil {
		t.Error("without a draft there is nothing to replay")
	}
}

func TestOnlyRecordsOfTheTimeCount(t *testing.T) {
	b := bundle(t, 1, workload("a", issue("a"), "image"))
	var records []replay.Record
	for n := range 10 {
		records = append(records, recordedBy(b, n, claims(fmt.Sprint("i-", n), "image", "prod", n)))
	}
	r := run(t, source(records...), replay.Options{Draft: b, Since: noon.Add(3 * time.Minute), Until: noon.Add(6 * time.Minute)})
	if r.Attestations != 3 || !r.First.Equal(noon.Add(3*time.Minute)) || !r.Last.Equal(noon.Add(5*time.Minute)) {
		t.Errorf("%d from %v to %v", r.Attestations, r.First, r.Last)
	}
}

// A report does not depend on the order of records, nor on how many cores there
// are, as long as memory suffices.
func TestTheReportIsTheSameOnAnyNumberOfCores(t *testing.T) {
	then := bundle(t, 1, workload("a", issue("a"), "image 0", "image 1"), workload("b", issue("b"), "image 2"))
	draft := bundle(t, 2, workload("a", issue("a"), "image 1", "image 3"), workload("b", issue("c"), "image 2"))
	var records []replay.Record
	for n := range 3000 {
		records = append(records, recordedBy(then, n, claims(fmt.Sprint("i-", n%371), fmt.Sprint("image ", n%5), "prod", n)))
	}
	want := ""
	for _, workers := range []int{1, 2, 7} {
		r := run(t, source(records...), replay.Options{Draft: draft, Policies: only(then), Workers: workers, Members: 4})
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = string(b)
		}
		if diff := cmp.Diff(want, string(b)); diff != "" {
			t.Errorf("%d workers: %s", workers, diff)
		}
		slices.Reverse(records)
	}
}

func TestMemoryIsBoundedAndTheReportSaysSo(t *testing.T) {
	b := bundle(t, 1, workload("a", issue("a"), "image"))
	var records []replay.Record
	for n := range 2000 {
		records = append(records, recordedBy(b, n, claims(fmt.Sprint("i-", n), "image", "prod", n)))
	}
	r := run(t, source(records...), replay.Options{Draft: b, Policies: only(b), MaxDistinct: 128, MaxInstances: 100})
	keeps := r.Of(replay.Keeps)
	if keeps.Attestations != 2000 || keeps.Distinct != 2000 || keeps.Instances != 100 || !r.AtLeast || r.Forgotten == 0 {
		t.Errorf("%+v, %d forgotten", keeps, r.Forgotten)
	}
	// Nobody is lost where groups are merged.
	then := bundle(t, 1, workload("a", issue("a"), "image"))
	var ws []string
	records = nil
	for n := range 40 {
		ws = append(ws, workload(fmt.Sprint("w", n), issue("w"), fmt.Sprint("image ", n)))
		records = append(records, recordedBy(then, n, claims(fmt.Sprint("i-", n), fmt.Sprint("image ", n), "prod", n)))
	}
	r = run(t, source(records...), replay.Options{Draft: bundle(t, 2, ws...), Policies: only(then), MaxGroups: 8})
	if !r.Merged || len(r.Groups) > 8+len(replay.AllChanges) || r.Of(replay.Gains).Distinct != 40 {
		t.Errorf("%d groups, %d gain", len(r.Groups), r.Of(replay.Gains).Distinct)
	}
}
