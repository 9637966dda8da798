package policy

import (
	"strings"

	"cel.dev/cel-go/cel"
)

// How expressions read each kind of claim. Digests, ids and chips are the hex
// text that decisions show; versions and TCBs are read by component, so that
// nobody compares them as text.

// word is a claim read as text.
func word(name string, size int, format func(value) string) []variable {
	return []variable{{name: name, kind: cel.StringType, size: size, read: func(v value) (any, bool) { return format(v), true }}}
}

// whole is a component read as a whole number.
func whole(name string, read func(v value) (int64, bool)) variable {
	return variable{name: name, kind: cel.IntType, size: 1, read: func(v value) (any, bool) { n, ok := read(v); return n, ok }}
}

// sequence is a claim read as a list.
func sequence[T any](name string, of *cel.Type, size int, read func(v value) []T) []variable {
	return []variable{{name: name, kind: cel.ListType(of), size: size, read: func(v value) (any, bool) { return read(v), true }}}
}

func truths(name string, read func(v value) bool) []variable {
	return []variable{{name: name, kind: cel.BoolType, size: 1, read: func(v value) (any, bool) { return read(v), true }}}
}

func (k digest) variables(name string) []variable     { return word(name, 2*k.n, k.format) }
func (k identifier) variables(name string) []variable { return word(name, 2*k.n, k.format) }
func (k chipID) variables(name string) []variable     { return word(name, 2*chipLength, k.format) }
func (k text) variables(name string) []variable       { return word(name, k.max, k.format) }
func (k enum) variables(name string) []variable       { return word(name, len(k.words), k.format) }

func (k register) variables(name string) []variable {
	return word(name, 2*banks[len(banks)-1].n, k.format)
}

func (boolean) variables(name string) []variable {
	return truths(name, func(v value) bool { return v == yes })
}

func (masking) variables(name string) []variable {
	return truths(name, func(v value) bool { return v != no })
}

func (number) variables(name string) []variable {
	return []variable{whole(name, func(v value) (int64, bool) { return bigEndian(v), true })}
}

// bigEndian reads fixed-width bytes of at most four.
func bigEndian(v value) (n int64) {
	for i := range min(len(v), 4) {
		n = n<<8 | int64(v[i])
	}
	return n
}

func (firmware) variables(name string) []variable {
	var out []variable
	for i, part := range []string{"major", "minor", "build"} {
		out = append(out, whole(name+"."+part, func(v value) (int64, bool) { return int64(v[i]), true }))
	}
	return out
}

func (tpmFirmware) variables(name string) []variable {
	return sequence(name, cel.IntType, 4, func(v value) (out []int64) {
		for ; len(v) >= 2; v = v[2:] {
			out = append(out, bigEndian(v[:2]))
		}
		return out
	})
}

func (tcb) variables(name string) []variable {
	var out []variable
	for i, part := range tcbNames {
		out = append(out, whole(name+"."+part, func(v value) (int64, bool) {
			_, t := tcbOf(v)
			switch i {
			case 0:
				if t.FMC == nil {
					return 0, false
				}
				return int64(*t.FMC), true
			case 1:
				return int64(t.Bootloader), true
			case 2:
				return int64(t.TEE), true
			case 3:
				return int64(t.SNP), true
			}
			return int64(t.Microcode), true
		}))
	}
	return out
}

func (bitfield) variables(name string) []variable {
	return sequence(name, cel.IntType, 64, func(v value) []int64 {
		out := []int64{}
		for i := range int64(64) {
			if v.flags()&(1<<i) != 0 {
				out = append(out, i)
			}
		}
		return out
	})
}

func (registerList) variables(name string) []variable {
	return sequence(name, cel.StringType, maxListed, func(v value) []string {
		out := []string{}
		for _, d := range v.split() {
			out = append(out, register{}.format(d))
		}
		return out
	})
}

// spell writes what an expression read, for people.
func spell(x any) string {
	switch x := x.(type) {
	case string:
		return "'" + strings.ReplaceAll(shorten(x), "'", `\'`) + "'"
	case []string:
		parts := make([]string, 0, min(len(x), listed)+1)
		for i, s := range x {
			if i == listed {
				parts = append(parts, "…")
				break
			}
			parts = append(parts, spell(s))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return plain(x)
}
