package main

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/assay-project/assay/policy/replay"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// walk calls f for every command that somebody can run.
func walk(c *cobra.Command, f func(*cobra.Command)) {
	for _, sub := range c.Commands() {
		if !sub.HasSubCommands() && sub.Name() != "version" && sub.Name() != "help" {
			f(sub)
		}
		walk(sub, f)
	}
}

func reference(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "cli.md"))
	check(t, err)
	return string(b)
}

func TestEveryCommandHasHelpWithExamplesAndIsInTheReference(t *testing.T) {
	doc := reference(t)
	n := 0
	walk(rootCommand(systemClock), func(c *cobra.Command) {
		n++
		if c.Short == "" || c.Long == "" || !strings.Contains(c.Example, "  "+c.CommandPath()) {
			t.Errorf("%s: short %q, long or example is missing", c.CommandPath(), c.Short)
		}
		if !strings.Contains(doc, "`"+c.CommandPath()+"`") {
			t.Errorf("%s is not in docs/reference/cli.md", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !strings.Contains(doc, "--"+f.Name) {
				t.Errorf("%s --%s is not in docs/reference/cli.md", c.CommandPath(), f.Name)
			}
			if f.Usage == "" {
				t.Errorf("%s --%s has no help", c.CommandPath(), f.Name)
			}
		})
	})
	if n < 26 {
		t.Errorf("%d commands, want at least 26", n)
	}
}

