package deploy

import (
	"regexp"
	"strings"
	"testing"
)

// stage is one stage of the Containerfile.
type stage struct {
	name, from string
	lines      [][2]string // instruction, argument
}

func stages(t *testing.T) (args map[string]string, out []stage) {
	t.Helper()
	args = map[string]string{}
	text := strings.ReplaceAll(read(t, "container/Containerfile"), "\\\n", " ")
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		instruction, argument, ok := strings.Cut(line, " ")
		if !ok {
			t.Fatalf("not an instruction: %q", line)
		}
		switch {
		case instruction == "ARG" && len(out) == 0:
			k, v, _ := strings.Cut(argument, "=")
			args[k] = v
		case instruction == "FROM":
			m := regexp.MustCompile(`^\$\{(\w+)\} AS ([a-z-]+)$`).FindStringSubmatch(argument)
			if m == nil || args[m[1]] == "" {
				t.Fatalf("FROM %s: want ${ARG} AS name, with an ARG that can be pinned", argument)
			}
			out = append(out, stage{name: m[2], from: args[m[1]]})
		default:
			s := &out[len(out)-1]
			s.lines = append(s.lines, [2]string{instruction, argument})
		}
	}
	return args, out
}

func TestImagesAreStaticWithoutRootAndRepeatable(t *testing.T) {
	t.Parallel()
	_, all := stages(t)
	if len(all) != 3 || all[0].name != "build" {
		t.Fatalf("stages: %+v", all)
	}
	build := ""
	for _, l := range all[0].lines {
		build += l[0] + " " + l[1] + "\n"
	}
	for _, want := range []string{"CGO_ENABLED=0", "-trimpath", "-buildvcs=false", "-mod=readonly", "-buildid="} {
		if !strings.Contains(build, want) {
			t.Errorf("the build does not say %s", want)
		}
	}
	if !strings.Contains(build, "-X github.com/assay-project/assay/internal/cli.release=") || !strings.Contains(read(t, "../internal/cli/version.go"), "var release string") {
		t.Error("the build does not set the version that the binaries print")
	}
	mod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))
	if !strings.Contains(all[0].from, "golang:"+mod[1]) {
		t.Errorf("it builds with %s, go.mod wants %s", all[0].from, mod[1])
	}
	entry := map[string]string{"assayd": `["/usr/bin/assayd"]`, "assay-agent": `["/usr/bin/assay-agent"]`}
	for _, s := range all[1:] {
		if !strings.Contains(s.from, "distroless/static") || !strings.HasSuffix(s.from, ":nonroot") {
			t.Errorf("%s is made from %s", s.name, s.from)
		}
		got := map[string]string{}
		for _, l := range s.lines {
			got[l[0]] = l[1]
			switch l[0] {
			case "COPY":
				if !strings.HasPrefix(l[1], "--from=build /out/") {
					t.Errorf("%s copies %s", s.name, l[1])
				}
			case "USER", "EXPOSE", "ENTRYPOINT", "CMD":
			default:
				t.Errorf("%s has %s: there is no shell in it, and nothing to do", s.name, l[0])
			}
		}
		if got["USER"] != "65532:65532" || got["ENTRYPOINT"] != entry[s.name] || got["CMD"] != `["run"]` {
			t.Errorf("%s runs %s %s as %s", s.name, got["ENTRYPOINT"], got["CMD"], got["USER"])
		}
	}
}
