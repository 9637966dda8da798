package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

func TestEachKindOfErrorHasItsExitCode(t *testing.T) {
	yaml := strictyaml.Errors{{File: "p.yaml", Line: 3, Col: 1, Msg: "unknown key"}}
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"no error", nil, OK},
		{"an error that nobody classified", errors.New("boom"), Internal},
		{"internal", &attest.Error{Kind: attest.Internal, Check: "x"}, Internal},
		{"a kind from the future", &attest.Error{Kind: attest.Kind(99), Check: "x"}, Internal},
		{"usage", Usagef("", "no"), Usage},
		{"a usage error that wraps a kind", &UsageError{Err: &attest.Error{Kind: attest.Stale}}, Usage},
		{"a file with errors", yaml, Usage},
		{"a file with errors, wrapped", fmt.Errorf("policy: %w", yaml), Usage},
		{"malformed", &attest.Error{Kind: attest.Malformed, Check: "x"}, Malformed},
		{"untrusted", &attest.Error{Kind: attest.Untrusted, Check: "x"}, Untrusted},
		{"untrusted, wrapped", fmt.Errorf("f: %w", &attest.Error{Kind: attest.Untrusted, Check: "x"}), Untrusted},
		{"stale", &attest.Error{Kind: attest.Stale, Check: "x"}, Stale},
		{"denied", &attest.Error{Kind: attest.Denied, Check: "policy"}, Denied},
		{"unavailable", &attest.Error{Kind: attest.Unavailable, Check: "x"}, Unavailable},
		{"silent", &Silent{Code: 6}, Denied},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d", c.name, got, c.want)
		}
	}
}

func TestAnErrorIsPrintedWithItsHint(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"nothing", nil, ""},
		{"silent", &Silent{Code: 4}, ""},
		{"plain", errors.New("boom"), "error: boom\n"},
		{"usage", Usagef("try this", "no %s", "file"), "error: no file\nhint: try this\n"},
		{"usage without a hint of its own", &UsageError{Err: &attest.Error{Check: "c", Hint: "inner"}}, "error: c\nhint: inner\n"},
		{"check", &attest.Error{Check: "digest", Err: errors.New("unknown"), Hint: "use SHA384"}, "error: digest: unknown\nhint: use SHA384\n"},
		{"several lines", errors.New("one\nhint: forged"), "error: one\n  hint: forged\n"},
		{"terminal controls", errors.New("a\x1b[2Jb\u009bc\u202ed\rz"), "error: a\\x1b[2Jb\\u009bc\\u202ed\\x0dz\n"},
		{"file", strictyaml.Errors{{File: "p.yaml", Line: 1, Col: 3, Msg: "bad", Source: "a: b", Caret: 2, Hint: "good"}},
			"error: p.yaml:1:3: bad\n 1 | a: b\n   |   ^\n   hint: good\n"},
	} {
		var b bytes.Buffer
		PrintError(&b, c.err)
		if diff := cmp.Diff(c.want, b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestEscapeLeavesNothingThatATerminalActsOn(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"i-0a6d-enc01", "i-0a6d-enc01"},
		{"Zürich 東京", "Zürich 東京"},
		{"a\nb\tc", `a\x0ab\x09c`},
		{"\x1b]0;title\x07", `\x1b]0;title\x07`},
		{"\x7f", `\x7f`},
		{"\u0085\u2028\u200b\ufeff\u2066", `\u0085\u2028\u200b\ufeff\u2066`},
		{"\U000e0041", `\U000e0041`},
		{"\xff\xc3", `\xff\xc3`},
		{"\ufffd", "\ufffd"},
		{"", ""},
	} {
		if got := Escape(c.in); got != c.want {
			t.Errorf("Escape(%q) = %s, want %s", c.in, got, c.want)
		}
	}
	if got := EscapeLines("a\n\tb\r\x1b"); got != "a\n\tb\\x0d\\x1b" {
		t.Errorf("EscapeLines kept or lost a character: %q", got)
	}
}

func FuzzEscapedTextIsPrintable(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[31m\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if got := Escape(s); !printable(got, false) {
			t.Fatalf("Escape(%q) = %q holds an unprintable character", s, got)
		}
		var b bytes.Buffer
		if err := PrintJSONLine(&b, map[string]string{"s": s}); err != nil {
			t.Fatal(err)
		}
		if !printable(b.String(), true) || strings.Count(b.String(), "\n") != 1 {
			t.Fatalf("JSON of %q is %q", s, b.String())
		}
		var back map[string]string
		if err := json.Unmarshal(b.Bytes(), &back); err != nil {
			t.Fatalf("JSON of %q does not read back: %v", s, err)
		}
		if utf8.ValidString(s) && back["s"] != s {
			t.Fatalf("JSON of %q reads back as %q", s, back["s"])
		}
	})
}

