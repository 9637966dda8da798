package tpm

import (
	"fmt"
	"net"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
)

// Dial connects to a TPM on a unix socket: one that Serve serves, or any swtpm.
func Dial(path string) (transport.TPMCloser, error) {
	c, err := dial(path)
	if err != nil {
		return nil, err
	}
	return &connection{c}, nil
}

func dial(path string) (net.Conn, error) {
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("tpm: no machine answers on %s: %w", path, err)
	}
	return c, nil
}

type connection struct{ c net.Conn }

// Send is [transport.TPM].
func (d *connection) Send(command []byte) ([]byte, error) {
	if err := checkCommand(command); err != nil {
		return nil, err
	}
	if err := d.c.SetDeadline(time.Now().Add(commandTime)); err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	if _, err := d.c.Write(command); err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	response, err := readMessage(d.c)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return response, nil
}

// Close hangs up.
func (d *connection) Close() error { return d.c.Close() }
