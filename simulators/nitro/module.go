package nitro

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Limits of the device (the Linux driver's buffers, and the NSM's own).
const (
	MaxRequest  = 0x1000 // bytes of an encoded request
	MaxResponse = 0x3000 // bytes of an encoded response
	maxPCRs     = 32
	randomSize  = 256 // bytes that GetRandom returns
)

// errorCode is the NSM's answer to a request that it does not carry out.
type errorCode string

// The codes of the NSM API that the simulator uses. (The others are
// InvalidResponse, which a driver reports, and Success, which is not sent.)
const (
	codeInvalidArgument  errorCode = "InvalidArgument"  // a value that the command does not take
	codeInvalidIndex     errorCode = "InvalidIndex"     // no such register
	codeReadOnlyIndex    errorCode = "ReadOnlyIndex"    // the register is locked
	codeInvalidOperation errorCode = "InvalidOperation" // not a request, or not one that the device knows
	codeBufferTooSmall   errorCode = "BufferTooSmall"   // the response does not fit
	codeInputTooLarge    errorCode = "InputTooLarge"    // the request, or a value in it, is too long
	codeInternalError    errorCode = "InternalError"
)

// Module is the NSM of one running enclave: 32 registers of SHA-384, of which
// the first sixteen are locked at launch, and the right to have documents
// signed. It lives until nobody holds it; an enclave that is started again gets
// another Module, with another module id. It is safe for concurrent use.
type Module struct {
	authority *Authority
	id        string
	launch    Launch
	faults    []Fault

	mu     sync.Mutex
	pcrs   [maxPCRs][pcrSize]byte
	locked [maxPCRs]bool
}

// Launch starts a simulated enclave. The faults apply to every document that
// its module hands out; one that no device could hand over is an error.
func (a *Authority) Launch(l Launch, faults ...Fault) (*Module, error) {
	for _, f := range faults {
		if f.MintOnly {
			return nil, fmt.Errorf("nitro: fault %s does not fit into a device's response: mint the document instead", f.Name)
		}
	}
	if l.InstanceID == "" {
		id, err := newInstanceID()
		if err != nil {
			return nil, err
		}
		l.InstanceID = id
	}
	if strings.Contains(l.InstanceID, "-enc") || len(l.InstanceID) > 32 {
		return nil, fmt.Errorf("nitro: instance id %.40q: want the form i-0123456789abcdef0", l.InstanceID)
	}
	for name, v := range map[string][]byte{"PCR0": l.Image.PCR0, "PCR1": l.Image.PCR1, "PCR2": l.Image.PCR2} {
		if len(v) != pcrSize && !l.Debug {
			return nil, fmt.Errorf("nitro: the image's %s has %d bytes, want %d", name, len(v), pcrSize)
		}
	}
	if n := len(l.Image.PCR8); n != 0 && n != pcrSize {
		return nil, fmt.Errorf("nitro: the image's PCR8 has %d bytes, want %d, or none for an unsigned image", n, pcrSize)
	}
	id, err := NewModuleID(l.InstanceID, a.now())
	if err != nil {
		return nil, err
	}
	m := &Module{authority: a, id: id, launch: l, faults: slices.Clone(faults)}
	for i, v := range l.PCRs() {
		copy(m.pcrs[i][:], v)
		m.locked[i] = true
	}
	// Make the certificates now, as the hypervisor does: the first document should
	// not have to wait for them.
	if _, _, err := a.chain(id, a.now(), false); err != nil {
		return nil, err
	}
	return m, nil
}

// ModuleID is the enclave's name in its documents, "i-…-enc…".
func (m *Module) ModuleID() string { return m.id }

// PCRs returns a copy of all 32 registers, 48 bytes each.
func (m *Module) PCRs() map[int][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[int][]byte, maxPCRs)
	for i := range m.pcrs {
		out[i] = slices.Clone(m.pcrs[i][:])
	}
	return out
}

// Handle carries out one request of the NSM API: CBOR in, CBOR out, as the
// device's driver passes them (Rust's serde encoding of an enum: a text for a
// variant without fields, else a map of one entry). It answers anything, and
// what is not a request with an error code.
func (m *Module) Handle(request []byte) []byte {
	response, err := m.handle(request)
	if err != nil {
		code := codeInternalError
		var e codeError
		if errors.As(err, &e) {
			code = e.code
		}
		return respond("Error", cborText(string(code)))
	}
	if len(response) > MaxResponse {
		return respond("Error", cborText(string(codeBufferTooSmall)))
	}
	return response
}

// codeError is an answer other than success.
type codeError struct{ code errorCode }

func (e codeError) Error() string { return string(e.code) }

func refuse(c errorCode) error { return codeError{c} }

