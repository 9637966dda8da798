package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Of three identities one has ended: who looks at health is told which.
func TestHealthNamesTheIdentitiesThatEnded(t *testing.T) {
	now := time.Now()
	s := &standing{TrustDomains: []trustDomain{
		{Identities: []heldIdentity{{SPIFFEID: "spiffe://a/lasting", NotAfter: now.Add(time.Minute)}}},
		{Identities: []heldIdentity{{SPIFFEID: "spiffe://b/lasting", NotAfter: now.Add(time.Minute)}, {SPIFFEID: "spiffe://b/over", NotAfter: now.Add(-time.Second)}}},
	}}
	h := health{Serving: "good", Ended: s.ended(now)}
	if diff := cmp.Diff([]string{"spiffe://b/over"}, h.Ended); diff != "" {
		t.Fatal(diff)
	}
	for output, want := range map[string]string{"text": "\n  spiffe://b/over  ended\n", "json": `"ended":["spiffe://b/over"]`} {
		var b bytes.Buffer
		if err := h.write(&b, output); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%s: %q, %v", output, b.String(), err)
		}
	}
	var b strings.Builder
	s.TrustDomains[1].text(&b, now)
	if !strings.Contains(b.String(), "spiffe://b/over, ended ") || !strings.Contains(b.String(), "spiffe://b/lasting, until ") {
		t.Errorf("status: %s", b.String())
	}
}
