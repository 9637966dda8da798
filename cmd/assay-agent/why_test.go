package main

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

func TestWhatIsToBlameForNoIdentityIsSaid(t *testing.T) {
	t.Parallel()
	denied := &attempt{Kind: "denied", Check: "policy", Reference: "as-k3v9x2q7ma", Message: "the server refused"}
	away := &attempt{Kind: "unavailable", Check: "server", Message: "server: connection refused", Hint: "is it running"}
	granted := &attempt{Succeeded: true, Reference: "as-granted"}
	for name, x := range map[string]struct {
		of          []trustDomain
		id, said    string
		kind        attest.Kind
		error, hint string
	}{
		"a denial has its reference": {
			[]trustDomain{{TrustDomain: "a.example", State: "no_identity", Denied: true, Last: denied}}, "", "no identity issued",
			attest.Denied, "policy: policy denied the last attestation, reference as-k3v9x2q7ma", "on the server: assay ledger show as-k3v9x2q7ma",
		},
		"a ban has that of the server's word": {
			[]trustDomain{{TrustDomain: "a.example", State: "no_identity", Denied: true, Last: granted}}, "", "the server denies this agent an identity: reference as-banned",
			attest.Denied, "policy: policy denied the last attestation, reference as-banned", "on the server: assay ledger show as-banned",
		},
		"a server that is away is no denial": {
			[]trustDomain{{TrustDomain: "a.example", State: "no_identity", Last: away}}, "", "no identity issued",
			attest.Unavailable, "identity: the agent holds no identity: the last attestation failed: server: connection refused", "is it running",
		},
		"nothing has happened yet": {
			[]trustDomain{{TrustDomain: "a.example", State: "attesting"}}, "", "no identity issued",
			attest.Unavailable, "identity: the agent holds no identity yet: the first attestation is under way", "the agent's log says why, and so does `assay-agent status`",
		},
		"a clock goes before a denial": {
			[]trustDomain{{TrustDomain: "a.example", State: "no_identity", Denied: true, Last: denied}, {TrustDomain: "b.example", State: "clock"}}, "", "no identity issued",
			attest.Stale, "clock: the wall clock departs from the server's time, so nothing is served", "set this machine's clock; the agent resumes by itself",
		},
		"an identity's own trust domain is what counts": {
			[]trustDomain{{TrustDomain: "a.example", State: "serving"}, {TrustDomain: "b.example", State: "no_identity", Last: away}}, "spiffe://b.example/x", "no identity issued",
			attest.Unavailable, "identity: the agent holds no identity: the last attestation failed: server: connection refused", "is it running",
		},
	} {
		td := (&standing{TrustDomains: x.of}).blame(x.id)
		if td == nil {
			t.Errorf("%s: nobody is to blame", name)
			continue
		}
		err := td.why(x.said)
		if attest.KindOf(err) != x.kind || err.Error() != x.error || cli.Hint(err) != x.hint {
			t.Errorf("%s: %s %q\nhint %q", name, attest.KindOf(err), err, cli.Hint(err))
		}
	}
	serving := &standing{TrustDomains: []trustDomain{{TrustDomain: "a.example", State: "no_identity"}, {TrustDomain: "b.example", State: "serving"}}}
	for _, id := range []string{"", "spiffe://b.example/x", "spiffe://b.example.com/x"} {
		if td := serving.blame(id); td != nil {
			t.Errorf("%q: %s is blamed", id, td.TrustDomain)
		}
	}
}

// An agent that cannot be asked leaves what the Workload API said, once.
func TestARefusalIsNotSaidTwice(t *testing.T) {
	t.Parallel()
	err := why(t.TempDir()+"/none.sock", "", status.Error(codes.PermissionDenied, "no identity issued"))
	if err.Error() != "identity: no identity issued" {
		t.Error(err)
	}
}

func TestASocketIsNamedByAPathOrByAnAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/run/assay/agent.sock":        "/run/assay/agent.sock",
		"unix:///run/assay/agent.sock": "/run/assay/agent.sock",
		"unix:/run/assay/agent.sock":   "/run/assay/agent.sock",
		"unix://run/assay/agent.sock":  "",
		"tcp://127.0.0.1:1":            "",
		"https:/run/a":                 "",
		"unix:":                        "",
		"unix://":                      "",
		"":                             "",
	} {
		got, err := absoluteSocket(in, "--socket")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		if err != nil && cli.Hint(err) == "" {
			t.Errorf("%q: no hint: %v", in, err)
		}
	}
}
