// Package vsock dials out of a TEE over AF_VSOCK, the socket between a virtual
// machine and what runs it (vsock(7)). A Nitro Enclave has no other network.
//
// An address is a context identifier (CID), which names a machine, and a port:
//
//	vsock:3:9443        the parent instance of a Nitro Enclave
//	vsock:parent:9443   the same
//	vsock:host:9443     the hypervisor's side of any other virtual machine, CID 2
//
// Who answers there is the adversary: TLS goes through to the server, and what is
// between sees its records. For the same reason the package only dials. Nothing in
// an agent ever listens on a vsock, where the parent instance could connect.
package vsock

import (
	"fmt"
	"strconv"
	"strings"
)

// Scheme is what an address of this package begins with.
const Scheme = "vsock:"

// CIDs with a meaning. 0 is the hypervisor of old, and no longer dialled.
const (
	Local  uint32 = 1 // this machine itself, where its kernel has the loopback transport
	Host   uint32 = 2 // what runs this virtual machine
	Parent uint32 = 3 // the parent instance, seen from a Nitro Enclave
)

// wildcard is VMADDR_CID_ANY and VMADDR_PORT_ANY: a wildcard for who listens, nobody's
// address.
const wildcard = 1<<32 - 1

// maxAddress is the longest address there is: two numbers of ten digits.
const maxAddress = len(Scheme) + 10 + 1 + 10

// Address is a port of a machine.
type Address struct {
	CID  uint32
	Port uint32
}

// Network is "vsock".
func (Address) Network() string { return "vsock" }

// String is the address as [Parse] reads it, with numbers.
func (a Address) String() string {
	return Scheme + strconv.FormatUint(uint64(a.CID), 10) + ":" + strconv.FormatUint(uint64(a.Port), 10)
}

// Parse reads "vsock:CID:PORT". CID is a number from 1 or one of the words parent (3)
// and host (2); PORT is a number from 1; 4294967295 is neither. Numbers are decimal,
// without sign, spaces or leading zeros. The second result says whether the text
// is meant as a vsock address at all: another one, such as a host and a port, is
// the caller's, and no error.
func Parse(address string) (Address, bool, error) {
	rest, ok := strings.CutPrefix(address, Scheme)
	if !ok {
		return Address{}, false, nil
	}
	bad := func(what string) (Address, bool, error) {
		return Address{}, true, fmt.Errorf("%s: want vsock:CID:PORT, as vsock:parent:9443 or vsock:3:9443", what)
	}
	if len(address) > maxAddress {
		return bad(fmt.Sprintf("a vsock address of %d bytes", len(address)))
	}
	machine, port, ok := strings.Cut(rest, ":")
	if !ok {
		return bad(fmt.Sprintf("%q has no port", address))
	}
	var a Address
	switch machine {
	case "parent":
		a.CID = Parent
	case "host":
		a.CID = Host
	default:
		if a.CID, ok = number(machine); !ok {
			return bad(fmt.Sprintf("%q is no CID", machine))
		}
	}
	if a.Port, ok = number(port); !ok {
		return bad(fmt.Sprintf("%q is no port of a vsock", port))
	}
	return a, true, nil
}

// number reads 1 to 4294967294.
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n == wildcard || strconv.FormatUint(n, 10) != s {
		return 0, false
	}
	return uint32(n), true
}
