package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

// fileSystem makes a root directory with files, and directories where a name
// ends in a slash.
func fileSystem(t *testing.T, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, n := range names {
		path := filepath.Join(root, n)
		if strings.HasSuffix(n, "/") {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestTheKindOfTEEIsFoundByItsDevices(t *testing.T) {
	t.Parallel()
	g := launchSNP(simsnp.Milan, simsnp.Launch{})
	for name, c := range map[string]struct {
		root string
		tsm  configfsi.Client // nil is that of the root directory
		want attest.Platform
	}{
		"an enclave":                    {fileSystem(t, NitroDevice), nil, attest.AWSNitro},
		"a guest with the device":       {fileSystem(t, SNPDevice), nil, attest.AMDSEVSNP},
		"a guest with configfs":         {fileSystem(t, ConfigFS+"/"), kernelTSM(g, "sev_guest", 0), attest.AMDSEVSNP},
		"a guest with both":             {fileSystem(t, ConfigFS+"/", SNPDevice), kernelTSM(g, "sev_guest", 0), attest.AMDSEVSNP},
		"one that may not use configfs": {fileSystem(t, ConfigFS+"/", SNPDevice), forbidden{}, attest.AMDSEVSNP},
		"configfs without a driver":     {fileSystem(t, ConfigFS+"/", SNPDevice), nil, attest.AMDSEVSNP},
		"a machine with a TPM":          {fileSystem(t, TPMDevice, TPMRawDevice), nil, attest.TPM2},
		"one with an old kernel":        {fileSystem(t, TPMRawDevice), nil, attest.TPM2},
		"a guest with a virtual TPM":    {fileSystem(t, TPMDevice, SNPDevice), nil, attest.AMDSEVSNP},
		"an enclave with one":           {fileSystem(t, TPMDevice, NitroDevice), nil, attest.AWSNitro},
	} {
		if c.tsm == nil {
			c.tsm = tsmFiles{c.root}
		}
		if got, err := detect(c.root, c.tsm); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %s", name, got, err, c.want)
		}
	}
}

func TestNoTEEOrTwoIsAnErrorThatSaysWhatWasLookedFor(t *testing.T) {
	t.Parallel()
	g := launchSNP(simsnp.Milan, simsnp.Launch{})
	empty := fileSystem(t)
	for name, c := range map[string]struct {
		root string
		tsm  configfsi.Client
		want []string
	}{
		"nothing":            {empty, tsmFiles{empty}, []string{"no TEE", NitroDevice + " is not there", ConfigFS + " is not there", SNPDevice + " is not there", TPMDevice + " is not there", TPMRawDevice + " is not there"}},
		"another TEE":        {fileSystem(t, ConfigFS+"/"), kernelTSM(g, "tdx_guest", 0), []string{"no TEE", `reports of "tdx_guest"`, SNPDevice + " is not there"}},
		"without permission": {fileSystem(t, ConfigFS+"/"), forbidden{}, []string{"no TEE", ConfigFS + ": permission denied"}},
		"two kinds":          {fileSystem(t, NitroDevice, SNPDevice), tsmFiles{empty}, []string{"two kinds", "aws-nitro", "amd-sev-snp"}},
	} {
		got, err := detect(c.root, c.tsm)
		if got != "" {
			t.Errorf("%s: %s", name, got)
		}
		wantCheck(t, err, attest.Unavailable, "tee")
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in %q", name, w, err)
			}
		}
		if !strings.Contains(asError(err).Hint, "--tee") {
			t.Errorf("%s: hint %q", name, asError(err).Hint)
		}
	}
}

func TestLookingForATEELeavesNothingBehind(t *testing.T) {
	t.Parallel()
	root := fileSystem(t, ConfigFS+"/")
	if _, err := Detect(root); err == nil {
		t.Fatal("something was found")
	}
	if left := must(os.ReadDir(root + ConfigFS)); len(left) != 0 {
		t.Errorf("%d entries are left", len(left))
	}
}
