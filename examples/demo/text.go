package main

import (
	"net"
	"strings"
	"time"
)

// endpoint is how a SPIFFE program is told where its Workload API is.
func endpoint(socket string) string { return "SPIFFE_ENDPOINT_SOCKET=unix://" + socket }

// freeAddress finds a free port on the loopback interface.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// dials reports whether something accepts connections there.
func dials(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// short shows enough of a serial number to tell two apart.
func short(serial string) string {
	if len(serial) <= 12 {
		return serial
	}
	return serial[:12] + "…"
}

// lastLine is the last line of a program's complaint.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// firstLine is the first line of a complaint that begins so.
func firstLine(s, prefix string) string {
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSpace(line)
		}
	}
	return lastLine(s)
}

// errText is an error's text, for one that may be nil.
func errText(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()
}
