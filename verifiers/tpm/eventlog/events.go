package eventlog

import (
	"bytes"
	"crypto"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
)

// Log is a log taken apart for people to read. Nothing of it is verified: only
// [Replay], over quoted values, makes claims.
type Log struct {
	Bank   crypto.Hash
	Agile  bool                 // the crypto-agile format of TPM 2.0
	Banks  []string             // the hashes that the log has digests of
	Events []Event              // in the log's order, the header left out
	PCRs   map[int]attest.Bytes // the value of each PCR that the log extends
}

// Event is one entry of a log.
type Event struct {
	Number  int          `json:"number"` // position in the log, the header being 0
	PCR     int          `json:"pcr"`    // -1: information that belongs to none
	Type    string       `json:"type"`   // the TCG's name, as the log says; not measured
	Extends bool         `json:"extends"`
	Digest  attest.Bytes `json:"digest"` // what the PCR was extended with; nil where nothing was
	// Measured says that Text is what was hashed; else it is a description.
	Measured bool `json:"measured"`
	// Text is the event's data in words. It may hold any characters.
	Text string `json:"text"`
	// Value is the PCR's after the event; nil where it changes none.
	Value attest.Bytes `json:"value"`
}

// Events takes a log apart and replays it by itself, in the given bank. The errors
// are those of [Replay]; a log without digests of the bank is [CheckReplay].
func Events(raw []byte, bank crypto.Hash) (*Log, error) {
	if err := known(bank); err != nil {
		return nil, err
	}
	l, err := decode(raw)
	if err != nil {
		return nil, err
	}
	out := &Log{Bank: bank, Agile: l.agile, PCRs: make(map[int]attest.Bytes)}
	for _, b := range l.banks {
		out.Banks = append(out.Banks, bankName(b.id))
	}
	values := make(map[*event][]byte, len(l.events))
	for pcr := range lastPCR + 1 {
		err := l.walk(pcr, bank, func(e *event, value []byte) {
			if e != nil {
				values[e] = bytes.Clone(value)
				out.PCRs[pcr] = values[e]
			}
		})
		if err != nil {
			return nil, &attest.Error{
				Kind: attest.Untrusted, Check: CheckReplay, Err: err, Hint: "this log has: " + strings.Join(out.Banks, ", "),
			}
		}
	}
	b := newBoot(bank)
	for i := range l.events {
		e := &l.events[i]
		ev := Event{Number: e.number, PCR: e.pcr, Type: e.kind.TCGString(), Extends: e.extends(), Value: values[e]}
		if ev.Extends {
			ev.Digest = bytes.Clone(e.digest(bank))
		}
		ev.Text, ev.Measured = b.describe(e)
		out.Events = append(out.Events, ev)
	}
	return out, nil
}

func bankName(id uint16) string {
	switch id {
	case idSHA1:
		return "sha1"
	case idSHA256:
		return "sha256"
	case idSHA384:
		return "sha384"
	case idSHA512:
		return "sha512"
	}
	return fmt.Sprintf("%#04x", id)
}

// describe puts an event's data into words, and says whether they were hashed.
func (b *boot) describe(e *event) (text string, measured bool) {
	if failed, ok := b.separator(e); ok && e.extends() && e.kind == tcg.Separator {
		if failed {
			return "separator: the firmware could not measure", true
		}
		return "separator", true
	}
	if e.extends() {
		if s, _, ok := b.text(e); ok {
			return s, true
		}
		measured = b.hashed(e)
	}
	if slices.Contains([]tcg.EventType{tcg.EFIVariableDriverConfig, tcg.EFIVariableAuthority, tcg.EFIVariableBoot, tcg.EFIVariableBoot2}, e.kind) {
		if v, ok := parseVariable(e.data); ok {
			if len(v.value) <= 8 {
				return fmt.Sprintf("variable %s = %x", v.name, v.value), measured
			}
			return fmt.Sprintf("variable %s, %d bytes, SHA-256 %x", v.name, len(v.value), sum(crypto.SHA256, v.value)), measured
		}
	}
	if e.kind == tcg.EventTag {
		r := &reader{b: e.data}
		if id, data := r.uint32(), r.take32(r.uint32()); r.err == nil {
			return fmt.Sprintf("tag %#x: %s", id, words(data)), measured
		}
	}
	if at, ok := e.locality(); ok {
		return fmt.Sprintf("TPM2_Startup from locality %d", at), false
	}
	return words(e.data), measured
}

// words shows bytes as the text that they may be: UTF-16, ASCII, or how many.
func words(data []byte) string {
	if s, ok := utf16Text(data); ok && len(s) > 1 && printable(s) {
		return s
	}
	if s := string(bytes.TrimSuffix(data, []byte{0})); printable(s) {
		return s
	}
	if head, _, ok := bytes.Cut(data, []byte{0}); ok && len(head) > 7 && printable(string(head)) {
		return fmt.Sprintf("%s… (%d bytes)", head, len(data))
	}
	if len(data) <= 16 {
		return attest.Bytes(data).String()
	}
	return fmt.Sprintf("%d bytes", len(data))
}