func (m *Module) handle(request []byte) ([]byte, error) {
	if len(request) > MaxRequest {
		return nil, refuse(codeInputTooLarge)
	}
	name, body, err := parseRequest(request)
	if err != nil {
		return nil, err
	}
	commands := map[string]func([]byte) ([]byte, error){
		"DescribePCR": m.describePCR,
		"ExtendPCR":   m.extendPCR,
		"LockPCR":     m.lockPCR,
		"LockPCRs":    m.lockPCRs,
		"Attestation": m.attestation,
	}
	if body == nil {
		commands = map[string]func([]byte) ([]byte, error){
			"DescribeNSM": m.describeNSM,
			"GetRandom":   m.getRandom,
		}
	}
	command, ok := commands[name]
	if !ok {
		return nil, refuse(codeInvalidOperation)
	}
	return command(body)
}

func (m *Module) describePCR(body []byte) ([]byte, error) {
	i, err := index(body)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	lock := []byte{cborFalse}
	if m.locked[i] {
		lock = []byte{cborTrue}
	}
	return respond("DescribePCR", cborMap(
		pair{cborText("lock"), lock},
		pair{cborText("data"), cborBytes(m.pcrs[i][:])},
	)), nil
}

func (m *Module) extendPCR(body []byte) ([]byte, error) {
	i, err := index(body)
	if err != nil {
		return nil, err
	}
	var r struct {
		Data *[]byte `cbor:"data"`
	}
	if err := cbor.Unmarshal(body, &r); err != nil || r.Data == nil {
		return nil, refuse(codeInvalidOperation)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[i] {
		return nil, refuse(codeReadOnlyIndex)
	}
	copy(m.pcrs[i][:], extend(m.pcrs[i][:], *r.Data))
	return respond("ExtendPCR", cborMap(pair{cborText("data"), cborBytes(m.pcrs[i][:])})), nil
}

func (m *Module) lockPCR(body []byte) ([]byte, error) {
	i, err := index(body)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[i] {
		return nil, refuse(codeReadOnlyIndex)
	}
	m.locked[i] = true
	return cborText("LockPCR"), nil
}

// lockPCRs locks every register below the range; those that are locked stay so.
func (m *Module) lockPCRs(body []byte) ([]byte, error) {
	var r struct {
		Range *uint16 `cbor:"range"`
	}
	if err := cbor.Unmarshal(body, &r); err != nil || r.Range == nil {
		return nil, refuse(codeInvalidOperation)
	}
	if *r.Range > maxPCRs {
		return nil, refuse(codeInvalidIndex)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range *r.Range {
		m.locked[i] = true
	}
	return cborText("LockPCRs"), nil
}

func (m *Module) describeNSM([]byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var locked [][]byte
	for i, l := range m.locked {
		if l {
			locked = append(locked, cborUint(uint64(i)))
		}
	}
	return respond("DescribeNSM", cborMap(
		pair{cborText("version_major"), cborUint(1)},
		pair{cborText("version_minor"), cborUint(0)},
		pair{cborText("version_patch"), cborUint(0)},
		pair{cborText("module_id"), cborText(m.id)},
		pair{cborText("max_pcrs"), cborUint(maxPCRs)},
		pair{cborText("locked_pcrs"), cborArray(locked...)},
		pair{cborText("digest"), cborText("SHA384")},
	)), nil
}

func (m *Module) getRandom([]byte) ([]byte, error) {
	b := make([]byte, randomSize)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	return respond("GetRandom", cborMap(pair{cborText("random"), cborBytes(b)})), nil
}

// attestation hands out a document over the locked registers. The three values
// are the requester's; the device vouches for having been given them, inside
// this enclave, and for nothing else about them.
func (m *Module) attestation(body []byte) ([]byte, error) {
	var r struct {
		UserData  []byte `cbor:"user_data"`
		Nonce     []byte `cbor:"nonce"`
		PublicKey []byte `cbor:"public_key"`
	}
	if err := cbor.Unmarshal(body, &r); err != nil {
		return nil, refuse(codeInvalidOperation)
	}
	if len(r.UserData) > maxField || len(r.Nonce) > maxField || len(r.PublicKey) > maxField {
		return nil, refuse(codeInputTooLarge)
	}
	if r.PublicKey != nil && len(r.PublicKey) == 0 {
		return nil, refuse(codeInvalidArgument)
	}
	document, err := m.authority.Mint(Document{
		ModuleID: m.id, PCRs: m.lockedPCRs(), Indefinite: true,
		UserData: r.UserData, Nonce: r.Nonce, PublicKey: r.PublicKey,
	}, m.faults...)
	if err != nil {
		return nil, err
	}
	return respond("Attestation", cborMap(pair{cborText("document"), cborBytes(document)})), nil
}

// lockedPCRs returns the registers that a document reports: the device vouches
// only for values that can no longer change.
func (m *Module) lockedPCRs() map[int][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[int][]byte, maxPCRs)
	for i, l := range m.locked {
		if l {
			out[i] = slices.Clone(m.pcrs[i][:])
		}
	}
	return out
}
