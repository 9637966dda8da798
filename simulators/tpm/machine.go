package tpm

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Machine says which machine to start. The zero value is good.
type Machine struct {
	// State is a directory in which the TPM keeps what it must remember. It is made
	// when it is missing, and a machine with it. "" makes a machine that is
	// forgotten at Close.
	State string
	// EKs are the endorsement keys that the manufacturer gives it, with a
	// certificate each. Default: P256 and RSA2048; a machine that exists has those
	// that it was made with. An RSA key takes up to a second.
	EKs []EKKind
	// Padding is how many zeros follow a certificate in its NV index, as real TPMs
	// have it.
	Padding int
	// Boot is what it starts.
	Boot Boot
	// EventLogFile is where every boot leaves its log, as Linux does in
	// /sys/kernel/security/tpm0/binary_bios_measurements; "" = nowhere.
	EventLogFile string
}

// maxPadding leaves room for the certificate: an NV index of swtpm has up to
// 2048 bytes.
const maxPadding = 512

// TPM is a running machine's. It is safe for concurrent use: commands are
// carried out one after another.
type TPM struct {
	authority *Authority
	machine   Machine
	faults    []Fault
	state     *state

	mu       sync.Mutex
	process  *process // nil once closed
	platform []byte   // the platform hierarchy's password, new at each boot, as firmware chooses it
	eks      []EK
	boot     Boot
	log      []byte
	tamper   *tamper // what faults do to commands; nil for none
	clients  int     // connections being served
}

var _ transport.TPMCloser = (*TPM)(nil)

// ErrClosed is the error of a TPM that was closed.
var ErrClosed = errors.New("tpm: the machine is off")

// Start turns a machine on: it makes it first where it does not exist yet, and
// measures the boot. Close turns it off. The error is ErrNotInstalled where
// there is no swtpm.
func (a *Authority) Start(m Machine, faults ...Fault) (*TPM, error) {
	if m.Padding < 0 || m.Padding > maxPadding {
		return nil, fmt.Errorf("tpm: %d bytes of padding: want 0 to %d", m.Padding, maxPadding)
	}
	for _, k := range m.EKs {
		if _, err := k.place(); err != nil {
			return nil, err
		}
	}
	boot, err := m.Boot.complete()
	if err != nil {
		return nil, err
	}
	if _, err := find(); err != nil { // before anything is made
		return nil, err
	}
	if m.EventLogFile != "" {
		if m.EventLogFile, err = filepath.Abs(m.EventLogFile); err != nil {
			return nil, fmt.Errorf("tpm: %w", err)
		}
	}
	s, err := openState(m.State)
	if err != nil {
		return nil, err
	}
	t := &TPM{authority: a, machine: m, faults: slices.Clone(faults), state: s}
	t.tamper = newTamper(t, t.faults)
	if err := t.start(boot); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

// start runs swtpm, and makes the machine when it is not.
func (t *TPM) start(boot Boot) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.state.read()
	if err != nil {
		return err
	}
	if r != nil {
		if err := r.fits(t.authority, t.state.dir, t.machine.EKs); err != nil {
			return err
		}
	}
	dir, err := t.state.tpm(r != nil)
	if err != nil {
		return err
	}
	if t.process, err = start(dir, t.state.lock); err != nil {
		return err
	}
	if err := t.powerUp(boot); err != nil {
		return err
	}
	if err := t.manufacture(r); err != nil {
		return err
	}
	return t.measure(boot)
}

// Close turns the machine off in good order and waits until its process has
// ended. Closing twice is as good.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process != nil {
		_, _ = t.process.send(shutdown(tpm2.TPMSUClear)) // it may never have started
		t.process.stop()
		t.process = nil
	}
	if t.state != nil {
		t.state.close()
		t.state = nil
	}
	return nil
}

// Send carries out one TPM command, as a device does: the error is the
// machine's, a TPM's own is in the response.
func (t *TPM) Send(command []byte) ([]byte, error) {
	if err := checkCommand(command); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process == nil {
		return nil, ErrClosed
	}
	if codeOf(command)&vendorBit != 0 {
		return t.ownCommand(command), nil
	}
	if t.tamper != nil {
		return t.tamper.send(command)
	}
	return t.process.send(command)
}

// direct reaches the TPM from inside, past the faults, while mu is held.
type direct struct{ p *process }

// Send is [transport.TPM].
func (d direct) Send(command []byte) ([]byte, error) { return d.p.send(command) }

// EventLog is what firmware and loader wrote at the last boot.
func (t *TPM) EventLog() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.log)
}

// Booted is what was started last, with nothing left to default.
func (t *TPM) Booted() Boot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.boot
}

// EKs are the machine's endorsement keys, in the order of Machine.EKs.
func (t *TPM) EKs() []EK {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []EK
	for _, e := range t.eks {
		out = append(out, e.clone())
	}
	return out
}

// EK is the endorsement key of a kind.
func (t *TPM) EK(k EKKind) (EK, bool) {
	for _, e := range t.EKs() {
		if e.Kind == k {
			return e, true
		}
	}
	return EK{}, false
}

