package deploy

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// documented are the metrics of docs/reference/metrics.md, which a test of package
// issuer compares with what a server serves.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(assay_[a-z0-9_]+)` ").FindAllStringSubmatch(read(t, "../docs/reference/metrics.md"), -1) {
		out[m[1]] = true
	}
	if len(out) < 30 {
		t.Fatalf("only %d metrics were found in the documentation", len(out))
	}
	return out
}

var (
	metric = regexp.MustCompile(`\b(?:assay|process|go)_[a-z0-9_]+`)
	suffix = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// known checks the metrics of one expression.
func known(t *testing.T, where, expr string, metrics map[string]bool) {
	t.Helper()
	found := metric.FindAllString(expr, -1)
	for _, name := range found {
		if !strings.HasPrefix(name, "assay_") || metrics[name] || metrics[suffix.ReplaceAllString(name, "")] {
			continue
		}
		t.Errorf("%s: there is no metric %s", where, name)
	}
	if len(found) == 0 && !strings.HasPrefix(expr, "up{") {
		t.Errorf("%s: %q asks for no metric", where, expr)
	}
}

func TestEveryMetricOfTheDashboardExists(t *testing.T) {
	t.Parallel()
	var d struct {
		Title      string `json:"title"`
		UID        string `json:"uid"`
		Templating struct {
			List []struct{ Name, Type, Query string } `json:"list"`
		} `json:"templating"`
		Panels []struct {
			ID          int `json:"id"`
			Type, Title string
			Description string `json:"description"`
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr string } `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/assay.json")), &d); err != nil {
		t.Fatal(err)
	}
	metrics := documented(t)
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q: its id comes twice, or it has no title or place", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q says or asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			known(t, p.Title, target.Expr, metrics)
			for _, v := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
				if !strings.Contains(read(t, "grafana/assay.json"), `"name": "`+v[1]+`"`) {
					t.Errorf("panel %q: there is no variable %s", p.Title, v[1])
				}
			}
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			known(t, "variable "+v.Name, v.Query, metrics)
		}
	}
	if len(ids) < 15 || d.UID == "" {
		t.Errorf("%d panels, uid %q", len(ids), d.UID)
	}
}

func TestEveryMetricOfTheAlertsExists(t *testing.T) {
	t.Parallel()
	var f struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert       string
				Expr        string
				For         string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(read(t, "prometheus/assay.rules.yaml")))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		t.Fatal(err)
	}
	metrics := documented(t)
	guide := read(t, "../docs/guides/production.md")
	seen := map[string]bool{}
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if seen[r.Alert] {
				t.Errorf("%s comes twice", r.Alert)
			}
			seen[r.Alert] = true
			known(t, r.Alert, r.Expr, metrics)
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s has no severity, summary or description", r.Alert)
			}
			if !strings.Contains(guide, "`"+r.Alert+"`") {
				t.Errorf("docs/guides/production.md does not tell of %s", r.Alert)
			}
		}
	}
	// What the reference says to alert on has an alert.
	rules := read(t, "prometheus/assay.rules.yaml")
	for _, line := range strings.Split(read(t, "../docs/reference/metrics.md"), "\n") {
		if m := regexp.MustCompile("^\\| `(assay_[a-z0-9_]+)` ").FindStringSubmatch(line); m != nil && strings.Contains(line, "Alert on it") && !strings.Contains(rules, m[1]) {
			t.Errorf("the reference says to alert on %s, and no alert does", m[1])
		}
	}
}
