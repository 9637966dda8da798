package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
)

const (
	// tpmTimeout bounds one command, and an operation with a key that is there
	// already: each takes tens or hundreds of milliseconds.
	tpmTimeout = 30 * time.Second
	// tpmSlow bounds the making of an endorsement key, and an operation that may
	// need it: an RSA key can take a TPM a minute and more.
	tpmSlow = 3 * time.Minute
)

// TPM attests with a TPM 2.0. Its operations run one after another, each in a turn
// of its own: the TPM is opened, used, emptied and closed again.
type TPM struct {
	name    string
	open    tpmOpener
	sim     bool // a socket
	options TPMOptions
	timeout time.Duration // of a command, and of an operation with a key that is there
	slow    time.Duration // of an operation that may make the endorsement key
	turn    chan struct{} // holds a token while the TPM is used

	id     *tpmIdentity // guarded by turn; nil until the first operation
	logged atomic.Bool  // that there is no event log
}

// TPMOptions are what a [TPM] may be given.
type TPMOptions struct {
	// EK is the endorsement key to attest with; "" takes the first of ecc-p256,
	// ecc-p384 and rsa-2048 that the TPM has a certificate for.
	EK TPMKeyKind
	// AK is the attestation key: ecc-p256, rsa-2048 or gce; "" is ecc-p256, and
	// rsa-2048 for a TPM without that curve.
	AK TPMKeyKind
	// EventLog is the file with the boot event log. "" is [TPMEventLog] for a device,
	// if it is there, and none for a socket; "none" is none.
	EventLog string
	// Log takes warnings; nil discards.
	Log *slog.Logger
}

func newTPM(name string, open tpmOpener, o TPMOptions) *TPM {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &TPM{name: name, open: open, options: o, timeout: tpmTimeout, slow: tpmSlow, turn: make(chan struct{}, 1)}
}

// NewTPM uses the kernel's TPM: [TPMDevice], and [TPMRawDevice] where the kernel
// has no resource manager.
func NewTPM(o TPMOptions) *TPM { return newTPM(TPMDevice, openTPM, o) }

// NewTPMDevice uses the device at the path and nothing else. "unix:PATH" is a
// socket.
func NewTPMDevice(path string, o TPMOptions) *TPM {
	if socket, ok := strings.CutPrefix(path, tpmSocketPrefix); ok {
		return NewTPMSocket(socket, o)
	}
	return newTPM(path, openTPMDevice(path), o)
}

// NewTPMSocket uses a TPM behind a unix socket: swtpm, or a simulator (`teesim tpm
// run`).
func NewTPMSocket(path string, o TPMOptions) *TPM {
	t := newTPM(path, openTPMSocket(path), o)
	t.sim = true
	return t
}

// CheckTPMKeys wants kinds of keys that [TPMOptions] takes.
func CheckTPMKeys(ek, ak TPMKeyKind) error {
	if !slices.Contains([]TPMKeyKind{"", TPMP256, TPMP384, TPMRSA2048}, ek) {
		return fmt.Errorf("unknown endorsement key %q, want %s, %s or %s", clip(string(ek)), TPMP256, TPMP384, TPMRSA2048)
	}
	if !slices.Contains([]TPMKeyKind{"", TPMP256, TPMRSA2048, TPMGCE}, ak) {
		return fmt.Errorf("unknown attestation key %q, want %s, %s or %s", clip(string(ak)), TPMP256, TPMRSA2048, TPMGCE)
	}
	return nil
}

// Platform is tpm2.
func (t *TPM) Platform() attest.Platform { return attest.TPM2 }

// String is the path of the device or socket.
func (t *TPM) String() string { return t.name }

// Prepare finds or makes the TPM's keys, which can take long, so that a challenge
// that is under way does not have to wait for them.
func (t *TPM) Prepare(ctx context.Context) error {
	_, err := withTPM(ctx, t, t.slow, t.identity)
	return err
}

// Probe says whose TPM it is and which of its keys are used.
func (t *TPM) Probe(ctx context.Context) (string, error) {
	id, err := withTPM(ctx, t, t.slow, t.identity)
	if err != nil {
		return "", err
	}
	log, err := t.eventLog()
	if err != nil {
		return "", err
	}
	boot := "no event log"
	if log != nil {
		boot = fmt.Sprintf("event log of %d bytes", len(log))
	}
	return fmt.Sprintf("%s: %s; %s", t, id.about, boot), nil
}

// identity is who the TPM is, found out once.
func (t *TPM) identity(s *tpmSession) (*tpmIdentity, error) {
	if t.id == nil {
		id, err := t.identify(s)
		if err != nil {
			return nil, err
		}
		t.id = id
	}
	return t.id, nil
}

// loadAK brings the attestation key into the TPM. A TPM that was cleared or
// replaced does not take the saved one: then everything is looked at afresh.
func (t *TPM) loadAK(s *tpmSession) (tpmKey, *tpmIdentity, error) {
	for again := false; ; again = true {
		id, err := t.identity(s)
		if err != nil {
			return tpmKey{}, nil, err
		}
		ak, err := s.load(id.ak)
		if errors.Is(err, errKeyGone) && !again {
			t.id = nil
			continue
		}
		return ak, id, err
	}
}

