package ca

import (
	"errors"
	"fmt"
	"testing"

	"github.com/assay-project/assay/attest"
)

func TestASignerThatIsAwayIsUnavailableHoweverItsErrorWasWrapped(t *testing.T) {
	away := &attest.Error{Kind: attest.Unavailable, Check: "signer_reach", Err: errors.New("gone"), Hint: "look"}
	for name, err := range map[string]error{
		"as it is":        away,
		"wrapped":         fmt.Errorf("sign: %w", away),
		"within a fault":  &attest.Error{Kind: attest.Internal, Check: "result_sign", Err: fmt.Errorf("cose: %w", away)},
		"as a fault's is": &attest.Error{Kind: attest.Internal, Check: "a", Err: &attest.Error{Kind: attest.Internal, Check: "b", Err: away}},
	} {
		var e *attest.Error
		if got := signing("issue_certificate", err); !errors.As(got, &e) || e.Kind != attest.Unavailable || e.Check != "signer_reach" || e.Hint != "look" {
			t.Errorf("%s: %#v", name, got)
		}
	}
	for name, err := range map[string]error{
		"nobody said what": errors.New("x"),
		"another kind":     &attest.Error{Kind: attest.Denied, Check: "signer_purpose", Err: errors.New("no")},
	} {
		wantCheck(t, signing("issue_certificate", err), "issue_certificate")
		if attest.KindOf(signing("issue_certificate", err)) != attest.Internal {
			t.Errorf("%s is not internal", name)
		}
	}
}