func TestATableIsPlainAndEscaped(t *testing.T) {
	var b bytes.Buffer
	p := NewPage(&b)
	p.Linef("one %s", "\x1b")
	p.Title("Two")
	p.Table([]string{"a", "bb", "c"}, [][]string{{"1", "2", ""}, {"long", "x\ty", "z"}})
	p.Facts(Fact{"name", "value"})
	want := "one \\x1b\n\nTwo\n  a     bb      c\n  1     2\n  long  x\\x09y  z\n  name  value\n"
	if diff := cmp.Diff(want, b.String()); diff != "" || p.Err() != nil {
		t.Errorf("(-want +got):\n%s%v", diff, p.Err())
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestAPageReportsThatItCouldNotBeWritten(t *testing.T) {
	p := NewPage(fullDisk{})
	p.Linef("x")
	p.Facts(Fact{"a", "b"})
	if !errors.Is(p.Err(), io.ErrShortWrite) {
		t.Errorf("Err() = %v, want the write error", p.Err())
	}
}

// tool is a command tree with one of everything that cobra may complain about.
func tool() *cobra.Command {
	root := &cobra.Command{Use: "tool"}
	group := &cobra.Command{Use: "group", Short: "A group"}
	leaf := &cobra.Command{Use: "leaf FILE", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, a []string) error {
		switch a[0] {
		case "fail":
			return errors.New("boom")
		case "stale":
			return &attest.Error{Kind: attest.Stale, Check: "time", Hint: "wait"}
		}
		_, err := fmt.Fprintln(c.OutOrStdout(), "ran")
		return err
	}}
	OutputFlag(leaf)
	leaf.Flags().Bool("a", false, "")
	leaf.Flags().Bool("b", false, "")
	leaf.MarkFlagsMutuallyExclusive("a", "b")
	needy := &cobra.Command{Use: "needy", RunE: func(*cobra.Command, []string) error { return nil }}
	needy.Flags().String("must", "", "")
	if err := needy.MarkFlagRequired("must"); err != nil {
		panic(err)
	}
	group.AddCommand(leaf, needy)
	root.AddCommand(group, VersionCommand("tool"))
	return root
}

func run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	root := tool()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	code = RunContext(context.Background(), root)
	return code, out.String(), errs.String()
}

func TestEveryMistakeOnTheCommandLineIsExitCodeTwoWithAHint(t *testing.T) {
	for _, c := range []struct {
		args   string
		stderr string
	}{
		{"nosuch", "error: tool: there is no command \"nosuch\"\nhint: see `tool --help`\n"},
		{"grup", "error: tool: there is no command \"grup\"\nhint: did you mean `tool group`?\n"},
		{"group nosuch", "error: tool group: there is no command \"nosuch\"\nhint: see `tool group --help`\n"},
		{"group lef x", "error: tool group: there is no command \"lef\"\nhint: did you mean `tool group leaf`?\n"},
		{"group leaf", "error: accepts 1 arg(s), received 0\nhint: see `tool group leaf --help`\n"},
		{"group leaf x y", "error: accepts 1 arg(s), received 2\nhint: see `tool group leaf --help`\n"},
		{"group leaf --nosuch x", "error: unknown flag: --nosuch\nhint: see `tool group leaf --help`\n"},
		{"group leaf --output yaml x", "error: invalid argument \"yaml\" for \"--output\" flag: want text or json\nhint: see `tool group leaf --help`\n"},
		{"group leaf --a --b x", "error: if any flags in the group [a b] are set none of the others can be; [a b] were all set\nhint: see `tool --help`\n"},
		{"group needy", "error: required flag(s) \"must\" not set\nhint: see `tool --help`\n"},
		{"help nosuch", "error: no help for \"nosuch\"\nhint: see `tool --help`\n"},
		{"completion nosuch", "error: tool completion: there is no command \"nosuch\"\nhint: see `tool completion --help`\n"},
		{"version x", "error: unknown command \"x\" for \"tool version\"\nhint: see `tool version --help`\n"},
	} {
		code, stdout, stderr := run(strings.Fields(c.args)...)
		if code != Usage || stdout != "" || stderr != c.stderr {
			t.Errorf("tool %s: exit code %d, stdout %q, stderr:\n%swant:\n%s", c.args, code, stdout, stderr, c.stderr)
		}
	}
}

func TestWhatTheCommandItselfReturnsKeepsItsKind(t *testing.T) {
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"group leaf x", OK, "ran\n", ""},
		{"group leaf fail", Internal, "", "error: boom\n"},
		{"group leaf stale", Stale, "", "error: time\nhint: wait\n"},
	} {
		code, stdout, stderr := run(strings.Fields(c.args)...)
		if code != c.code || stdout != c.stdout || stderr != c.stderr {
			t.Errorf("tool %s: exit code %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
	}
}

func TestHelpVersionAndCompletionSucceed(t *testing.T) {
	for args, want := range map[string]string{
		"":                       "Usage:",
		"--help":                 "Usage:",
		"group":                  "Available Commands:",
		"help group leaf":        "tool group leaf FILE",
		"version":                "tool ",
		"version --output json":  `"name": "tool"`,
		"completion bash":        "bash completion",
		"__complete group leaf ": "Directive",
	} {
		code, stdout, stderr := run(strings.Fields(args)...)
		if code != OK || !strings.Contains(stdout+stderr, want) {
			t.Errorf("tool %s: exit code %d, want 0 and %q in:\n%s%s", args, code, want, stdout, stderr)
		}
	}
}
