package eventlog

import (
	"crypto"
	_ "crypto/sha1"   //nolint:gosec // old logs are printed; who verifies refuses a SHA-1 bank
	_ "crypto/sha256" // the banks
	_ "crypto/sha512"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// The names of this package's checks, in the order in which they run.
const (
	CheckSize      = "event_log_size"      // malformed: at most [attest.MaxTPMEventLog] bytes
	CheckStructure = "event_log_structure" // malformed: the format, to the last byte
	CheckReplay    = "event_log_replay"    // untrusted: every quoted PCR that has events replays to its value
)

func malformed(check, format string, a ...any) error {
	return &attest.Error{
		Kind: attest.Malformed, Check: check, Err: fmt.Errorf(format, a...),
		Hint: "give the log as the kernel has it: /sys/kernel/security/tpm0/binary_bios_measurements",
	}
}

// known refuses a bank that is not replayed here.
func known(bank crypto.Hash) error {
	if bankIDs[bank] != 0 {
		return nil
	}
	return &attest.Error{Kind: attest.Internal, Check: CheckReplay, Err: fmt.Errorf("no bank of PCRs is replayed with hash %d", bank)}
}

func sum(h crypto.Hash, parts ...[]byte) []byte {
	d := h.New()
	for _, p := range parts {
		_, _ = d.Write(p) // a hash never fails
	}
	return d.Sum(nil)
}