// The names below are relied upon outside. Add to a list; change nothing in it.
func TestJSONFieldNamesAreThoseOfTheContract(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{verdict{}, "verified tee at kind check error hint nonce binding revocation unused warnings claims decision"},
		{svidVerdict{}, "verified at kind check error hint id certificate token verifier_key result"},
		{certificate{}, "spiffe_id serial subject issuer not_before not_after key"},
		{policyReport{}, "ok file policy trust_domain digest workloads errors warnings"},
		{finding{}, "position line column message hint code"},
		{startedPolicy{}, "file policy tee from verified workload mode ownership remaining warnings"},
		{explanation{}, "file verified tee policy from at granted identities nearest kind check error hint warnings claims decision"},
		{explainedIdentity{}, "spiffe_id not_after"},
		{addedReference{}, "file written policy previous set created claim value not_before not_after note source line ended warnings"},
		{endedValue{}, "value note line not_after previous_not_after"},
		{policyTests{}, "ok cases failed files"},
		{policyTestFile{}, "file policy cases"},
		{policyTestCase{}, "name position ok outcome reason differences"},
		{policyMutants{}, "ok file policy cases score claims rules"},
		{policyDiff{}, "same a b from widenings narrowings changes undecided failed_on"},
		{policyKey{}, "key_id public_file file"},
		{policySigned{}, "file format policy trust_domain digest size key_ids"},
		{policyVerdict{}, "verified file policy trust_domain digest threshold signers others kind check error hint"},
		{policyPushed{}, "policy digest previous unchanged dry_run signers"},
		{policyStatus{}, "in_force threshold signer_keys bundle file file_policy file_refused file_outrun last_refused"},
		{replayed{}, "source since until warnings failed_on report"},
		{replay.Report{}, "draft digest against at against_at attestations distinct instances at_least first last totals groups unreadable bad partial forgotten merged"},
		{replay.Total{}, "change distinct attestations instances"},
		{replay.Group{}, "change before after distinct attestations instances at_least newest example transition members"},
		{replay.Member{}, "instance attestations newest reference"},
		{replay.Transition{}, "change before after lost gained differences why"},
		{replay.Standing{}, "policy at outcome reason workload spiffe_ids known"},
		{replay.Difference{}, "spiffe_id property before after"},
		{replay.Why{}, "policy workload note rules"},
		{replay.Bad{}, "record error"},
		{explainedRecord{}, "reference time instance transition decision"},
		{policyChange{}, "id time outcome policy revision digest source actor note signers detail size kept"},
		{record{}, "outcome reference chain sequence previous_hash hash entry"},
		{chainVerdict{}, "ok trust_domain chain entries head checkpoints checkpoints_from_elsewhere covered key key_pinned chains kind check error hint"},
		{collected{}, "tee device nonce evidence endorsements ak warnings"},
		{tpmMeasured{}, "tee file size format bank banks pcrs events boot"},
		{tpmDocument{}, "quote malformed ak ek ak_certificate ek_certificate pcrs certified event_log endorsements"},
		{snpMeasured{}, "tee measurement vmm vcpus vcpu_type vcpu_signature guest_features ovmf kernel initrd append"},
		{measuredFile{}, "name size sha256"},
		{nitroMeasured{}, "tee file size name version architecture command_line measurements signer sections"},
		{nitroSigner{}, "subject sha256 not_before not_after"},
		{nitroSection{}, "kind offset size"},
		{federationJSON{}, "trust_domain profile url endpoint_id web_roots sequence fetched next error x509_authorities jwt_authorities bundle"},
		{inventoryEntry{}, "ek group note added activated"},
		{inventoryChange{}, "added replaced entries"},
		{collateralShown{}, "directory objects bad_files"},
		{collateralEntry{}, "kind product signing_key chip_id csp_id tcb not_before not_after crl_number state"},
		{collateral.Imported{}, "sequence issued_at expires stored kept"},
		{serverStatus{}, "version trust_domain kind platforms policy policy_digest started ledger_size checkpoint_size authority_not_after server_certificate_not_after issued_total denied_total attestations_in_flight watches warnings server ready not_ready database members"},
		{serverMember{}, "name joined ledger_size last_entry"},
		{agentJSON{}, "instance tee spiffe_ids first last not_after attestations simulated watching ban policy reference cursor"},
		{agentShown{}, "agent svids entry"},
		{svidJSON{}, "serial spiffe_id instance issued not_after reference revoked cursor"},
		{banJSON{}, "id kind value reason actor since until"},
		{banMade{}, "ban instances svids dry_run omitted"},
		{denialsJSON{}, "trust_domain sequence issued_at next_update serials keys policies omitted"},
		{deniedPolicyJSON{}, "digest reason actor since"},
	} {
		doc := reference(t)
		typ := reflect.TypeOf(c.value)
		var got []string
		for i := range typ.NumField() {
			if !typ.Field(i).IsExported() {
				continue
			}
			tag := typ.Field(i).Tag.Get("json")
			if tag == "" || strings.Contains(tag, ",") {
				t.Errorf("%s.%s: tag %q: every field is named, and always there", typ, typ.Field(i).Name, tag)
			}
			got = append(got, tag)
			if !strings.Contains(doc, "`"+tag+"`") {
				t.Errorf("%s: field %s is not in docs/reference/cli.md", typ, tag)
			}
		}
		if diff := cmp.Diff(strings.Fields(c.want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", typ, diff)
		}
	}
}

func TestEveryTEEOfThisBuildIsComplete(t *testing.T) {
	if len(tees()) == 0 {
		t.Fatal("this build verifies nothing")
	}
	for _, x := range tees() {
		v := reflect.ValueOf(x)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s: %s is missing", x.platform, v.Type().Field(i).Name)
			}
		}
		got, err := findTEE(string(x.platform))
		if err != nil || got.platform != x.platform {
			t.Errorf("%s is not found: %v", x.platform, err)
		}
		o, err := x.open(opening{})
		if err != nil || o.verifier.Platform() != x.platform || o.verifier.Simulated() || o.after == nil || o.checked == nil || o.chain == nil {
			t.Errorf("%s: the pinned roots: %v", x.platform, err)
		}
		if !slices.Contains(teeNames(), string(x.platform)) {
			t.Errorf("%s is not completed", x.platform)
		}
	}
}
