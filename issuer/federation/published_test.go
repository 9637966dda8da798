package federation

import (
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// X509-SVID, section 6.1; JWT-SVID, section 6.1: which members an entry of a bundle
// must have, and which it must not.
func TestAPublishedBundleHasTheMembersOfTheSpecification(t *testing.T) {
	a := newAuthority(t, "spiffe://b.example.org")
	b := bundle(7, time.Minute, a)
	must(t, b.AddJWTAuthority("one", newKey(t).Public()))
	var doc struct {
		Keys     []map[string]any
		Sequence uint64 `json:"spiffe_sequence"`
		Hint     int    `json:"spiffe_refresh_hint"`
	}
	must(t, json.Unmarshal(document(t, b), &doc))
	if doc.Sequence != 7 || doc.Hint != 60 || len(doc.Keys) != 2 {
		t.Fatalf("sequence %d, hint %d, %d keys", doc.Sequence, doc.Hint, len(doc.Keys))
	}
	for _, k := range doc.Keys {
		kid, named := k["kid"]
		chain, certified := k["x5c"]
		switch k["use"] {
		case "x509-svid":
			if named {
				t.Errorf("an X.509 authority with a key id: %v", kid)
			}
			if d := cmp.Diff([]any{base64.StdEncoding.EncodeToString(a.cert.Raw)}, chain); d != "" {
				t.Errorf("x5c (-want +got):\n%s", d)
			}
		case "jwt-svid":
			if kid != "one" || certified {
				t.Errorf("a JWT authority with the key id %v and certificates %v", kid, chain)
			}
		default:
			t.Errorf("an entry of use %v", k["use"])
		}
		if k["d"] != nil {
			t.Error("a private key")
		}
	}
}
