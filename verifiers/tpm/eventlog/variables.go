package eventlog

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
)

// Vendors of the secure-boot variables, in the order of bytes in which an EFI_GUID
// is stored (UEFI 2.10, sections 3.3 and 32.6).
const (
	globalVariable = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c" // 8be4df61-93ca-11d2-aa0d-00e098032b8c
	imageSecurity  = "\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f" // d719b2cb-3d3a-4596-a3bc-dad00e67656f
)

// vendors of the variables that are claims.
var vendors = map[string]string{
	"SecureBoot": globalVariable, "PK": globalVariable, "KEK": globalVariable, "db": imageSecurity, "dbx": imageSecurity,
}

// variable is a UEFI_VARIABLE_DATA (PFP, section 10.2.6).
type variable struct {
	vendor string
	name   string
	value  []byte
}

// parseVariable reads one, to its last byte. It allocates no more than the name.
func parseVariable(data []byte) (*variable, bool) {
	r := &reader{b: data}
	v := &variable{vendor: string(r.take(16))}
	name, value := r.uint64(), r.uint64()
	if r.err != nil || name > uint64(r.left())/2 || value != uint64(r.left())-2*name {
		return nil, false
	}
	units := make([]uint16, 0, name)
	for b := r.take(int(2 * name)); len(b) > 0; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	v.name, v.value = string(utf16.Decode(units)), r.take(int(value))
	return v, r.err == nil
}

// debugMode is measured into PCR 7 when a debugger may change the firmware (PFP,
// section 10.4.4).
const debugMode = "UEFI Debug Mode"

// secureBoot reads PCR 7. The invariants:
//
//   - only the firmware's part counts, and all of it must be there to read: one
//     event whose data were exchanged could be the one that matters
//   - SecureBoot is measured exactly once, whatever types the log gives to events
//   - the key variables count where they are first measured, as configuration: the
//     firmware does so before it uses one as an authority, which is an event of the
//     same form and name
//   - no debugger was attached
//   - behind the separator, shim does not say that it validates nothing (MokSBState):
//     the firmware's secure boot then ends with shim. Anybody can extend such an
//     event later; that takes the claim away, and gives none
func (b *boot) secureBoot() (*bool, map[string]attest.Bytes) {
	var states []bool
	keys := make(map[string]attest.Bytes)
	for _, e := range b.before(pcrSecureBoot) {
		if !b.hashed(e) || b.is(e, []byte(debugMode)) || b.is(e, []byte(debugMode), []byte{0}) {
			return nil, nil
		}
		v, ok := parseVariable(e.data)
		if !ok || vendors[v.name] != v.vendor {
			continue
		}
		if v.name == "SecureBoot" {
			switch {
			case len(v.value) == 0, bytes.Equal(v.value, []byte{0}):
				states = append(states, false)
			case bytes.Equal(v.value, []byte{1}):
				states = append(states, true)
			default:
				return nil, nil
			}
			continue
		}
		if _, seen := keys[v.name]; !seen {
			keys[v.name] = nil
			if e.kind == tcg.EFIVariableDriverConfig {
				keys[v.name] = sum(crypto.SHA256, v.value)
			}
		}
	}
	validating, readable := b.shimValidates()
	if len(states) != 1 || !readable {
		return nil, nil
	}
	states[0] = states[0] && validating
	for name, digest := range keys {
		if digest == nil {
			delete(keys, name)
		}
	}
	if len(keys) == 0 {
		keys = nil
	}
	return &states[0], keys
}

// mokSBState is the variable that has shim validate nothing that it starts, unless
// it is zero. shim measures it, where there is one, into PCR 7 as an authority.
const mokSBState = "MokSBState"

// shimValidates reads the events behind PCR 7's separator. It is not readable when
// one of them cannot be read: that one could be shim's.
func (b *boot) shimValidates() (validating, readable bool) {
	validating = true
	for _, e := range b.events(pcrSecureBoot)[len(b.before(pcrSecureBoot)):] {
		if _, ok := b.separator(e); ok {
			continue
		}
		measured, ok := b.measured(e)
		if !ok {
			return false, false
		}
		if v, ok := parseVariable(measured); ok {
			validating = validating && (v.name != mokSBState || zero(v.value))
			continue
		}
		// Without the last byte of its value: what that is, nobody knows.
		if v, ok := parseVariable(append(bytes.Clone(measured), 0)); ok && v.name == mokSBState {
			validating = false
		}
	}
	return validating, true
}

// measured are the bytes of an event's data that its digest is of: all, or, as old
// versions of shim have it, all but the last.
func (b *boot) measured(e *event) ([]byte, bool) {
	if b.hashed(e) {
		return e.data, true
	}
	if n := len(e.data); n > 0 && b.is(e, e.data[:n-1]) {
		return e.data[:n-1], true
	}
	return nil, false
}

// utf16Text reads UTF-16 with or without a zero at its end, and none before.
func utf16Text(data []byte) (string, bool) {
	if len(data) == 0 || len(data)%2 != 0 {
		return "", false
	}
	units := make([]uint16, 0, len(data)/2)
	for i := 0; i < len(data); i += 2 {
		u := binary.LittleEndian.Uint16(data[i:])
		if u == 0 {
			if i != len(data)-2 {
				return "", false
			}
			break
		}
		units = append(units, u)
	}
	for i := 0; i < len(units); i++ {
		switch {
		case !utf16.IsSurrogate(rune(units[i])):
		case i+1 < len(units) && utf16.DecodeRune(rune(units[i]), rune(units[i+1])) != 0xfffd:
			i++
		default:
			return "", false // half a pair: two such texts could decode to the same
		}
	}
	return string(utf16.Decode(units)), true
}

// guidText writes an EFI_GUID as people know it.
func guidText(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}
