package cli

import (
	"testing"
	"time"
)

// A build that tells of no commit, as a test's, says nothing of its time.
func TestTheTimeOfABuildIsThePastOrNotKnown(t *testing.T) {
	if at := Built(); at.After(time.Now()) {
		t.Errorf("built at %s, which is to come", at)
	}
}
