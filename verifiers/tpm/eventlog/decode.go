package eventlog

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
)

// Limits of a log. Its size bounds the whole, and the number of events what small
// ones cost in memory, many times their bytes: the logs of real machines have some
// hundreds. The others keep one event from being something else than an event.
const (
	maxEvents = 8192 // the header not counted, and those that extend nothing included
	maxBanks  = 16
	lastPCR   = 23
	// noPCR marks information that belongs to no PCR, in EV_NO_ACTION events of
	// newer firmware (PFP 1.06, section 10.4.5.3).
	noPCR = 0xffffffff
)

// log is a log taken apart. Its slices are parts of the log given.
type log struct {
	raw    []byte
	agile  bool
	banks  []bankSize // of the header; SHA-1 for a log of TPM 1.2
	events []event
}

type bankSize struct {
	id   uint16
	size int
}

// event is one entry of the log, unverified.
type event struct {
	number  int // position in the log, the header of a crypto-agile log being 0
	pcr     int // -1 for information that belongs to none
	kind    tcg.EventType
	digests []digest
	data    []byte
	from    int // where it lies in the log
	to      int
}

type digest struct {
	id    uint16
	value []byte
}

// extends reports whether the TPM saw the event. Of the event types this is the
// only one that means something to a replay (PFP, section 10.4.1): a log whose
// sender lies about it does not replay.
func (e *event) extends() bool { return e.kind != tcg.NoAction }

// digest is the event's digest in a bank, or nil.
func (e *event) digest(bank crypto.Hash) []byte {
	id := bankIDs[bank]
	for _, d := range e.digests {
		if d.id == id {
			return d.value
		}
	}
	return nil
}

// Identifiers of the TCG Algorithm Registry.
const (
	idSHA1   = 0x04
	idSHA256 = 0x0b
	idSHA384 = 0x0c
	idSHA512 = 0x0d
)

// bankIDs are the banks that are replayed here: those that go-eventlog replays.
var bankIDs = map[crypto.Hash]uint16{crypto.SHA1: idSHA1, crypto.SHA256: idSHA256, crypto.SHA384: idSHA384}

// digestSize is the size of an algorithm's digests, or 0 for one that is not known.
func digestSize(id uint16) int {
	switch id {
	case idSHA1:
		return 20
	case idSHA256, 0x12, 0x27: // SM3-256, SHA3-256
		return 32
	case idSHA384, 0x28:
		return 48
	case idSHA512, 0x29:
		return 64
	}
	return 0
}

const startupLocality = "StartupLocality\x00"

// Signatures of the header event (EFI Protocol Specification, section 5.3; EFI
// Platform Specification 1.22, section 7.4).
const (
	specID      = "Spec ID Event"
	specIDAgile = specID + "03\x00"
)

// decode takes a log apart, to its last byte.
func decode(raw []byte) (*log, error) {
	if len(raw) > attest.MaxTPMEventLog {
		return nil, malformed(CheckSize, "%d bytes, want at most %d", len(raw), attest.MaxTPMEventLog)
	}
	l := &log{raw: raw, banks: []bankSize{{idSHA1, digestSize(idSHA1)}}}
	r := &reader{b: raw}
	first, err := l.entry(r)
	if err != nil {
		return nil, malformed(CheckStructure, "the first event: %w", err)
	}
	if first.kind == tcg.NoAction && bytes.HasPrefix(first.data, []byte(specIDAgile)) {
		if first.pcr != 0 || !zero(first.digests[0].value) {
			return nil, malformed(CheckStructure, "the header is of PCR %d with digest %x, want PCR 0 and zeros", first.pcr, first.digests[0].value)
		}
		if l.banks, err = header(first.data); err != nil {
			return nil, malformed(CheckStructure, "the header: %w", err)
		}
		l.agile = true
	} else {
		l.events = append(l.events, *first)
	}
	for number := 1; r.left() > 0; number++ {
		if len(l.events) == maxEvents {
			return nil, malformed(CheckStructure, "more than %d events", maxEvents)
		}
		e, err := l.entry(r)
		if err != nil {
			return nil, malformed(CheckStructure, "event %d: %w", number, err)
		}
		e.number = number
		l.events = append(l.events, *e)
	}
	return l, l.checkLocality()
}

// header reads the TCG_EfiSpecIDEvent of a crypto-agile log.
func header(data []byte) ([]bankSize, error) {
	r := &reader{b: data}
	r.take(16) // the signature
	r.uint32() // platform class: 0 client, 1 server
	minor, major := r.uint8(), r.uint8()
	r.take(2) // errata, size of an UINTN
	n := r.uint32()
	switch {
	case r.err != nil:
		return nil, r.err
	case major != 2 || minor != 0:
		return nil, fmt.Errorf("version %d.%d, want 2.0", major, minor)
	case n == 0 || n > maxBanks:
		return nil, fmt.Errorf("%d algorithms, want 1 to %d", n, maxBanks)
	}
	banks := make([]bankSize, 0, n)
	for range n {
		b := bankSize{id: r.uint16(), size: int(r.uint16())}
		if r.err != nil {
			return nil, r.err
		}
		for _, other := range banks {
			if other.id == b.id {
				return nil, fmt.Errorf("algorithm %#x is named twice", b.id)
			}
		}
		if want := digestSize(b.id); b.size == 0 || b.size > 64 || want != 0 && b.size != want {
			return nil, fmt.Errorf("digests of algorithm %#x have %d bytes", b.id, b.size)
		}
		banks = append(banks, b)
	}
	r.take(int(r.uint8())) // vendor information
	if r.err == nil && r.left() != 0 {
		r.err = fmt.Errorf("%d bytes behind it", r.left())
	}
	return banks, r.err
}

