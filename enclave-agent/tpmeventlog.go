package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/assay-project/assay/attest"
)

// TPMEventLog is where Linux shows what the firmware measured at boot (TCG PC
// Client Platform Firmware Profile, section 10). Its digests replay to the PCRs.
const TPMEventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// NoEventLog, as a path, has no event log sent.
const NoEventLog = "none"

// eventLog reads the log; nil is none. A log that was asked for by name must be
// there, the kernel's own need not.
func (t *TPM) eventLog() ([]byte, error) {
	path, named := t.options.EventLog, true
	switch {
	case path == NoEventLog, path == "" && t.sim:
		return nil, nil
	case path == "":
		path, named = TPMEventLog, false
	}
	log, err := readEventLog(path)
	switch {
	case err == nil:
		return log, nil
	case named:
		return nil, &attest.Error{
			Kind: attest.Unavailable, Check: "tpm_event_log", Err: fmt.Errorf("the boot event log cannot be used: %w", err),
			Hint: "check tpm.event_log in the configuration; without the key the kernel's log is used",
		}
	case !t.logged.Swap(true) && !errors.Is(err, fs.ErrNotExist):
		t.options.Log.Warn("the boot event log cannot be used: policies that read it will deny", "error", err.Error())
	}
	return nil, nil
}

// readEventLog reads a file of at most [attest.MaxTPMEventLog] bytes. Files of
// securityfs do not tell their size.
func readEventLog(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	log, err := io.ReadAll(io.LimitReader(f, attest.MaxTPMEventLog+1))
	switch {
	case err != nil:
		return nil, err
	case len(log) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case len(log) > attest.MaxTPMEventLog:
		return nil, fmt.Errorf("%s has more than %d bytes", path, attest.MaxTPMEventLog)
	}
	return log, nil
}