// Reset reboots the machine: the TPM is reset, so that its resetCount grows, the
// registers start afresh and every key without a place is gone, and then the
// boot is measured. The zero Boot starts the same again.
func (t *TPM) Reset(b Boot) error { return t.restart(b, true) }

// PowerCut is Reset without a warning: the TPM was not told to shut down, so its
// clock is not safe for a while.
func (t *TPM) PowerCut(b Boot) error { return t.restart(b, false) }

func (t *TPM) restart(b Boot, orderly bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.restartLocked(b, orderly)
}

func (t *TPM) restartLocked(b Boot, orderly bool) error {
	if t.process == nil {
		return ErrClosed
	}
	if b == (Boot{}) {
		b = t.boot
	}
	b, err := b.complete()
	if err != nil {
		return err
	}
	if orderly {
		if err := t.run(shutdown(tpm2.TPMSUClear)); err != nil {
			return fmt.Errorf("tpm: shutting down: %w", err)
		}
	}
	if err := t.powerUp(b); err != nil {
		return err
	}
	if err := t.provision(); err != nil {
		return err
	}
	return t.measure(b)
}

// Resume suspends the machine and wakes it up: registers stay, restartCount
// grows (Part 1, section 12.2.3.2, TPM Resume).
func (t *TPM) Resume() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resumeLocked()
}

func (t *TPM) resumeLocked() error {
	if t.process == nil {
		return ErrClosed
	}
	if err := t.run(shutdown(tpm2.TPMSUState)); err != nil {
		return fmt.Errorf("tpm: suspending: %w", err)
	}
	if err := t.process.powerCycle(); err != nil {
		return err
	}
	if err := t.run(startup(tpm2.TPMSUState)); err != nil {
		return fmt.Errorf("tpm: resuming: %w", err)
	}
	return nil
}

// Clear is TPM2_Clear through the platform hierarchy, as the firmware's setup
// offers it: owner's keys and NV indices are gone, and all persistent keys; the
// counters start at zero. Endorsement keys, which the next boot makes persistent
// again, and their certificates stay (Part 3, section 24.6).
func (t *TPM) Clear() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clearLocked()
}

func (t *TPM) clearLocked() error {
	if t.process == nil {
		return ErrClosed
	}
	_, err := tpm2.Clear{AuthHandle: t.platformAuth()}.Execute(direct{t.process})
	if err != nil {
		return fmt.Errorf("tpm: clearing: %w", err)
	}
	return nil
}

// powerUp starts the TPM, from the boot's locality, and gives the platform
// hierarchy a password of its own, as firmware does before anything else runs.
func (t *TPM) powerUp(b Boot) error {
	if err := t.process.powerCycle(); err != nil {
		return err
	}
	if err := t.process.setLocality(b.Locality); err != nil {
		return err
	}
	if err := t.run(startup(tpm2.TPMSUClear)); err != nil {
		return fmt.Errorf("tpm: starting: %w", err)
	}
	if err := t.process.setLocality(0); err != nil {
		return err
	}
	password := make([]byte, 20)
	if _, err := rand.Read(password); err != nil {
		return fmt.Errorf("tpm: %w", err)
	}
	_, err := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: password},
	}.Execute(direct{t.process})
	if err != nil {
		return fmt.Errorf("tpm: taking the platform hierarchy: %w", err)
	}
	t.platform = password
	return nil
}

func (t *TPM) platformAuth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(t.platform)}
}

// measure extends a boot's events and writes its log.
func (t *TPM) measure(b Boot) error {
	events, err := b.events()
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.kind == evNoAction {
			continue
		}
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(e.pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
				{HashAlg: tpm2.TPMAlgSHA256, Digest: e.digest(crypto.SHA256)},
				{HashAlg: tpm2.TPMAlgSHA384, Digest: e.digest(crypto.SHA384)},
			}},
		}.Execute(direct{t.process})
		if err != nil {
			return fmt.Errorf("tpm: extending PCR%d: %w", e.pcr, err)
		}
	}
	t.boot, t.log = b, encodeLog(events)
	for _, f := range t.faults {
		if f.onLog == nil {
			continue
		}
		if t.log, err = f.onLog(b, t.log); err != nil {
			return fmt.Errorf("tpm: fault %s: %w", f.Name, err)
		}
	}
	if t.machine.EventLogFile != "" {
		if err := writeFile(t.machine.EventLogFile, t.log, 0o644); err != nil {
			return fmt.Errorf("tpm: event log: %w", err)
		}
	}
	return nil
}

// run carries out a command that answers nothing.
func (t *TPM) run(command []byte) error {
	response, err := t.process.send(command)
	if err != nil {
		return err
	}
	if rc := tpm2.TPMRC(codeOf(response)); rc != tpm2.TPMRCSuccess {
		return rc
	}
	return nil
}

func startup(kind tpm2.TPMSU) []byte  { return stateCommand(tpm2.TPMCCStartup, kind) }
func shutdown(kind tpm2.TPMSU) []byte { return stateCommand(tpm2.TPMCCShutdown, kind) }

// stateCommand has no session and one parameter, which go-tpm offers for one of
// the two only.
func stateCommand(cc tpm2.TPMCC, kind tpm2.TPMSU) []byte {
	return message(uint32(cc), byte(kind>>8), byte(kind))
}
