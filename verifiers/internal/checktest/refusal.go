package checktest

import (
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// Case is evidence, or a call, that must end in one check. It differs from a good
// one in one thing.
type Case struct {
	Name, Check string
	Run         func(t *testing.T) (*attest.Claims, error)
}

// An Entry is a verifier's own type of a case, which is written like [Case].
type Entry interface {
	~struct {
		Name, Check string
		Run         func(t *testing.T) (*attest.Claims, error)
	}
}

// Refused fails unless a verifier returned an error of exactly this check, of the
// kind that the table gives to it, and nothing beside it.
func Refused[R check.Row](t testing.TB, table []R, got *attest.Claims, err error, name string) {
	t.Helper()
	if err == nil {
		t.Fatalf("verified, want a refusal by %s", name)
	}
	if got != nil {
		t.Error("claims beside an error")
	}
	if c := attest.CheckOf(err); c != name {
		t.Fatalf("refused by %q, want %q: %v", c, name, err)
	}
	if k, want := attest.KindOf(err), KindOf(t, table, name); k != want {
		t.Errorf("kind %s, want %s", k, want)
	}
}

// EachRefuses runs all cases. It fails for a check of the table without a case,
// unless elsewhere says which test covers it.
func EachRefuses[R check.Row, E Entry](t *testing.T, table []R, cases []E, elsewhere map[string]string) {
	t.Helper()
	covered := make(map[string]int)
	for _, e := range cases {
		c := Case(e)
		covered[c.Check]++
		t.Run(c.Check+"/"+c.Name, func(t *testing.T) {
			got, err := c.Run(t)
			Refused(t, table, got, err, c.Check)
			if err.Error() == c.Check {
				t.Error("the error says nothing beyond the name of its check")
			}
		})
	}
	for _, r := range table {
		if c := check.Check(r); covered[c.Name] == 0 && elsewhere[c.Name] == "" {
			t.Errorf("check %s has no negative case", c.Name)
		}
	}
	t.Logf("%d cases for %d checks", len(cases), len(covered))
}
