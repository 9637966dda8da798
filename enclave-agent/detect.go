package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"github.com/assay-project/assay/attest"
)

// Detect finds out in which kind of TEE the agent runs, by the devices that
// each has. root stands before their paths: "" is the machine's own. None, or
// two, is an *attest.Error of check "tee" that says what was looked for. A TPM
// counts only where nothing else is found: one in an SEV-SNP guest is a virtual one,
// and belongs to those whom the guest does not trust. A host
// can give its guest any devices: what Detect finds decides only which device is
// asked for evidence.
func Detect(root string) (attest.Platform, error) { return detect(root, tsmFiles{root}) }

func detect(root string, tsm configfsi.Client) (attest.Platform, error) {
	var found []attest.Platform
	var looked []string
	if what, ok := present(root, NitroDevice); ok {
		found = append(found, attest.AWSNitro)
	} else {
		looked = append(looked, what)
	}
	if what, ok := presentSNP(root, tsm); ok {
		found = append(found, attest.AMDSEVSNP)
	} else {
		looked = append(looked, what...)
	}
	if len(found) == 0 {
		for _, path := range []string{TPMDevice, TPMRawDevice} {
			what, ok := present(root, path)
			if ok {
				return attest.TPM2, nil
			}
			looked = append(looked, what)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", &attest.Error{
			Kind: attest.Unavailable, Check: "tee", Err: fmt.Errorf("no TEE is found here: %s", strings.Join(looked, "; ")),
			Hint: fmt.Sprintf("inside a TEE, its kernel lacks a driver or the agent a permission; name the kind with --tee (%s, %s or %s); without one, use a simulator: nitro.socket, snp.socket or tpm.socket", attest.AWSNitro, attest.AMDSEVSNP, attest.TPM2),
		}
	}
	return "", &attest.Error{
		Kind: attest.Unavailable, Check: "tee", Err: fmt.Errorf("two kinds of TEE are found here: %s and %s", found[0], found[1]),
		Hint: "name one with --tee, or with tee in the configuration",
	}
}

// present looks for a file.
func present(root, path string) (what string, ok bool) {
	_, err := os.Stat(root + path)
	return missing(path, err), err == nil
}

func missing(path string, err error) string {
	var pe *fs.PathError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, fs.ErrNotExist):
		return path + " is not there"
	case errors.As(err, &pe):
		return path + ": " + pe.Err.Error()
	}
	return path + ": " + err.Error()
}

// presentSNP asks configfs-tsm, which other TEEs have too, and looks for the
// device.
func presentSNP(root string, tsm configfsi.Client) (looked []string, ok bool) {
	what, ok := present(root, ConfigFS)
	if ok {
		err := snpConfigFS{tsm}.usable()
		if err == nil {
			return nil, true
		}
		what = missing(ConfigFS, err)
		if errors.Is(err, errNoSNP) {
			what = err.Error()
		}
	}
	looked = append(looked, what)
	if what, ok = present(root, SNPDevice); ok {
		return nil, true
	}
	return append(looked, what), false
}
