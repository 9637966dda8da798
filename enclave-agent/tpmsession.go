package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// tpmSession is a TPM during one turn: opened, with the objects that the turn
// loaded into it. It is a transport of go-tpm.
//
// Invariant: what a session loads, it flushes before it gives the TPM back. A TPM
// has room for three objects.
type tpmSession struct {
	ctx    context.Context
	conn   tpmConn
	limit  time.Duration // of one command
	warn   func(msg string, args ...any)
	loaded []tpm2.TPMHandle
	broken bool // bytes no longer go to and fro
	swept  bool // what others had left was flushed already
}

// tpmIOError is a device or socket that does not carry commands.
type tpmIOError struct{ err error }

func (e *tpmIOError) Error() string { return e.err.Error() }
func (e *tpmIOError) Unwrap() error { return e.err }

// Waits before a command is sent again to a TPM that asks for it.
const (
	tpmRetryBase = 10 * time.Millisecond
	tpmRetryCap  = 500 * time.Millisecond
)

// Send carries one command. It sends again what the TPM was too busy for (Part 1,
// section 39: RETRY, TESTING, YIELDED), and once what it had no room for, after
// removing what a process that died has left in a TPM without resource manager.
func (s *tpmSession) Send(command []byte) ([]byte, error) {
	wait := tpmRetryBase
	for {
		out, err := s.exchange(command)
		if err != nil {
			return nil, err
		}
		switch code := tpm2.TPMRC(binary.BigEndian.Uint32(out[6:])); {
		case code == tpm2.TPMRCRetry || code == tpm2.TPMRCTesting || code == tpm2.TPMRCYielded:
			if sleep(s.ctx, wait) != nil {
				return nil, &tpmIOError{fmt.Errorf("the TPM is busy (%w): %w", code, s.ctx.Err())}
			}
			wait = min(2*wait, tpmRetryCap)
		case noRoom(code) && !s.swept && !s.conn.shared():
			s.swept = true
			if err := s.sweep(); err != nil {
				return nil, err
			}
		default:
			return out, nil
		}
	}
}

func noRoom(code tpm2.TPMRC) bool {
	return slices.Contains([]tpm2.TPMRC{tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles, tpm2.TPMRCObjectHandles}, code)
}

func (s *tpmSession) exchange(command []byte) ([]byte, error) {
	if s.broken {
		return nil, &tpmIOError{errors.New("the TPM failed before")}
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.limit)
	defer cancel()
	out, err := s.conn.exchange(ctx, command)
	var strange *deviceNonsense
	switch {
	case errors.As(err, &strange):
	case err != nil:
		err = &tpmIOError{err}
	case len(out) < tpmHeader || len(out) > maxTPMResponse || binary.BigEndian.Uint32(out[2:]) != uint32(len(out)):
		err = nonsense("a response of %d bytes that does not say so itself", len(out))
	}
	if err != nil {
		s.broken = true
		return nil, err
	}
	return out, nil
}

// Ranges of handles (Part 2, section 7.2).
const (
	tpmFirstNV         tpm2.TPMHandle = 0x01000000
	tpmFirstSession    tpm2.TPMHandle = 0x02000000 // loaded sessions
	tpmFirstTransient  tpm2.TPMHandle = 0x80000000
	tpmFirstPersistent tpm2.TPMHandle = 0x81000000
)

// sweep flushes objects and sessions that are not this turn's.
func (s *tpmSession) sweep() error {
	n := 0
	for _, first := range []tpm2.TPMHandle{tpmFirstTransient, tpmFirstSession} {
		all, err := s.handles(first, first|0x00ffffff)
		if err != nil {
			return err
		}
		for _, h := range all {
			if slices.Contains(s.loaded, h) {
				continue
			}
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(s); err != nil {
				return fmt.Errorf("TPM2_FlushContext: %w", err)
			}
			n++
		}
	}
	s.warn("the TPM was full: what another process had left in it was removed", "objects", n)
	return nil
}

// handles lists the handles that are in use between two, both included.
func (s *tpmSession) handles(first, last tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	var all []tpm2.TPMHandle
	for {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 64}.Execute(s)
		if err != nil {
			return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
		}
		page, err := r.CapabilityData.Data.Handles()
		if err != nil {
			return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
		}
		for _, h := range page.Handle {
			if h < first || h > last {
				return all, nil
			}
			all = append(all, h)
			first = h + 1
		}
		if !bool(r.MoreData) || len(page.Handle) == 0 {
			return all, nil
		}
	}
}