// loadBoth brings the endorsement key into the TPM as well; ek is a zero key where
// none is used.
func (t *TPM) loadBoth(s *tpmSession) (ak, ek tpmKey, id *tpmIdentity, err error) {
	for again := false; ; again = true {
		if ak, id, err = t.loadAK(s); err != nil || id.ek == nil {
			return ak, tpmKey{}, id, err
		}
		ek, err = s.loadEK(id.ek)
		if errors.Is(err, errKeyGone) && !again {
			t.id = nil
			if err = s.flush(ak.handle); err == nil {
				continue
			}
		}
		return ak, ek, id, err
	}
}

// withTPM gives f its turn with the TPM. A command that the kernel holds cannot be
// cancelled: after the time-out its goroutine stays, and keeps the turn, until the
// kernel returns; its result is dropped.
func withTPM[T any](ctx context.Context, t *TPM, within time.Duration, f func(*tpmSession) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	type result struct {
		v   T
		err error
	}
	var r result
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return r.v, t.deviceError(&tpmIOError{fmt.Errorf("an earlier command has no answer yet: %w", ctx.Err())})
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-t.turn }()
		v, err := session(ctx, t, f)
		done <- result{v, err}
	}()
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = &tpmIOError{ctx.Err()}
	}
	if r.err != nil {
		var none T
		return none, t.deviceError(r.err)
	}
	return r.v, nil
}

// session opens the TPM, runs f, and leaves nothing behind.
func session[T any](ctx context.Context, t *TPM, f func(*tpmSession) (T, error)) (v T, err error) {
	conn, err := t.open(ctx)
	if err != nil {
		return v, &tpmIOError{err}
	}
	s := &tpmSession{ctx: ctx, conn: conn, limit: t.timeout, warn: t.options.Log.Warn}
	defer func() {
		if p := recover(); p != nil { // a library's, over bytes of the device
			err = nonsense("decoding a response failed: %v", p)
		}
		if left := s.end(); left != nil && err == nil {
			t.options.Log.Warn("the TPM keeps an object that is no longer needed", "error", left.Error())
		}
		if s.broken {
			go func() { _ = conn.Close() }() // the kernel lets go only when the command has ended
			return
		}
		_ = conn.Close()
	}()
	return f(s)
}

// deviceError says what is wrong and what to do about it.
func (t *TPM) deviceError(err error) error {
	var known *attest.Error
	if errors.As(err, &known) {
		return err
	}
	var io *tpmIOError
	if errors.As(err, &io) {
		return t.unreachable(err)
	}
	e := &attest.Error{Kind: attest.Internal, Check: "tpm", Err: fmt.Errorf("the TPM at %s refused: %w", t, err)}
	var strange *deviceNonsense
	var code tpm2.TPMRC
	switch {
	case errors.As(err, &strange):
		e.Err = fmt.Errorf("an answer of the TPM at %s cannot be used: %w", t, err)
	case errors.Is(err, errKeyGone):
		e.Kind, e.Check, e.Hint = attest.Stale, checkKeyGone, "the agent attests again by itself"
	case errors.Is(err, errNoCloudAK):
		e.Kind, e.Hint = attest.Unavailable, "is this a Shielded VM of Google Compute Engine? elsewhere remove tpm.ak"
	case errors.Is(err, errNoEK):
		e.Hint = "remove tpm.ek from the configuration to take what the TPM has"
	case errors.Is(err, errNoBank):
		e.Hint = "the server asks for this bank (pcr_bank): turn it on in the machine's firmware, or ask for another"
	case !errors.As(err, &code):
		e.Err = fmt.Errorf("an answer of the TPM at %s cannot be used: %w", t, err)
	case errors.Is(code, tpm2.TPMRCAuthFail), errors.Is(code, tpm2.TPMRCBadAuth):
		e.Hint = "somebody gave the endorsement hierarchy a password: this agent uses it without one"
	case code == tpm2.TPMRCInitialize:
		e.Kind, e.Hint = attest.Unavailable, "the TPM was not started (TPM2_Startup): firmware does that; for swtpm use --flags not-need-init,startup-clear"
	case code == tpm2.TPMRCFailure:
		e.Hint = "the TPM failed its self-test and needs a reset: power the machine off"
	}
	return e
}

func (t *TPM) unreachable(err error) error {
	e := &attest.Error{Kind: attest.Unavailable, Check: "tpm", Err: fmt.Errorf("the TPM at %s cannot be used: %w", t, err)}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		e.Hint = "the TPM did not answer in time; the agent opens it again by itself"
	case t.sim:
		e.Hint = "check tpm.socket in the configuration, and whose socket it is; `teesim tpm run` starts a simulated machine"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "run the agent as the owner of " + t.name + ", or in its group (often tss)"
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = "does this machine have a TPM 2.0, is it turned on in its firmware, and does the kernel have the driver? `ls /dev/tpm*`; against a simulator set tpm.socket"
	case errors.Is(err, unix.EBUSY):
		e.Hint = "another program has the TPM: use " + TPMDevice + ", which several can share"
	}
	return e
}
