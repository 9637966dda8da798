package policytest

import (
	"context"
)

// T is what Run needs of a *testing.T.
type T[Self any] interface {
	Helper()
	Run(name string, f func(Self)) bool
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Run runs the tests about a policy, or of a directory or one file of tests, each
// case as a subtest. T is *testing.T.
func Run[X T[X]](t X, path string) {
	t.Helper()
	files, err := Find(path)
	if err != nil {
		t.Fatalf("%v", err)
		return
	}
	for _, file := range files {
		s, err := Load(file)
		if err == nil {
			err = s.File.Verify(context.Background(), VerifyEvidence, s.Read)
		}
		if err != nil {
			t.Fatalf("%v", err)
			return
		}
		for i := range s.File.Cases {
			c := &s.File.Cases[i]
			t.Run(c.Name, func(t X) {
				t.Helper()
				for _, d := range c.Check(s.Bundle).Differences {
					t.Errorf("%s: %s", c.Position, d)
				}
			})
		}
	}
}
