package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
)

// notGranted begins the agent's words where only the audience is wrong.
const notGranted = "policy grants this identity no token"

// why turns the agent's refusal of an SVID or a token into the error of a command: what
// is to blame, and where to look. The Workload API has one code for all of them. id is
// the identity that was asked for, "" for any.
func why(path, id string, refusal error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	said := status.Convert(refusal)
	s, err := askStatus(ctx, path)
	if err != nil { // an agent of before tells no status
		if h, err := askHealth(ctx, path); err == nil && h.verdict() != nil {
			return h.verdict()
		}
		return &attest.Error{Kind: attest.Unavailable, Check: "identity", Err: errors.New(said.Message()), Hint: "see `assay-agent healthcheck`"}
	}
	if td := s.blame(id); td != nil {
		return td.why(said.Message())
	}
	switch {
	case said.Code() == codes.DeadlineExceeded:
		return &attest.Error{Kind: attest.Unavailable, Check: "agent", Err: errors.New("the agent did not answer in time"), Hint: "a longer --timeout; its log says what it waits for"}
	case strings.HasPrefix(said.Message(), notGranted):
		return &attest.Error{Kind: attest.Denied, Check: "policy", Err: errors.New(said.Message()), Hint: "policy allows tokens under issue: … jwt: {audiences: […]}"}
	case id != "":
		return &attest.Error{
			Kind: attest.Denied, Check: "identity", Err: fmt.Errorf("the agent holds no identity %s that this process may have", id),
			Hint: "`assay-agent status`, as root, lists what it holds; where policy selects processes, the agent's log says what this one shows",
		}
	}
	return &attest.Error{
		Kind: attest.Denied, Check: "identity", Err: errors.New("the agent holds identities, and this process may have none of them: " + said.Message()),
		Hint: "policy selects the processes that may have them (issue: … selectors); the agent's log says what this one shows",
	}
}

// blame is the trust domain of which nothing is served, where that is why there is
// nothing: that of the identity, or any where nothing at all is served; else nil. A
// clock passes, so it goes before a denial, and both before what has no such reason.
func (s *standing) blame(id string) *trustDomain {
	var worst *trustDomain
	rank := func(td *trustDomain) int {
		switch {
		case td.State == "clock":
			return 2
		case td.Denied:
			return 1
		}
		return 0
	}
	for i := range s.TrustDomains {
		td := &s.TrustDomains[i]
		if id != "" && !strings.HasPrefix(id, "spiffe://"+td.TrustDomain+"/") {
			continue
		}
		if td.State == "serving" {
			return nil
		}
		if worst == nil || rank(td) > rank(worst) {
			worst = td
		}
	}
	return worst
}

var referenceForm = regexp.MustCompile(`\bas-[a-z0-9]+\b`)

// why says why nothing is served of this trust domain; said is what the agent answered.
func (td *trustDomain) why(said string) error {
	var last attempt
	if td.Last != nil && !td.Last.Succeeded {
		last = *td.Last
	}
	switch {
	case td.State == "clock":
		return clockError()
	case td.Denied:
		e := &attest.Error{Kind: attest.Denied, Check: "policy", Err: errors.New("policy denied the last attestation"), Hint: "the agent's log has the reference for `assay ledger show`, and so has `assay-agent status`"}
		reference := last.Reference
		if last.Kind != attest.Denied.String() {
			reference = referenceForm.FindString(said)
		} else if last.Check != "" {
			e.Check = last.Check
		}
		if reference != "" {
			e.Err = fmt.Errorf("%w, reference %s", e.Err, reference)
			e.Hint = "on the server: assay ledger show " + reference
		}
		return e
	}
	e := &attest.Error{Kind: attest.Unavailable, Check: "identity", Err: errors.New("the agent holds no identity"), Hint: "the agent's log says why, and so does `assay-agent status`"}
	switch {
	case last.Message != "":
		e.Err = fmt.Errorf("%w: the last attestation failed: %s", e.Err, last.Message)
		if last.Hint != "" {
			e.Hint = last.Hint
		}
	case td.State == "attesting":
		e.Err = fmt.Errorf("%w yet: the first attestation is under way", e.Err)
	}
	return e
}
