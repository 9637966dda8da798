package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/assay-project/assay/enclave-agent/vsock"
)

// CheckServer wants the address of a server: host:port with a host, or vsock:CID:PORT
// (package vsock).
func CheckServer(address string) error {
	if _, ok, err := vsock.Parse(address); ok {
		return err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) {
			return fmt.Errorf("%s in %q", ae.Err, clip(address))
		}
		return err
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("port %q, want 1 to 65535", clip(port))
	}
	if host == "" || strings.ContainsAny(host, " \t/") {
		return fmt.Errorf("host %q", clip(host))
	}
	return nil
}

// dialServer connects to an address that [CheckServer] takes.
func dialServer(ctx context.Context, address string) (net.Conn, error) {
	if a, ok, err := vsock.Parse(address); err != nil {
		return nil, err
	} else if ok {
		return vsock.Dial(ctx, a)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}
