package agent

import (
	"context"
	"io/fs"
	"os"
)

// Prepare takes the device away from everybody else: Linux makes /dev/nsm with mode
// 0666, and whoever opens it has evidence made over what they like, with a key of
// theirs in it. An agent that is root or the device's owner sets 0600, before its first
// attestation and so before a workload that `assay-agent exec` starts. Another
// one leaves it as it is, and Probe says so. There is no error: what the server
// demands is in the evidence. Simulators' sockets have their own modes.
func (n *Nitro) Prepare(context.Context) error {
	if st, err := os.Stat(n.name); err == nil && shared(st) {
		_ = os.Chmod(n.name, st.Mode().Perm()&^0o077)
	}
	return nil
}

// shared reports whether a device is others' to use as well.
func shared(st fs.FileInfo) bool {
	return st.Mode()&fs.ModeCharDevice != 0 && st.Mode().Perm()&0o077 != 0
}

// reach says who may open the device, where that is more than its owner.
func (n *Nitro) reach() string {
	if st, err := os.Stat(n.name); err == nil && shared(st) {
		return "; OTHERS MAY OPEN IT (mode " + st.Mode().Perm().String() + "): run the agent as root, or make the device its own, 0600"
	}
	return ""
}
