package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/policy"
)

func TestSelectorsComeWithTheirIdentity(t *testing.T) {
	l := newLab(t)
	b := parse(t, change(t, base, "        x509_ttl: 1h\n", `        selectors:
          unix: {sha256: "`+strings.ToUpper(sized("exe", 32).String())+`", path: "/opt/my app/api", supplementary_gids: [44, 4294967294], gid: 0, uid: 1000}
      - spiffe_id: "spiffe://{td}/all"
`))
	g, err := b.Authorize(l.verify(t, attestation{pcrs: good, requested: []string{"", ""}}), noon)
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.Selector{
		{Type: "unix:uid", Value: "1000"},
		{Type: "unix:gid", Value: "0"},
		{Type: "unix:supplementary_gid", Value: "44"},
		{Type: "unix:supplementary_gid", Value: "4294967294"},
		{Type: "unix:path", Value: "/opt/my app/api"},
		{Type: "unix:sha256", Value: sized("exe", 32).String()},
	}
	issues := g.Issues()
	if d := cmp.Diff(want, issues[0].Identity.Selectors); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if s := issues[1].Identity.Selectors; len(s) != 0 {
		t.Errorf("the identity for all has %v", s)
	}
	// The caller owns what it is given.
	issues[0].Identity.Selectors[0].Value = "0"
	if got := g.Issues()[0].Identity.Selectors[0].Value; got != "1000" {
		t.Errorf("the grant's own selectors changed: %s", got)
	}
}

func TestSelectorsOfServicesAndContainersAreCarriedAsTheAgentReadsThem(t *testing.T) {
	image := "sha256:" + strings.Repeat("1f", 32)
	b := parse(t, change(t, base, "        x509_ttl: 1h\n", `        selectors:
          systemd: {unit: orders.service}
          docker: {image_id: "`+image+`", image_digest: "`+image+`", name: orders, labels: {tier: gold, org.example.zone: "eu:1"}}
          k8s: {namespace: shop, service_account: orders, pod: orders-0, container: api, image_digest: "`+image+`", labels: {app: orders}}
          unix: {uid: 0}
`))
	g, err := b.Authorize(newLab(t).verify(t, attestation{pcrs: good, requested: []string{""}}), noon)
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.Selector{
		{Type: "unix:uid", Value: "0"},
		{Type: "systemd:unit", Value: "orders.service"},
		{Type: "docker:image_id", Value: image},
		{Type: "docker:image_digest", Value: image},
		{Type: "docker:name", Value: "orders"},
		{Type: "docker:label", Value: "tier:gold"},
		{Type: "docker:label", Value: "org.example.zone:eu:1"},
		{Type: "k8s:namespace", Value: "shop"},
		{Type: "k8s:service_account", Value: "orders"},
		{Type: "k8s:pod", Value: "orders-0"},
		{Type: "k8s:container", Value: "api"},
		{Type: "k8s:image_digest", Value: image},
		{Type: "k8s:pod_label", Value: "app:orders"},
	}
	if diff := cmp.Diff(want, g.Issues()[0].Identity.Selectors); diff != "" {
		t.Errorf("selectors (-want +got):\n%s", diff)
	}
}

