package issuer_test

import (
	"os"
	"testing"
)

// leftover are directories that outlive a test and not the process.
var leftover []string

func removeAtEnd(dir string) { leftover = append(leftover, dir) }

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range leftover {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}
