package config

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEveryKeyIsEitherTakenOverOrNeedsARestart(t *testing.T) {
	for _, problem := range unlisted(reflect.TypeFor[Config](), "") {
		t.Error(problem)
	}
}

func TestAReloadTakesOverWhatIsSafeAndNamesTheRest(t *testing.T) {
	running := Default()
	running.TrustDomain = "a.example"
	next := running
	next.Limits.InFlight = 7
	next.Log = Log{Level: "debug", Format: "json"}
	next.Tenants = []string{"/b.yaml"}
	next.Authorities.X509TTL = 48 * time.Hour
	next.Listen = ":1"
	next.JWT.MaxTTL = time.Minute
	next.Administration.Roles.Viewer = []string{"spiffe://x/y"}

	got, restart := Effective(&running, &next)
	want := running
	want.Administration.Roles.Viewer = []string{"spiffe://x/y"}
	want.Limits.InFlight, want.Log.Level, want.Tenants = 7, "debug", []string{"/b.yaml"}
	if d := cmp.Diff(&want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"authorities.x509_ttl", "jwt.max_ttl", "listen", "log.format"}, restart); d != "" {
		t.Error(d)
	}
	if running.Limits.InFlight == 7 {
		t.Error("the running configuration was changed")
	}
}

func TestWhoMayComeToAnAddressIsNotTakenOverWithoutTheAddress(t *testing.T) {
	running := Default()
	running.Administration = Administration{Listen: ":1", TrustDomain: "admins.example", Bundle: "/b", Roles: Roles{Viewer: []string{"spiffe://admins.example/a"}}}
	next := running
	next.Administration = Administration{}
	got, restart := Effective(&running, &next)
	if d := cmp.Diff(&running, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"administration.bundle", "administration.listen", "administration.roles.viewer", "administration.trust_domain"}, restart); d != "" {
		t.Error(d)
	}
}

func TestAReloadOfTheSameFileChangesNothing(t *testing.T) {
	running := Default()
	next := Default()
	got, restart := Effective(&running, &next)
	if d := cmp.Diff(&running, got); d != "" || len(restart) != 0 {
		t.Errorf("%s %v", d, restart)
	}
}
