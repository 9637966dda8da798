package tpm

import (
	"crypto"
	_ "crypto/sha256" // the banks' hashes
	_ "crypto/sha512"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Loader is what starts the kernel.
type Loader string

// The boot loaders that are simulated.
const (
	GRUB        Loader = "grub"         // shim and GRUB 2, with its tpm module
	SystemdBoot Loader = "systemd-boot" // systemd-boot and a unified kernel image
)

// Loaders lists them.
func Loaders() []Loader { return []Loader{GRUB, SystemdBoot} }

// Boot says what a machine starts. The zero value is good; the same value gives
// the same registers and the same event log, on every machine.
type Boot struct {
	// Image names the operating system; the bytes of loader configuration, kernel
	// and initrd derive from it. Default DefaultImage.
	Image string
	// SecureBootOff starts without UEFI secure boot.
	SecureBootOff bool
	// Loader is GRUB unless it says otherwise.
	Loader Loader
	// CommandLine is the kernel's. Default DefaultCommandLine.
	CommandLine string
	// Firmware is the version of the firmware. Default DefaultFirmware.
	Firmware string
	// Locality is from where the TPM was started: 0, or 3 as on machines with a
	// static root of trust in hardware. PCR0 begins with it (PC Client Platform
	// Firmware Profile, section 10.4.5.3).
	Locality uint8
}

// What a Boot is that says nothing else.
const (
	DefaultImage       = "linux"
	DefaultCommandLine = "root=/dev/mapper/root ro quiet lockdown=integrity"
	DefaultFirmware    = "Simulated UEFI 1.0"
)

const maxText = 1024 // of a boot's texts, in bytes

func (b Boot) complete() (Boot, error) {
	for _, d := range []struct {
		value *string
		to    string
	}{{&b.Image, DefaultImage}, {&b.CommandLine, DefaultCommandLine}, {&b.Firmware, DefaultFirmware}} {
		if *d.value == "" {
			*d.value = d.to
		}
		if len(*d.value) > maxText || !utf8.ValidString(*d.value) || strings.ContainsRune(*d.value, 0) {
			return b, fmt.Errorf("tpm: boot: want UTF-8 of up to %d bytes without zeros, not %.40q", maxText, *d.value)
		}
	}
	if b.Loader == "" {
		b.Loader = GRUB
	}
	if b.Loader != GRUB && b.Loader != SystemdBoot {
		return b, fmt.Errorf("tpm: boot: there is no loader %.40q: want one of %v", string(b.Loader), Loaders())
	}
	if b.Locality != 0 && b.Locality != 3 {
		return b, fmt.Errorf("tpm: boot: locality %d: a TPM is started from locality 0 or 3", b.Locality)
	}
	return b, nil
}

// Banks are those into which a boot is measured. The SHA-1 bank exists too, as
// on most machines, and no firmware extends it: anybody can fill it with
// anything.
func Banks() []crypto.Hash { return []crypto.Hash{crypto.SHA256, crypto.SHA384} }

// registers is the number of those that only a reset sets back.
const registers = 16

// Measured is what a boot leaves behind: the event log, and for each bank the
// values of PCR 0 to 15.
type Measured struct {
	Log  []byte
	PCRs map[crypto.Hash]map[int][]byte
}

// Measurements computes what a boot leaves behind, without a TPM.
func Measurements(b Boot) (*Measured, error) {
	b, err := b.complete()
	if err != nil {
		return nil, err
	}
	events, err := b.events()
	if err != nil {
		return nil, err
	}
	return &Measured{Log: encodeLog(events), PCRs: replay(events, b.Locality)}, nil
}

// replay computes the registers.
func replay(events []event, locality uint8) map[crypto.Hash]map[int][]byte {
	out := make(map[crypto.Hash]map[int][]byte)
	for _, bank := range Banks() {
		pcrs := make(map[int][]byte)
		for i := range registers {
			pcrs[i] = make([]byte, bank.Size())
		}
		pcrs[0][bank.Size()-1] = locality
		for _, e := range events {
			if e.kind == evNoAction {
				continue
			}
			h := bank.New()
			_, _ = h.Write(pcrs[int(e.pcr)]) // a hash never fails
			_, _ = h.Write(e.digest(bank))
			pcrs[int(e.pcr)] = h.Sum(nil)
		}
		out[bank] = pcrs
	}
	return out
}
