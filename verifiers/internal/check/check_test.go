package check_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// row is a verifier's own type of a check.
type row struct {
	Name    string
	Kind    attest.Kind
	Demands string
	Source  string
}

var table = []row{
	{"platform", attest.Malformed, "", ""}, {"time", attest.Internal, "", ""}, {"context", attest.Unavailable, "", ""},
	{"seal", attest.Untrusted, "", ""}, {"panic", attest.Malformed, "", ""},
}

func refuse(name string, d check.Detail) *attest.Error { return check.Refuse(table, name, d) }

var errBroken = errors.New("the seal is broken")

func TestARefusalHasTheKindOfItsRowAndAllOfItsDetail(t *testing.T) {
	got := *refuse("seal", check.Detail{Err: errBroken, Expected: "whole", Got: "two halves", Hint: "seal it again"})
	want := attest.Error{Kind: attest.Untrusted, Check: "seal", Err: errBroken, Expected: "whole", Got: "two halves", Hint: "seal it again"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestACheckThatIsNotInTheTableIsOurOwnFault(t *testing.T) {
	err := refuse("no such check", check.Detail{Err: errBroken})
	if attest.KindOf(err) != attest.Internal || !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "not in the table") {
		t.Errorf("got %v", err)
	}
}

func TestTheCallerIsHeldToAContextAPlatformAndATime(t *testing.T) {
	now := time.Unix(1, 0)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		check    string
		ctx      context.Context
		platform attest.Platform
		at       time.Time
	}{
		{"", t.Context(), attest.TPM2, now},
		{"context", cancelled, attest.TPM2, now},
		{"platform", t.Context(), attest.AWSNitro, now},
		{"platform", t.Context(), "", now},
		{"time", t.Context(), attest.TPM2, time.Time{}},
	} {
		err := check.Admit(c.ctx, attest.Evidence{Platform: c.platform}, c.at, attest.TPM2, refuse)
		if (err == nil) != (c.check == "") || attest.CheckOf(err) != c.check {
			t.Errorf("%v, want the check %q", err, c.check)
		}
	}
}

func TestABindingThatLacksAnythingIsNotCompared(t *testing.T) {
	whole := attest.Binding{B: [32]byte{1}, Nonce: attest.Nonce{1}, Keys: []attest.BoundKey{{SPKI: []byte{1}}}}
	if err := check.Complete(whole); err != nil {
		t.Errorf("a whole binding: %v", err)
	}
	for name, f := range map[string]func(*attest.Binding){
		"B":           func(b *attest.Binding) { b.B = [32]byte{} },
		"the nonce":   func(b *attest.Binding) { b.Nonce = attest.Nonce{} },
		"every key":   func(b *attest.Binding) { b.Keys = nil },
		"a key's DER": func(b *attest.Binding) { b.Keys = []attest.BoundKey{{}} },
	} {
		b := whole
		f(&b)
		if check.Complete(b) == nil {
			t.Errorf("a binding without %s is complete", name)
		}
	}
}

func TestAPanicBecomesACountedRefusalThatKeepsTheStack(t *testing.T) {
	var panics atomic.Uint64
	run := func(f func() error) (err error) {
		defer check.Recover(&err, &panics, refuse)
		return f()
	}
	if err := run(func() error { return errBroken }); err != errBroken || panics.Load() != 0 { //nolint:errorlint // the very error
		t.Errorf("without a panic: %v, %d counted", err, panics.Load())
	}
	err := run(func() error { panic("a library's") })
	var p *verifiers.PanicError
	if attest.CheckOf(err) != "panic" || attest.KindOf(err) != attest.Malformed || !errors.As(err, &p) || panics.Load() != 1 {
		t.Fatalf("got %v, %d counted", err, panics.Load())
	}
	if p.Value != "a library's" || !bytes.Contains(p.Stack, []byte("TestAPanicBecomes")) {
		t.Errorf("value %v, stack\n%s", p.Value, p.Stack)
	}
}

func TestBytesInAMessageAreClipped(t *testing.T) {
	full := strings.Repeat("ab", 32)
	got := []string{check.ClipHex(nil), check.ClipHex(bytes.Repeat([]byte{0xab}, 32)), check.ClipHex(bytes.Repeat([]byte{0xab}, 33))}
	if diff := cmp.Diff([]string{"", full, full + "… (33 bytes)"}, got); diff != "" {
		t.Error(diff)
	}
}
