// Package layout holds the tests of the repository's own shape: who may import
// whom, and that documents name tests that exist.
package layout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/assay-project/assay/"

// A rule says what a package must never link, directly or through others.
// Tests may import more: only what a binary would link counts.
type rule struct {
	packages string // `go list` pattern
	never    []string
	only     []string // when set: outside the standard library, nothing but these
	why      string
}

var rules = []rule{
	{
		packages: "attest",
		only:     []string{module + "attest", "github.com/fxamacker/cbor/v2", "github.com/x448/float16"},
		why:      "the vocabulary is the standard library and CBOR",
	},
	{
		packages: "verifiers", never: []string{"verifiers/", "policy", "svid", "issuer", "enclave-agent", "simulators"},
		why: "the set never imports its children: the binary that needs them builds it",
	},
	{
		packages: "verifiers/...", never: []string{"policy", "svid", "issuer", "enclave-agent", "simulators"},
		why: "a verifier knows one TEE, and nothing of policy or SVIDs",
	},
	{
		packages: "policy/...", never: []string{"svid", "issuer", "enclave-agent", "simulators"},
		why: "policy decides; it neither issues nor records",
	},
	{
		packages: "svid", never: []string{"verifiers", "policy", "issuer", "enclave-agent", "simulators"},
		why: "relying parties link no verifier, no policy and no server",
	},
	{
		packages: "svid/svidhttp", never: []string{"verifiers", "policy", "issuer", "enclave-agent", "simulators", "google.golang.org/grpc"},
		why: "relying parties link no verifier, no policy and no server; HTTP needs no gRPC",
	},
	{
		packages: "svid/svidgrpc", never: []string{"verifiers", "policy", "issuer", "enclave-agent", "simulators"},
		why: "relying parties link no verifier, no policy and no server",
	},
	{
		packages: "issuer/web", never: []string{"issuer/ca", "issuer/ledger", "issuer/store", "policy", "verifiers"},
		why: "what serves the world is given documents, and reaches nothing else",
	},
	{
		packages: "issuer/federation", never: []string{"issuer/ca", "issuer/ledger", "policy", "verifiers"},
		why: "foreign bundles never come near our authorities",
	},
	{
		packages: "enclave-agent/process", never: []string{"issuer", "svid", "policy", "verifiers"},
		why: "who calls is told without knowing what for",
	},
	{
		packages: "issuer/...", never: []string{"enclave-agent", "simulators", "github.com/miekg/pkcs11", "github.com/ThalesGroup/crypto11", "go.step.sm/crypto"},
		why: "no production code links a simulator; keys in HSMs and key services are assay-signer's",
	},
	{
		packages: "enclave-agent",
		never:    []string{"verifiers", "policy", "issuer/store", "issuer/ledger", "issuer/ca", "issuer/keys", "simulators", "modernc.org/sqlite", "github.com/jackc/pgx/v5", "github.com/hf/nitrite"},
		why:      "the agent links no verifier, no policy and no database",
	},
	{
		packages: "cmd/assay-agent",
		never:    []string{"verifiers", "policy", "issuer/store", "issuer/ledger", "issuer/ca", "issuer/keys", "simulators", "modernc.org/sqlite", "github.com/jackc/pgx/v5", "github.com/hf/nitrite"},
		why:      "the agent links no verifier, no policy and no database",
	},
	{
		packages: "cmd/assay", never: []string{"issuer$", "issuer/ca", "issuer/keys", "simulators"},
		why: "the command reaches the server's data through the admin API",
	},
	{
		packages: "cmd/assayd", never: []string{"simulators", "enclave-agent"},
		why: "no production binary links a simulator",
	},
	{
		packages: "cmd/...", never: []string{"svid/svidtest"},
		why: "svidtest mints SVIDs for tests, in memory",
	},
	{
		packages: "examples/...", never: []string{"svid/svidtest"},
		why: "svidtest mints SVIDs for tests, in memory",
	},
	{
		packages: "simulators/...", never: []string{"verifiers", "policy", "svid", "issuer", "enclave-agent", "attest"},
		why: "simulators speak the devices' own bytes and share nothing with the agent",
	},
}

func TestEveryPackageImportsOnlyWhatItMay(t *testing.T) {
	all := packages(t)
	for _, r := range rules {
		t.Run(r.packages, func(t *testing.T) {
			found := false
			for pkg, of := range all {
				if !matches(r.packages, pkg) {
					continue
				}
				found = true
				for _, dep := range of.Deps {
					if forbidden(r, pkg, dep) {
						t.Errorf("%s links %s: %s", pkg, dep, r.why)
					}
				}
			}
			if !found {
				t.Errorf("there is no package %s any more", r.packages)
			}
		})
	}
}

func TestCommandsAreWiringInTheirOwnFolder(t *testing.T) {
	for pkg, of := range packages(t) {
		for _, imp := range of.Imports {
			if strings.HasPrefix(imp, module+"cmd/") {
				t.Errorf("%s imports %s: what two packages need is not wiring", pkg, imp)
			}
		}
	}
}

func TestThereIsNoPackageForOddsAndEnds(t *testing.T) {
	for pkg := range packages(t) {
		base := pkg[strings.LastIndex(pkg, "/")+1:]
		switch base {
		case "util", "utils", "common", "helpers", "misc":
			t.Errorf("%s: a package is a noun for what it holds", pkg)
		}
	}
}

func forbidden(r rule, pkg, dep string) bool {
	if dep == pkg {
		return false
	}
	if len(r.only) > 0 {
		std := !strings.Contains(strings.SplitN(dep, "/", 2)[0], ".")
		if std {
			return false
		}
		for _, o := range r.only {
			if dep == o {
				return false
			}
		}
		return true
	}
	for _, n := range r.never {
		full := n
		if !strings.Contains(strings.SplitN(n, "/", 2)[0], ".") {
			full = module + n
		}
		switch {
		case strings.HasSuffix(full, "$"):
			if dep == strings.TrimSuffix(full, "$") {
				return true
			}
		case strings.HasSuffix(full, "/"):
			if strings.HasPrefix(dep, full) {
				return true
			}
		case dep == full || strings.HasPrefix(dep, full+"/"):
			// issuerpb is the wire format, shared by agent and server alike.
			if !strings.HasPrefix(dep, module+"issuer/issuerpb") {
				return true
			}
		}
	}
	return false
}

// A listed package is what `go list` tells of one: what it imports itself, and all
// that it links, directly or through others.
type listed struct {
	ImportPath    string
	Imports, Deps []string
}

// packages lists the module. The command is asked once: it takes as long for one
// package as for all.
func packages(t *testing.T) map[string]listed {
	t.Helper()
	all, err := listing()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var listing = sync.OnceValues(func() (map[string]listed, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, stderr.String())
	}
	all := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p listed
		if err := d.Decode(&p); err != nil {
			return nil, err
		}
		all[p.ImportPath] = p
	}
	return all, nil
})

// matches tells whether a package is one of a rule's, as `go list` would: with
// "/..." those in the folder and below it.
func matches(pattern, pkg string) bool {
	pkg = strings.TrimPrefix(pkg, module)
	folder, below := strings.CutSuffix(pattern, "/...")
	return pkg == folder || below && strings.HasPrefix(pkg, folder+"/")
}
