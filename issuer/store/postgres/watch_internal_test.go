package postgres

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/issuer/store"
)

// hearing returns a watch that has seen count 4 of a topic, and what it reports.
func hearing() (*watch, *[]store.Event) {
	var got []store.Event
	w := &watch{schema: "public", seen: map[topicOf]int64{{"td", store.TopicPolicies}: 4}, on: func(e store.Event) { got = append(got, e) }}
	return w, &got
}

func TestOnlyTheNextChangeNamesItsRow(t *testing.T) {
	for name, tt := range map[string]struct {
		payload string
		want    []store.Event
	}{
		"the next one":         {`{"schema":"public","trust_domain":"td","topic":"policies","version":5,"key":"p"}`, []store.Event{{TrustDomain: "td", Topic: store.TopicPolicies, Key: "p"}}},
		"one after a gap":      {`{"schema":"public","trust_domain":"td","topic":"policies","version":7,"key":"p"}`, []store.Event{{TrustDomain: "td", Topic: store.TopicPolicies}}},
		"one that is known":    {`{"schema":"public","trust_domain":"td","topic":"policies","version":4,"key":"p"}`, nil},
		"of another schema":    {`{"schema":"other","trust_domain":"td","topic":"policies","version":5,"key":"p"}`, nil},
		"of another program":   {`ping`, nil},
		"of a topic never met": {`{"schema":"public","trust_domain":"td","topic":"documents","version":1,"key":"k"}`, []store.Event{{TrustDomain: "td", Topic: store.TopicDocuments, Key: "k"}}},
	} {
		w, got := hearing()
		w.hear(tt.payload)
		if d := cmp.Diff(tt.want, *got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// Whoever may connect to the database may notify anything.
func FuzzHear(f *testing.F) {
	f.Add(`{"schema":"public","trust_domain":"td","topic":"policies","version":5,"key":"p"}`)
	f.Add(`{"schema":"public","version":-9223372036854775808}`)
	f.Add(``)
	f.Fuzz(func(t *testing.T, payload string) {
		w, got := hearing()
		w.hear(payload)
		if len(*got) > 1 || w.seen[topicOf{"td", store.TopicPolicies}] < 4 {
			t.Errorf("%q: %v, seen %v", payload, *got, w.seen)
		}
	})
}