func TestMistakesInSelectorsAreErrors(t *testing.T) {
	for _, c := range []struct{ name, selectors, want string }{
		{"no mapping", `[]`, "18:20: want a mapping, got a list"},
		{"unknown kind", `{windows: {user: x}, unix: {uid: 1}}`, `18:21: unknown key "windows"`},
		{"nothing", `{}`, `18:20: selectors name nothing: every process would match`},
		{"nothing of unix", `{unix: {}}`, "18:27: selectors name nothing: every process would match"},
		{"unknown selector", `{unix: {uid: 1, pid: 1}}`, `18:36: unknown key "pid"`},
		{"a name for a number", `{unix: {uid: root}}`, `want a whole number, got "root"`},
		{"no id", `{unix: {uid: 4294967295}}`, "18:33: there is no id 4294967295"},
		{"negative", `{unix: {gid: -1}}`, "18:33: the number -1 is out of range"},
		{"no groups", `{unix: {supplementary_gids: []}}`, "supplementary_gids has 0 entries, want 1 to 16"},
		{"a group twice", `{unix: {supplementary_gids: [4, 4]}}`, "18:52: the group 4 is listed twice"},
		{"a relative path", `{unix: {path: bin/api}}`, `18:34: not the path of an executable: "bin/api"`},
		{"a path with ..", `{unix: {path: /opt/../bin/api}}`, "not the path of an executable"},
		{"a directory", `{unix: {path: /opt/}}`, "not the path of an executable"},
		{"the root", `{unix: {path: /}}`, "not the path of an executable"},
		{"a long path", `{unix: {path: /` + strings.Repeat("a", 512) + `}}`, "not the path of an executable"},
		{"a path with a line break", `{unix: {path: "/a\nb"}}`, "not the path of an executable"},
		{"another hash", `{unix: {sha256: "$exe/48$"}}`, "18:36: want 32 bytes in hex (64 characters), got 48 bytes"},
		{"a unit without its suffix", `{systemd: {unit: orders}}`, `18:37: not the name of a unit: "orders"`},
		{"a unit in a path", `{systemd: {unit: a/b.service}}`, "not the name of a unit"},
		{"nothing of docker", `{docker: {}}`, "18:29: selectors name nothing"},
		{"an image by name", `{docker: {image_digest: "orders:41"}}`, `18:44: not the digest of an image: "orders:41"`},
		{"an image without its hash", `{docker: {image_id: "$exe/32$"}}`, "not the digest of an image"},
		{"no labels", `{docker: {labels: {}}}`, "18:38: labels has 0 entries, want 1 to 8"},
		{"a label with two colons", `{docker: {labels: {"a:b": c}}}`, `18:39: not the key of a label: "a:b"`},
		{"a pod of any namespace", `{k8s: {pod: orders-0}}`, `18:26: the key "namespace" is missing`},
		{"an empty name", `{k8s: {namespace: ""}}`, `18:38: not a name: ""`},
		{"a zero hash", `{unix: {sha256: "` + strings.Repeat("0", 64) + `"}}`, "an all-zero reference value is refused"},
	} {
		src := expand(change(t, base, "x509_ttl: 1h", "selectors: "+c.selectors))
		if _, err := policy.Parse("p.yaml", []byte(src)); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// A path and a digest say which program a process runs. Everybody may run it.
func TestAProgramThatEverybodyCanRunIsNobodys(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	for selectors, want := range map[string]int{
		"{unix: {path: /usr/bin/api}}":                                   1,
		"{unix: {sha256: " + digest + "}}":                               1,
		"{unix: {path: /usr/bin/api, sha256: " + digest + "}}":           1,
		"{unix: {path: /usr/bin/api, uid: 0}}":                           0,
		"{unix: {path: /usr/bin/api, gid: 7}}":                           0,
		"{unix: {sha256: " + digest + ", supplementary_gids: [7]}}":      0,
		"{unix: {path: /usr/bin/api}, systemd: {unit: api.service}}":     0,
		"{unix: {path: /usr/bin/api}, docker: {name: api}}":              0,
		"{unix: {path: /usr/bin/api}, docker: {labels: {app: api}}}":     0,
		"{unix: {path: /usr/bin/api}, k8s: {namespace: shop}}":           0,
		"{unix: {path: /usr/bin/api}, k8s: {namespace: shop, pod: api}}": 0,
		"{unix: {uid: 1000}}":                                            0,
	} {
		src := change(t, base, "    match:", "    silence: [evidence-oracle]\n    match:", "x509_ttl: 1h", "selectors: "+selectors)
		got := parse(t, src).Warnings()
		if len(got) != want || want == 1 && got[0].Code != string(policy.CodeAnyUser) {
			t.Errorf("%s: want %d, got:\n%s", selectors, want, got.Render())
		}
		for _, s := range [][2]string{
			{"[evidence-oracle]", "[evidence-oracle, selector-any-user]"},
			{"mode: enforce\n    silence: [evidence-oracle]", "mode: audit"},
		} {
			if want == 0 && strings.Contains(s[1], "any-user") {
				continue
			}
			if got := parse(t, change(t, src, s[0], s[1])).Warnings(); len(got) != 0 {
				t.Errorf("%s, %s: still:\n%s", selectors, s[1], got.Render())
			}
		}
	}
	// Each identity is told of by itself.
	two := change(t, base, "    match:", "    silence: [evidence-oracle]\n    match:", "x509_ttl: 1h", `selectors: {unix: {uid: 7}}
      - {spiffe_id: "spiffe://{td}/b", selectors: {unix: {path: /b}}}
      - {spiffe_id: "spiffe://{td}/c", selectors: {unix: {path: /c}}}
      - {spiffe_id: "spiffe://{td}/d"}`)
	if got := parse(t, two).Warnings(); len(got) != 2 || got[0].Line != 20 || got[1].Line != 21 {
		t.Errorf("got:\n%s", got.Render())
	}
}
