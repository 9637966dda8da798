package tpm

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Commands of the simulator's own, on the command socket: vendor-specific ones
// (Part 2, section 6.5.1: bit 29), which no real TPM has. They stand for somebody
// at the machine: the agent never sends them.
const (
	vendorBit = 0x20000000

	commandReset    = vendorBit | 0x5301 // reboot; parameters: Boot in JSON, or none
	commandPowerCut = vendorBit | 0x5302 // likewise, without a warning
	commandResume   = vendorBit | 0x5303 // suspend and resume
	commandClear    = vendorBit | 0x5304 // TPM2_Clear
)

// bootRequest is a Boot in JSON.
type bootRequest struct {
	Image         string `json:"image,omitempty"`
	SecureBootOff bool   `json:"secure_boot_off,omitempty"`
	Loader        Loader `json:"loader,omitempty"`
	CommandLine   string `json:"command_line,omitempty"`
	Firmware      string `json:"firmware,omitempty"`
	Locality      uint8  `json:"locality,omitempty"`
}

// ownCommand carries one out, while mu is held. What went wrong is text behind
// the response code.
func (t *TPM) ownCommand(command []byte) []byte {
	var err error
	switch codeOf(command) {
	case commandReset, commandPowerCut:
		var r bootRequest
		if parameters := command[headerSize:]; len(parameters) > 0 {
			err = json.Unmarshal(parameters, &r)
		}
		if err == nil {
			err = t.restartLocked(Boot(r), codeOf(command) == commandReset)
		}
	case commandResume:
		err = t.resumeLocked()
	case commandClear:
		err = t.clearLocked()
	default:
		return message(uint32(tpm2.TPMRCCommandCode))
	}
	if err != nil {
		text := []byte(err.Error())
		return message(uint32(tpm2.TPMRCFailure), text[:min(len(text), maxMessage-headerSize)]...)
	}
	return message(uint32(tpm2.TPMRCSuccess))
}

// remoteTime is how long a machine may take to reboot.
const remoteTime = 2 * time.Minute

// Remote reaches a machine that another process serves on a unix socket.
type Remote struct{ Path string }

// Reset is [TPM.Reset].
func (r Remote) Reset(b Boot) error { return r.boot(commandReset, b) }

// PowerCut is [TPM.PowerCut].
func (r Remote) PowerCut(b Boot) error { return r.boot(commandPowerCut, b) }

// Resume is [TPM.Resume].
func (r Remote) Resume() error { return r.do(commandResume, nil) }

// Clear is [TPM.Clear].
func (r Remote) Clear() error { return r.do(commandClear, nil) }

func (r Remote) boot(code uint32, b Boot) error {
	var parameters []byte
	if b != (Boot{}) {
		var err error
		if parameters, err = json.Marshal(bootRequest(b)); err != nil {
			return fmt.Errorf("tpm: %w", err)
		}
	}
	return r.do(code, parameters)
}

func (r Remote) do(code uint32, parameters []byte) error {
	command := message(code, parameters...)
	if err := checkCommand(command); err != nil {
		return err
	}
	c, err := dial(r.Path)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(remoteTime)); err != nil {
		return fmt.Errorf("tpm: %w", err)
	}
	if _, err := c.Write(command); err != nil {
		return fmt.Errorf("tpm: %s: %w", r.Path, err)
	}
	response, err := readMessage(c)
	if err != nil {
		return fmt.Errorf("tpm: %s: %w", r.Path, err)
	}
	switch rc := tpm2.TPMRC(codeOf(response)); rc {
	case tpm2.TPMRCSuccess:
		return nil
	case tpm2.TPMRCFailure:
		return fmt.Errorf("tpm: %s: %s", r.Path, response[headerSize:])
	case tpm2.TPMRCCommandCode:
		return fmt.Errorf("tpm: %s: that TPM is not a simulated machine of `teesim tpm run`", r.Path)
	default:
		return fmt.Errorf("tpm: %s: %w", r.Path, rc)
	}
}
