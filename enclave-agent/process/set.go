package process

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fact is one thing that a process shows. Policy asks for them as selectors
// (docs/spec/policy.md).
type Fact struct {
	Type  string // "unix:uid"
	Value string // "1000"
}

// String writes a fact as logs do: "unix:uid=1000".
func (f Fact) String() string { return f.Type + "=" + f.Value }

// kind is the part of a type before the colon: which source knows it.
func (f Fact) kind() string {
	kind, _, _ := strings.Cut(f.Type, ":")
	return kind
}

// Source knows facts of one kind.
type Source interface {
	// Kind is what the types of its facts begin with: "unix".
	Kind() string
	// Facts tells what the process shows of the types that are asked for. Types
	// that it does not know it leaves out. An error means that nothing of the kind
	// is known.
	Facts(ctx context.Context, p *Process, types []string) ([]Fact, error)
}

// Set is the sources of a machine, at most one of a kind.
type Set struct{ sources []Source }

// NewSet makes a set of sources. Of the kernel's there is always one.
func NewSet(sources ...Source) (*Set, error) {
	s := &Set{}
	for _, x := range append([]Source{NewKernel(), NewSystemd()}, sources...) {
		if slices.ContainsFunc(s.sources, func(y Source) bool { return y.Kind() == x.Kind() }) {
			return nil, fmt.Errorf("process: two sources of the kind %q", x.Kind())
		}
		s.sources = append(s.sources, x)
	}
	return s, nil
}

// lookTimeout bounds one look: engines and kubelets answer in milliseconds.
const lookTimeout = 5 * time.Second

// Sight is what a process showed at one moment, of what was asked for.
type Sight struct {
	Facts []Fact
	// Problems are kinds of which nothing could be known, and why. No selector of
	// such a kind matches.
	Problems []error
}

// Look asks for what the selectors need, and nothing else: a digest of the
// program is not made unless somebody selects by it. The error is ErrChanged when
// the process is not, or no longer, what it was when it connected.
func (s *Set) Look(ctx context.Context, p *Process, selectors []Fact) (*Sight, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := p.Unchanged(); err != nil {
		return nil, err
	}
	out := &Sight{}
	for _, src := range s.sources {
		types := typesOf(selectors, src.Kind())
		if len(types) == 0 {
			continue
		}
		facts, err := src.Facts(ctx, p, types)
		if errors.Is(err, ErrChanged) {
			return nil, err
		}
		if err != nil {
			out.Problems = append(out.Problems, fmt.Errorf("%s: %w", src.Kind(), err))
			continue
		}
		out.Facts = append(out.Facts, facts...)
	}
	// What was read was of this process only if it is still the same.
	if err := p.Unchanged(); err != nil {
		return nil, err
	}
	return out, nil
}

func typesOf(selectors []Fact, kind string) []string {
	var out []string
	for _, f := range selectors {
		if f.kind() == kind && !slices.Contains(out, f.Type) {
			out = append(out, f.Type)
		}
	}
	return out
}

// Matches reports whether the process shows all of the selectors. A selector of a
// type that no source knows matches no process.
func (s *Sight) Matches(selectors []Fact) bool {
	for _, want := range selectors {
		if !slices.Contains(s.Facts, want) {
			return false
		}
	}
	return true
}
