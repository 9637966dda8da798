package svid

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Everything that this package signs or accepts is Core Deterministic CBOR
// (RFC 8949, section 4.2.1), further narrowed: no floats, no tags inside the
// payload, no nesting beyond maxDepth. So that one value has one encoding, and
// nothing can be hidden in another spelling of it.
const maxDepth = 8

var encMode = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic("svid: constant CBOR options refused: " + err.Error())
	}
	return m
}()

var decMode = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		MaxNestedLevels:   maxDepth,
		MaxArrayElements:  128,
		MaxMapPairs:       64,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode()
	if err != nil {
		panic("svid: constant CBOR options refused: " + err.Error())
	}
	return m
}()

// decode reads exactly one deterministically encoded data item into v. Map keys
// that v does not have are skipped: a receiver ignores claims that it does not
// know (draft-ietf-rats-ear, section 4).
func decode(b []byte, v any) error {
	if err := deterministic(b); err != nil {
		return err
	}
	return decMode.Unmarshal(b, v)
}

// deterministic reports whether b is one data item in Core Deterministic
// Encoding, within the limits above, with nothing after it.
func deterministic(b []byte) error {
	rest, err := skipItem(b, 0)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return fmt.Errorf("%d bytes follow the CBOR item", len(rest))
	}
	return nil
}

// CBOR major types (RFC 8949, section 3.1).
const (
	majorUint = iota
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

// skipItem checks the item at the head of b and returns what follows it.
func skipItem(b []byte, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("CBOR is nested deeper than %d", maxDepth)
	}
	major, arg, rest, err := readHead(b)
	if err != nil {
		return nil, err
	}
	switch major {
	case majorUint, majorNegative:
		return rest, nil
	case majorBytes, majorText:
		if arg > uint64(len(rest)) {
			return nil, errors.New("CBOR string is cut short")
		}
		s, rest := rest[:arg], rest[arg:]
		if major == majorText && !utf8.Valid(s) {
			return nil, errors.New("CBOR text is not UTF-8")
		}
		return rest, nil
	case majorArray:
		for range arg {
			if rest, err = skipItem(rest, depth+1); err != nil {
				return nil, err
			}
		}
		return rest, nil
	case majorMap:
		return skipMap(rest, arg, depth)
	case majorTag:
		return nil, fmt.Errorf("CBOR tag %d: tags are not used here", arg)
	}
	return nil, fmt.Errorf("CBOR major type %d", major)
}

// skipMap checks n pairs whose keys rise strictly in bytewise order, which also
// rules out a key that occurs twice.
func skipMap(b []byte, n uint64, depth int) ([]byte, error) {
	var last []byte
	labels := depth == 0 // whether this is a map of labels, which are integers
	for range n {
		rest, err := skipItem(b, depth+1)
		if err != nil {
			return nil, err
		}
		key := b[:len(b)-len(rest)]
		if major := key[0] >> 5; major == majorText && labels {
			if err := notANumber(key); err != nil {
				return nil, err
			}
		} else if major != majorText {
			labels = true // they sort before text
		}
		if last != nil && bytes.Compare(last, key) >= 0 {
			return nil, errors.New("CBOR map keys are not in deterministic order, or one occurs twice")
		}
		last = key
		if b, err = skipItem(rest, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// notANumber refuses a text key that spells an integer, beside labels: the library
// reads "2" as the label 2, others ignore it as unknown, and the two would read
// different things out of one signature.
func notANumber(key []byte) error {
	major, n, text, err := readHead(key)
	if err != nil || major != majorText || uint64(len(text)) != n {
		return nil //nolint:nilerr // it was read already: a key of another type
	}
	if _, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return fmt.Errorf("the CBOR map key %q is a number in text", text)
	}
	return nil
}

// readHead reads an initial byte and its argument in their shortest form. Of
// the simple values only false and true are let through.
func readHead(b []byte) (major byte, arg uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, 0, nil, errors.New("CBOR is cut short")
	}
	major, info := b[0]>>5, b[0]&0x1f
	b = b[1:]
	if major == majorSimple {
		if info < 20 || info > 21 {
			return 0, 0, nil, errors.New("CBOR float, null, or a simple value that is not used here")
		}
		return majorUint, 0, b, nil // nothing follows: as a number to the caller
	}
	if info < 24 {
		return major, uint64(info), b, nil
	}
	if info > 27 {
		return 0, 0, nil, errors.New("CBOR of indefinite length, or a reserved head")
	}
	n := 1 << (info - 24)
	if len(b) < n {
		return 0, 0, nil, errors.New("CBOR is cut short")
	}
	for _, x := range b[:n] {
		arg = arg<<8 | uint64(x)
	}
	least := [...]uint64{24, 1 << 8, 1 << 16, 1 << 32}[info-24]
	if arg < least {
		return 0, 0, nil, errors.New("CBOR number is not in its shortest form")
	}
	return major, arg, b[n:], nil
}
