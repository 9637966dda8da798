package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
)

// The wait after a failure is spread over half a minute, and an SVID can have less
// left than that.
func TestAnSVIDIsNotSleptThrough(t *testing.T) {
	for _, tt := range []struct{ wait, left, least, most time.Duration }{
		{20 * time.Second, 30 * time.Minute, 20 * time.Second, 20 * time.Second},
		{20 * time.Second, 24 * time.Second, 3 * time.Second, 6 * time.Second},
		{20 * time.Second, time.Second, retryBase / 2, retryBase},
		{time.Second, 24 * time.Second, time.Second, time.Second},
		{20 * time.Second, 0, 20 * time.Second, 20 * time.Second}, // it is over: nothing is gained
		{20 * time.Second, -time.Minute, 20 * time.Second, 20 * time.Second},
	} {
		for range 100 {
			if d := hurry(tt.wait, tt.left); d < tt.least || d > tt.most {
				t.Fatalf("a wait of %s with %s left becomes %s, want %s to %s", tt.wait, tt.left, d, tt.least, tt.most)
			}
		}
	}
	// Twenty attempts in a row, each as late as it can be: the last is before the end.
	left, tries := 30*time.Second, 0
	for left > 0 {
		left -= hurry(retryCap, left)
		tries++
	}
	if tries < 8 {
		t.Errorf("only %d attempts in half a minute", tries)
	}
	if !told(&Refusal{Kind: attest.Denied}) || !told(&Refusal{Kind: attest.Unavailable, RetryAfter: time.Second}) || told(errors.New("no route")) {
		t.Error("who was told to wait hurries, or who was not does not")
	}
}
