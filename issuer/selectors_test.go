package issuer_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// What policy says of the processes that get an identity reaches the agent, with
// the identity that it is about and with no other.
func TestTheAgentIsToldWhichProcessesGetAnIdentity(t *testing.T) {
	o := open(t)
	o.replacePolicy(strings.Replace(policyText(2), "        x509_ttl: 30m\n", `        x509_ttl: 30m
        selectors: {unix: {uid: 1000, supplementary_gids: [44], path: /usr/bin/reports}}
    silence: [evidence-oracle]
`, 1))
	a := o.attempt(o.connect(), newKey(t, reportsID), newKey(t, ""))
	issued, err := a.run()
	must(t, err)
	got := map[string][]*assayv1.Selector{}
	for _, s := range issued.GetSvids() {
		got[s.GetSpiffeId()] = s.GetSelectors()
	}
	want := map[string][]*assayv1.Selector{
		paymentsID: nil,
		reportsID: {
			{Type: "unix:uid", Value: "1000"},
			{Type: "unix:supplementary_gid", Value: "44"},
			{Type: "unix:path", Value: "/usr/bin/reports"},
		},
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// Whether keys may be on a disk is said of the identity that policy says it of, and
// of no other.
func TestTheAgentIsToldWhichKeysMayBeOnADisk(t *testing.T) {
	o := open(t)
	o.replacePolicy(strings.Replace(policyText(2), "        x509_ttl: 30m\n", "        x509_ttl: 30m\n        key_residency: file\n", 1))
	a := o.attempt(o.connect(), newKey(t, reportsID), newKey(t, ""))
	issued, err := a.run()
	must(t, err)
	got := map[string]bool{}
	for _, s := range issued.GetSvids() {
		got[s.GetSpiffeId()] = s.GetKeysOnDisk()
	}
	if d := cmp.Diff(map[string]bool{paymentsID: false, reportsID: true}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
