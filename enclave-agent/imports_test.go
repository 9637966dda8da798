package agent

import (
	"os/exec"
	"strings"
	"testing"
)

// The agent is inside the trust boundary of every workload: it links what it
// needs and nothing that decides, stores or simulates.
func TestTheAgentLinksNoVerifierPolicyDatabaseOrSimulator(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "github.com/assay-project/assay/cmd/assay-agent").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	const module = "github.com/assay-project/assay/"
	allowed := []string{"attest", "svid", "issuer/issuerpb/assay/v1", "issuer/issuerpb/assay/agent/v1", "enclave-agent", "enclave-agent/config", "enclave-agent/process", "enclave-agent/files", "enclave-agent/child", "enclave-agent/sds", "enclave-agent/entropy", "enclave-agent/vsock", "cmd/assay-agent", "internal/cli", "internal/lru", "internal/strictyaml"}
	for _, dep := range strings.Fields(string(out)) {
		if dep == "database/sql" || strings.HasPrefix(dep, "modernc.org/") || strings.HasPrefix(dep, "github.com/hf/nitrite") {
			t.Errorf("the agent links %s", dep)
		}
		// Of this library the kernel's structures alone (docs/decisions/0007-sev-guest.md).
		if strings.HasPrefix(dep, "github.com/google/go-sev-guest/") && dep != "github.com/google/go-sev-guest/client/linuxabi" || dep == "github.com/google/logger" {
			t.Errorf("the agent links %s", dep)
		}
		// A TPM's commands alone: what reads quotes and event logs is the server's.
		for _, heavy := range []string{"github.com/google/go-tpm-tools", "github.com/google/go-attestation", "github.com/google/go-eventlog"} {
			if strings.HasPrefix(dep, heavy) {
				t.Errorf("the agent links %s", dep)
			}
		}
		own, ok := strings.CutPrefix(dep, module)
		if !ok {
			continue
		}
		good := false
		for _, a := range allowed {
			good = good || own == a
		}
		if !good {
			t.Errorf("the agent links %s, which is not one of %v", dep, allowed)
		}
	}
}
