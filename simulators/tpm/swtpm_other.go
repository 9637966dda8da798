//go:build !linux

package tpm

import "syscall"

// endsWithParent: elsewhere swtpm ends with its connection.
func endsWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
