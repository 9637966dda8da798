package svid_test

import (
	"fmt"
	"testing"
)

// exampleT stands in for the *testing.T that an Example does not have.
type exampleT struct{ testing.TB }

func (exampleT) Helper() {}

func (exampleT) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