// entry reads one event: TCG_PCR_EVENT, or TCG_PCR_EVENT2 once the header has said
// that the log is crypto-agile.
func (l *log) entry(r *reader) (*event, error) {
	e := &event{from: r.at}
	pcr := r.uint32()
	e.kind = tcg.EventType(r.uint32())
	n := uint32(1)
	if l.agile {
		if n = r.uint32(); int64(n) > int64(len(l.banks)) {
			return nil, fmt.Errorf("%d digests, and the log has %d algorithms", n, len(l.banks))
		}
	}
	e.digests = make([]digest, 0, n)
	for range n {
		d := digest{id: idSHA1}
		if l.agile {
			d.id = r.uint16()
		}
		size := 0
		for _, b := range l.banks {
			if b.id == d.id {
				size = b.size
			}
		}
		if r.err == nil && size == 0 {
			return nil, fmt.Errorf("a digest of algorithm %#x, which the header does not name", d.id)
		}
		for _, other := range e.digests {
			if other.id == d.id {
				return nil, fmt.Errorf("two digests of algorithm %#x", d.id)
			}
		}
		d.value = r.take(size)
		e.digests = append(e.digests, d)
	}
	e.data = r.take32(r.uint32())
	e.to = r.at
	switch {
	case r.err != nil:
		return nil, r.err
	case pcr == noPCR && e.kind == tcg.NoAction:
		e.pcr = -1
	case pcr > lastPCR:
		return nil, fmt.Errorf("there is no PCR %d", pcr)
	default:
		e.pcr = int(pcr)
	}
	return e, nil
}

// locality returns the locality of TPM2_Startup that a StartupLocality event names.
func (e *event) locality() (byte, bool) {
	if e.pcr != 0 || e.extends() || len(e.data) != len(startupLocality)+1 || !bytes.HasPrefix(e.data, []byte(startupLocality)) {
		return 0, false
	}
	return e.data[len(startupLocality)], true
}

// checkLocality: PCR 0 begins with the locality of TPM2_Startup as its last byte,
// which an event says before anything is measured (PFP, section 10.4.5.1): 0 or 3;
// a log that has it twice, or late, has it from somebody else than the firmware.
func (l *log) checkLocality() error {
	seen, measured := false, false
	for i := range l.events {
		e := &l.events[i]
		if e.pcr != 0 {
			continue
		}
		measured = measured || e.extends()
		at, ok := e.locality()
		// go-eventlog takes it for a locality without the zero behind its name.
		if !ok && !e.extends() && len(e.data) == len(startupLocality)+1 && bytes.HasPrefix(e.data, []byte(startupLocality[:len(startupLocality)-1])) {
			return malformed(CheckStructure, "event %d: a StartupLocality whose name does not end", e.number)
		}
		if ok {
			switch {
			case seen:
				return malformed(CheckStructure, "event %d: a second StartupLocality", e.number)
			case measured:
				return malformed(CheckStructure, "event %d: StartupLocality behind what PCR 0 was extended with", e.number)
			case at > 4:
				return malformed(CheckStructure, "event %d: there is no locality %d", e.number, at)
			}
			seen = true
		}
	}
	return nil
}

// view is the log as go-eventlog can read it: without events of no PCR, which it
// takes for padding, and without the information in an old log, of which it takes
// whatever comes first for the header of a crypto-agile one. Neither extends a PCR;
// what PCR 0 begins with stays.
func (l *log) view() []byte {
	odd := func(i int) bool {
		e := &l.events[i]
		_, begins := e.locality()
		return e.pcr < 0 || !l.agile && !e.extends() && !begins
	}
	start := 0
	if l.agile {
		start = len(l.raw)
		if len(l.events) > 0 {
			start = l.events[0].from
		}
	}
	var out []byte
	from := 0
	for i := range l.events {
		if odd(i) {
			if out == nil {
				out = make([]byte, 0, len(l.raw))
				out = append(out, l.raw[:start]...)
				from = start
			}
			out = append(out, l.raw[from:l.events[i].from]...)
			from = l.events[i].to
		}
	}
	if out == nil {
		return l.raw
	}
	return append(out, l.raw[from:]...)
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// reader takes little-endian values off a slice. After the first failure it gives
// zeros. Nothing is copied or allocated.
type reader struct {
	b   []byte
	at  int
	err error
}

var errShort = errors.New("it ends early")

func (r *reader) left() int { return len(r.b) - r.at }

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > r.left() {
		if r.err == nil {
			r.err = errShort
		}
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at : r.at]
}

func (r *reader) take32(n uint32) []byte {
	if int64(n) > int64(r.left()) {
		if r.err == nil {
			r.err = fmt.Errorf("its data have %d bytes, and %d are left", n, r.left())
		}
		return nil
	}
	return r.take(int(n))
}

func (r *reader) uint8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}