// property reads one fixed property, 0 where the TPM does not have it.
func (s *tpmSession) property(p tpm2.TPMPT) (uint32, error) {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(s)
	if err != nil {
		return 0, fmt.Errorf("TPM2_GetCapability: %w", err)
	}
	all, err := r.CapabilityData.Data.TPMProperties()
	if err != nil {
		return 0, fmt.Errorf("TPM2_GetCapability: %w", err)
	}
	for _, t := range all.TPMProperty {
		if t.Property == p {
			return t.Value, nil
		}
	}
	return 0, nil
}

// curves lists the elliptic curves that the TPM has; none where it has no ECC.
func (s *tpmSession) curves() ([]tpm2.TPMECCCurve, error) {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapECCCurves, PropertyCount: 64}.Execute(s)
	if errors.Is(err, tpm2.TPMRCValue) {
		return nil, nil // a TPM without ECC does not know the question
	}
	if err != nil {
		return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
	}
	all, err := r.CapabilityData.Data.ECCCurves()
	if err != nil {
		return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
	}
	return all.ECCCurves, nil
}

// tpmKey is an object in the TPM.
type tpmKey struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	area   []byte // TPMT_PUBLIC
}

// auth names the key for a command that its empty password authorizes.
func (k tpmKey) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: tpm2.PasswordAuth(nil)}
}

// createPrimary makes a key of a hierarchy. It stays loaded until the turn ends.
func (s *tpmSession) createPrimary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (tpmKey, error) {
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(s)
	if err != nil {
		return tpmKey{}, fmt.Errorf("TPM2_CreatePrimary: %w", err)
	}
	s.loaded = append(s.loaded, r.ObjectHandle)
	return tpmKey{handle: r.ObjectHandle, name: r.Name, area: r.OutPublic.Bytes()}, nil
}

// save takes a copy of a key that only this TPM can load again.
func (s *tpmSession) save(k tpmKey) (savedKey, error) {
	r, err := tpm2.ContextSave{SaveHandle: k.handle}.Execute(s)
	if err != nil {
		return savedKey{}, fmt.Errorf("TPM2_ContextSave: %w", err)
	}
	return savedKey{context: r.Context, name: k.name, area: k.area}, nil
}

// savedKey is a key outside of the TPM, sealed for it: it takes no room there. It
// cannot be loaded after a reset, or into another TPM.
type savedKey struct {
	context tpm2.TPMSContext
	name    tpm2.TPM2BName
	area    []byte
}

// errKeyGone says that the TPM no longer knows what a saved key was sealed with.
var errKeyGone = errors.New("the TPM was reset since the key was made")

// load brings a saved key back until the turn ends, or until it is flushed.
func (s *tpmSession) load(k savedKey) (tpmKey, error) {
	r, err := tpm2.ContextLoad{Context: k.context}.Execute(s)
	var unfit tpm2.TPMFmt1Error // something is wrong with the parameter, which is as the TPM gave it
	switch {
	case errors.As(err, &unfit):
		return tpmKey{}, fmt.Errorf("%w: TPM2_ContextLoad: %w", errKeyGone, err)
	case err != nil:
		return tpmKey{}, fmt.Errorf("TPM2_ContextLoad: %w", err)
	}
	s.loaded = append(s.loaded, r.LoadedHandle)
	return tpmKey{handle: r.LoadedHandle, name: k.name, area: k.area}, nil
}

// flush removes what this turn loaded.
func (s *tpmSession) flush(h tpm2.TPMHandle) error {
	i := slices.Index(s.loaded, h)
	if i < 0 {
		return nil
	}
	s.loaded = slices.Delete(s.loaded, i, i+1)
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(s); err != nil {
		return fmt.Errorf("TPM2_FlushContext: %w", err)
	}
	return nil
}

// end flushes everything that is still loaded. Over a connection that broke it
// cannot; the next turn makes room where that is needed.
func (s *tpmSession) end() error {
	var first error
	for len(s.loaded) > 0 && !s.broken {
		if err := s.flush(s.loaded[len(s.loaded)-1]); err != nil && first == nil {
			first = err
		}
	}
	return first
}
