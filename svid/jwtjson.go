package svid

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"unicode/utf8"
)

// maxJSONDepth bounds how deep a token's values are nested.
const maxJSONDepth = 16

// object is a JSON object whose members are looked up by their exact names.
// encoding/json takes "EXP" for "exp" when it fills a struct, and the last of two
// equal names; a token that two programs read differently is two tokens.
type object map[string]json.RawMessage

// parseObject reads one JSON object: UTF-8, no member twice at any depth, nothing
// after it.
func parseObject(b []byte) (object, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	if !opensObject(b) {
		return nil, errors.New("not a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := once(dec, 0); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return members(b)
}

// members reads an object that lay in one which parseObject has read: what is below
// that was checked with it.
func members(b []byte) (object, error) {
	if !opensObject(b) { // null would be read as an empty one
		return nil, errors.New("not a JSON object")
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil { // the whole grammar
		return nil, err
	}
	return o, nil
}

func opensObject(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && b[0] == '{'
}

// once walks one value and refuses an object that has a member twice.
func once(dec *json.Decoder, depth int) error {
	if depth > maxJSONDepth {
		return fmt.Errorf("nested deeper than %d", maxJSONDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if open == '{' {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			s, ok := name.(string)
			if !ok {
				return errors.New("a member without a name")
			}
			if seen[s] {
				return fmt.Errorf("the member %.40q is there twice", s)
			}
			seen[s] = true
		}
		if err := once(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the end
	return err
}

// has reports whether the member is there and is not null.
func (o object) has(name string) bool {
	v, ok := o[name]
	return ok && string(v) != "null"
}

// text is a member that must be a string; "" where it is not there.
func (o object) text(name string) (string, error) {
	v, ok := o[name]
	if !ok {
		return "", nil
	}
	return asText(name, v)
}

func asText(name string, v json.RawMessage) (string, error) {
	var s string
	if len(v) == 0 || v[0] != '"' {
		return "", fmt.Errorf("%s is not a string", name)
	}
	if err := json.Unmarshal(v, &s); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// texts is a member that must be an object of strings; nil where it is not there.
func (o object) texts(name string) (map[string]string, error) {
	v, ok := o[name]
	if !ok {
		return nil, nil //nolint:nilnil // none is no error
	}
	m, err := members(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out := make(map[string]string, len(m))
	for k := range m {
		if out[k], err = m.text(k); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}

// list is a string or an array of strings, as aud may be (RFC 7519, section
// 4.1.3); nil where it is not there.
func (o object) list(name string) ([]string, error) {
	v, ok := o[name]
	if !ok {
		return nil, nil
	}
	if len(v) > 0 && v[0] == '"' {
		s, err := asText(name, v)
		return []string{s}, err
	}
	var items []json.RawMessage
	if len(v) == 0 || v[0] != '[' {
		return nil, fmt.Errorf("%s is neither a string nor an array of strings", name)
	}
	if err := json.Unmarshal(v, &items); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out := make([]string, len(items))
	for i, item := range items {
		s, err := asText(name, item)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	return out, nil
}

// seconds is a NumericDate (RFC 7519, section 2) cut to whole seconds; ok is false
// where it is not there.
func (o object) seconds(name string) (sec int64, ok bool, err error) {
	v, ok := o[name]
	if !ok {
		return 0, false, nil
	}
	if len(v) == 0 || (v[0] < '0' || v[0] > '9') {
		return 0, false, fmt.Errorf("%s is not a time", name)
	}
	if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
		return n, true, inTime(name, float64(n))
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil {
		return 0, false, fmt.Errorf("%s is not a time", name)
	}
	if err := inTime(name, f); err != nil {
		return 0, false, err
	}
	return int64(math.Floor(f)), true, nil
}

func inTime(name string, f float64) error {
	if f < 0 || f > maxTime {
		return fmt.Errorf("%s is out of range", name)
	}
	return nil
}

// integer is a member that must be a whole number in the range.
func (o object) integer(name string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(string(o[name]), 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s is not a whole number from %d to %d", name, least, most)
	}
	return n, nil
}
