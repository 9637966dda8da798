package policy

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// Which values meet a constraint. The question is answered exactly for every kind
// of claim but free text with regular expressions, of which examples are tried.

// Possible reports whether some value, or the absence of the claim, meets the
// constraint by itself; known is false where none was found and there may be one.
func (k *Constraint) Possible(at time.Time) (ok, known bool) {
	if len(k.Must) == 0 && !k.Claim.Always() {
		return true, true
	}
	vs, known := k.candidates(at)
	return len(vs) > 0, known || len(vs) > 0
}

// Candidates are values that meet the constraint: all where they are finite, else
// some of every sort that other claims tell apart.
func (k *Constraint) Candidates(at time.Time) []Value {
	vs, _ := k.candidates(at)
	return vs
}

// Admits reports whether a value that is there meets the constraint.
func (k *Constraint) Admits(v Value, at time.Time) bool {
	if s := k.Claim.tee.model.spelled; s != nil && !s(k.Claim.f.name, v) {
		return false
	}
	return !slices.ContainsFunc(k.Must, func(t ModelTest) bool { return !t.Holds(v, at) }) &&
		!slices.ContainsFunc(k.Not, func(t ModelTest) bool { return t.Holds(v, at) })
}

func (k *Constraint) candidates(at time.Time) (out []value, known bool) {
	add := func(vs ...value) {
		for _, v := range vs {
			if k.Admits(v, at) && !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	for _, v := range k.Or {
		if k.valid(v) {
			add(v)
		}
	}
	var least *set
	for _, t := range k.Must {
		if s, ok := t.test.(*set); ok && (least == nil || len(s.entries) < len(least.entries)) {
			least = s
		}
	}
	if least != nil {
		for _, e := range least.entries {
			if k.Admits(e.value, at) && !slices.Contains(k.Or, e.value) {
				out = append(out, e.value)
			}
		}
		return out, true
	}
	switch kind := k.Claim.f.kind.(type) {
	case boolean:
		add(no, yes)
		return out, true
	case enum:
		for _, w := range strings.Split(kind.words, "|") {
			add(value(w))
		}
		return out, true
	case masking:
		add(no, yes, maskedVLEK)
		return out, true
	case number:
		k.ordered(4, uint64(kind.least), uint64(kind.most), add)
		return out, true
	case firmware:
		k.ordered(3, 0, 1<<24-1, add)
		return out, true
	case tpmFirmware:
		k.ordered(8, 0, 1<<64-1, add)
		return out, true
	case bitfield:
		v, found, known := k.flags()
		if found {
			add(v)
		}
		return out, known
	case tcb:
		known = true
		for _, product := range snpProducts {
			v, found, sure := k.tcb(product)
			if found {
				add(v)
			}
			known = known && sure
		}
		return out, known
	case registerList:
		k.lists(at, add)
		return out, true
	case text:
		add(k.texts()...)
		return out, len(out) > 0 || !k.hasPattern()
	}
	// Digests and ids: of those that no test lists there are always more.
	for _, n := range k.lengths() {
		for i := range k.listed() + 1 {
			before := len(out)
			if add(fresh(n, i)); len(out) > before {
				break
			}
		}
	}
	for _, n := range k.lengths() {
		add(value(make([]byte, n)))
	}
	return out, true
}

// valid reports whether a value that somebody suggests is one of the kind.
func (k *Constraint) valid(v value) bool {
	switch kind := k.Claim.f.kind.(type) {
	case boolean:
		return v == no || v == yes
	case enum:
		return slices.Contains(strings.Split(kind.words, "|"), string(v))
	case number:
		return len(v) == 4 && v >= numeral(kind.least) && v <= numeral(kind.most)
	case firmware:
		return len(v) == 3
	case bitfield, tpmFirmware:
		return len(v) == 8
	case tcb:
		product, parts, ok := strings.Cut(string(v), "\x00")
		return ok && slices.Contains(snpProducts, product) && len(parts) == len(tcbComponents(product))
	case text:
		return v != "" && len(v) <= kind.max
	case registerList:
		return v != "" && !slices.ContainsFunc(v.split(), func(d value) bool { return bankOf(len(d)) == "" })
	case masking:
		return false
	}
	return slices.Contains(k.lengths(), len(v))
}

// lengths are those that values of the claim can have, in bytes.
func (k *Constraint) lengths() []int {
	switch kind := k.Claim.f.kind.(type) {
	case digest:
		return []int{kind.n}
	case identifier:
		return []int{kind.n}
	case chipID:
		return []int{chipLength}
	case register:
		return []int{banks[0].n, banks[1].n}
	}
	return nil
}

func (k *Constraint) listed() int {
	n := 0
	for _, t := range k.Not {
		n += t.Size()
	}
	return n
}

// fresh is the i-th of many values of n bytes that nobody has written down.
func fresh(n, i int) value {
	h := sha512.Sum512(fmt.Appendf(nil, "assay: none of those listed, %d", i))
	return value(h[:n])
}

// ordered finds the least and the greatest values that meet the constraint.
func (k *Constraint) ordered(width int, lo, hi uint64, add func(...value)) {
	of := func(v value) (n uint64) {
		for i := range len(v) {
			n = n<<8 | uint64(v[i])
		}
		return n
	}
	narrow := func(b *bound, holds bool) bool {
		switch n := of(b.value); {
		case b.upper && holds:
			hi = min(hi, n)
		case !b.upper && holds:
			lo = max(lo, n)
		case b.upper:
			if n == 1<<64-1 {
				return false
			}
			lo = max(lo, n+1)
		default:
			if n == 0 {
				return false
			}
			hi = min(hi, n-1)
		}
		return lo <= hi
	}
	for i, ts := range [][]ModelTest{k.Must, k.Not} {
		for _, t := range ts {
			if b, ok := t.test.(*bound); ok && !narrow(b, i == 0) {
				return
			}
		}
	}
	at := func(n uint64) value {
		b := binary.BigEndian.AppendUint64(nil, n)
		return value(b[8-width:])
	}
	// Sets that must not hold take out at most as many as they list.
	var front, back []value
	for i := range uint64(k.listed() + 1) {
		if lo+i > hi || lo+i < lo {
			break
		}
		front, back = append(front, at(lo+i)), append(back, at(hi-i))
	}
	for _, some := range [][]value{front, back} {
		for _, v := range some {
			if k.Admits(v, time.Time{}) || k.windowed() {
				add(v)
				break
			}
		}
	}
	if k.windowed() {
		add(front...)
		add(back...)
	}
}

// windowed reports whether a test depends on time: frozen ones do not.
func (k *Constraint) windowed() bool {
	return slices.ContainsFunc(slices.Concat(k.Must, k.Not), func(t ModelTest) bool { return len(t.Breaks()) > 0 })
}

// maxChoices bounds the search among bits and components.
const maxChoices = 1 << 14

// flags finds bits such that every test of Not fails in one of its bits.
func (k *Constraint) flags() (v value, found, known bool) {
	var set, clear uint64
	for _, t := range k.Must {
		if b, ok := t.test.(*bits); ok {
			set, clear = set|b.set, clear|b.clear
		}
	}
	if set&clear != 0 {
		return "", false, true
	}
	var not []*bits
	for _, t := range k.Not {
		if b, ok := t.test.(*bits); ok {
			not = append(not, b)
		} else {
			return "", false, true // "it is there" is never to fail where it must be
		}
	}
	tries := 0
	var search func(i int, set, clear uint64) bool
	search = func(i int, set, clear uint64) bool {
		if tries++; tries > maxChoices {
			return false
		}
		if i == len(not) {
			v = flags(set)
			return true
		}
		for bit := range 64 {
			m := uint64(1) << bit
			switch {
			case not[i].set&m != 0 && set&m == 0 && search(i+1, set, clear|m):
				return true
			case not[i].clear&m != 0 && clear&m == 0 && search(i+1, set|m, clear):
				return true
			}
		}
		return false
	}
	found = search(0, set, clear)
	return v, found, found || tries <= maxChoices
}

func tcbComponents(product string) []int {
	if product == snpHasFMC {
		return []int{0, 1, 2, 3, 4}
	}
	return []int{1, 2, 3, 4}
}

// tcb finds a TCB of a product line above all floors and below all ceilings of
// Must, and beyond one component of each of Not.
func (k *Constraint) tcb(product string) (v value, found, known bool) {
	lo, hi := [5]uint8{}, [5]uint8{255, 255, 255, 255, 255}
	parts := tcbComponents(product)
	for _, t := range k.Must {
		limit, ok := t.test.(*tcbFloor)
		if !ok {
			continue
		}
		f, ok := limit.floors[product]
		if !ok {
			return "", false, true
		}
		for _, i := range parts {
			if limit.upper {
				hi[i] = min(hi[i], tcbParts(f)[i])
			} else {
				lo[i] = max(lo[i], tcbParts(f)[i])
			}
		}
	}
	var not []*tcbFloor
	for _, t := range k.Not {
		limit, ok := t.test.(*tcbFloor)
		if !ok {
			return "", false, true
		}
		if _, ok := limit.floors[product]; ok {
			not = append(not, limit)
		}
	}
	tries := 0
	var search func(i int, lo, hi [5]uint8) bool
	search = func(i int, lo, hi [5]uint8) bool {
		if tries++; tries > maxChoices {
			return false
		}
		for _, c := range parts {
			if lo[c] > hi[c] {
				return false
			}
		}
		if i == len(not) {
			out := append([]byte(product), 0)
			for _, c := range parts {
				out = append(out, lo[c])
			}
			v = value(out)
			return true
		}
		f := tcbParts(not[i].floors[product])
		for _, c := range parts {
			l, h := lo, hi
			switch {
			case not[i].upper && f[c] < 255:
				l[c] = max(l[c], f[c]+1)
			case !not[i].upper && f[c] > 0:
				h[c] = min(h[c], f[c]-1)
			default:
				continue
			}
			if search(i+1, l, h) {
				return true
			}
		}
		return false
	}
	found = search(0, lo, hi)
	return v, found, found || tries <= maxChoices
}

// lists finds lists of one bank whose elements pass every test of Must, with one
// that fails each of Not.
func (k *Constraint) lists(at time.Time, add func(...value)) {
	var must, not []*set
	for i, ts := range [][]ModelTest{k.Must, k.Not} {
		for _, t := range ts {
			e, ok := t.test.(*every)
			switch {
			case !ok && i == 1:
				return // it must be there, and must not
			case !ok:
			case i == 0:
				must = append(must, e.of)
			default:
				not = append(not, e.of)
			}
		}
	}
	holds := func(s *set, v value) bool { ok, _ := s.holds(v, at); return ok }
	for _, bank := range banks {
		var pool []value
		if len(must) == 0 {
			n := k.listed() + 1
			for i := range n {
				if v := fresh(bank.n, i); !slices.ContainsFunc(not, func(s *set) bool { return s.lists(v) }) {
					pool = append(pool, v)
					break
				}
			}
		} else {
			for _, e := range must[0].entries {
				if len(e.value) == bank.n && !slices.ContainsFunc(must, func(s *set) bool { return !holds(s, e.value) }) {
					pool = append(pool, e.value)
				}
			}
		}
		var list []attest.Bytes
		ok := len(pool) > 0
		for _, s := range not {
			i := slices.IndexFunc(pool, func(v value) bool { return !holds(s, v) })
			if ok = ok && i >= 0; ok {
				list = append(list, attest.Bytes(pool[i]))
			}
		}
		if !ok {
			continue
		}
		if len(list) == 0 {
			list = append(list, attest.Bytes(pool[0]))
		}
		if v, ok := digests(list); ok {
			add(v)
		}
	}
}

func (k *Constraint) hasPattern() bool {
	return slices.ContainsFunc(slices.Concat(k.Must, k.Not), func(t ModelTest) bool { _, ok := t.test.(*pattern); return ok })
}

// texts suggests texts: examples of the regular expressions, and some that are
// nobody's.
func (k *Constraint) texts() []value {
	var out []value
	for _, t := range slices.Concat(k.Must, k.Not) {
		if p, ok := t.test.(*pattern); ok {
			for _, s := range examples(p.source) {
				out = append(out, value(s))
			}
		}
	}
	for i := range k.listed() + 2 {
		out = append(out, value(fmt.Sprintf("other-%d", i+1)), value(fmt.Sprint(i+1)))
	}
	max := 1 << 10
	if t, ok := k.Claim.f.kind.(text); ok {
		max = t.max
	}
	return slices.DeleteFunc(out, func(v value) bool {
		return v == "" || len(v) > max || strings.TrimFunc(string(v), func(r rune) bool { return r >= ' ' && r <= '~' }) != ""
	})
}
