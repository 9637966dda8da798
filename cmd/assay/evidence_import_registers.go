package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// registers are values of PCRs: by bank and index, or in the order of a selection
// that only the quote tells.
type registers struct {
	banks map[string]map[int][]byte // "" where the file does not say which bank
	row   []byte
}

// of returns the values of a quoted bank, by index, or nil where there are none.
func (r registers) of(b tpmBank) (map[int][]byte, error) {
	if r.row != nil {
		size := map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}[b.Bank]
		if size == 0 || len(r.row) != size*len(b.PCRs) {
			return nil, fmt.Errorf("%d bytes of values, and the quote selects %d registers of bank %s", len(r.row), len(b.PCRs), b.Bank)
		}
		out := make(map[int][]byte)
		for n, i := range b.PCRs {
			out[i] = r.row[n*size : (n+1)*size]
		}
		return out, nil
	}
	if v, ok := r.banks[b.Bank]; ok {
		return v, nil
	}
	return r.banks[""], nil
}

// readRegisters reads a file of values: tpm2_quote's, JSON, tpm2_pcrread's text, or
// values one after the other.
func readRegisters(b []byte) (registers, error) {
	text := bytes.TrimSpace(b)
	if len(text) > 0 && text[0] == '{' {
		return jsonRegisters(text)
	}
	if out, ok := tpm2toolsRegisters(b); ok {
		return out, nil
	}
	if out, ok := printedRegisters(string(text)); ok {
		return out, nil
	}
	if len(b) == 0 || len(b) > 24*64 {
		return registers{}, errors.New("these are no values of registers")
	}
	return registers{row: b}, nil
}

// jsonRegisters reads {"sha256": {"0": …}} and {"0": …}.
func jsonRegisters(text []byte) (registers, error) {
	var banks map[string]map[string]tpmBytes
	if json.Unmarshal(text, &banks) == nil {
		out := registers{banks: make(map[string]map[int][]byte)}
		for bank, values := range banks {
			one, err := flatRegisters(values)
			if err != nil {
				return registers{}, err
			}
			out.banks[bank] = one.banks[""]
		}
		return out, nil
	}
	var flat map[string]tpmBytes
	if err := json.Unmarshal(text, &flat); err != nil {
		return registers{}, fmt.Errorf("want JSON by bank and index, or by index: %w", err)
	}
	return flatRegisters(flat)
}

func flatRegisters(values map[string]tpmBytes) (registers, error) {
	out := make(map[int][]byte, len(values))
	for name, v := range values {
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i > 23 {
			return registers{}, fmt.Errorf("%.20q is no index of a PCR", name)
		}
		out[i] = v
	}
	return registers{banks: map[string]map[int][]byte{"": out}}, nil
}

// tpm2toolsRegisters reads the file that tpm2_quote -o writes: the memory of its
// structures, little-endian: a TPML_PCR_SELECTION of 16, the number of
// TPML_DIGESTs, and those, each with room for 8 of 64 bytes.
func tpm2toolsRegisters(b []byte) (registers, bool) {
	const selections, list = 4 + 16*8, 4 + 8*66
	if len(b) < selections+4 || (len(b)-selections-4)%list != 0 {
		return registers{}, false
	}
	le := binary.LittleEndian
	n, lists := le.Uint32(b), le.Uint32(b[selections:])
	if n == 0 || n > 16 || int64(lists) != int64((len(b)-selections-4)/list) {
		return registers{}, false
	}
	var values [][]byte
	for l := range int(lists) {
		at := b[selections+4+l*list:]
		count := le.Uint32(at)
		if count > 8 {
			return registers{}, false
		}
		for i := range int(count) {
			d := at[4+i*66:]
			size := int(le.Uint16(d))
			if size > 64 {
				return registers{}, false
			}
			values = append(values, d[2:2+size])
		}
	}
	out := registers{banks: make(map[string]map[int][]byte)}
	for i := range int(n) {
		s := b[4+i*8:]
		bank := hashName(int(le.Uint16(s)))
		if s[2] > 4 {
			return registers{}, false
		}
		one := make(map[int][]byte)
		for bit := range int(s[2]) * 8 {
			if s[3+bit/8]>>(bit%8)&1 == 0 {
				continue
			}
			if len(values) == 0 {
				return registers{}, false
			}
			one[bit], values = values[0], values[1:]
		}
		out.banks[bank] = one
	}
	return out, len(values) == 0
}

var printedLine = regexp.MustCompile(`^\s*(\d{1,2})\s*:\s*0x([0-9A-Fa-f]+)\s*$`)

// printedRegisters reads what tpm2_pcrread prints.
func printedRegisters(text string) (registers, bool) {
	out, bank := registers{banks: make(map[string]map[int][]byte)}, ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		if name, ok := strings.CutSuffix(trimmed, ":"); ok && strings.HasPrefix(name, "sha") {
			bank = name
			out.banks[bank] = make(map[int][]byte)
			continue
		}
		m := printedLine.FindStringSubmatch(line)
		if m == nil || bank == "" {
			return registers{}, false
		}
		i, err := strconv.Atoi(m[1])
		v, verr := decodeText(m[2])
		if err != nil || verr != nil || i > 23 {
			return registers{}, false
		}
		out.banks[bank][i] = v
	}
	return out, len(out.banks) > 0
}
