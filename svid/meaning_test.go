package svid

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tables of the specification, each row with an aspect and a number, have words.
func TestEveryClaimOfTheSpecificationHasWords(t *testing.T) {
	b, err := os.ReadFile("../docs/spec/attested-svid.md")
	if err != nil {
		t.Fatal(err)
	}
	named := func(name string) (Aspect, bool) {
		for a := range aspects {
			if a.String() == name {
				return a, true
			}
		}
		return 0, false
	}
	number := regexp.MustCompile(`^-?\d+$`)
	var rows, last int
	var about Aspect
	saw := map[string]bool{}
	for i, line := range strings.Split(string(b), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		if !strings.HasPrefix(line, "|") || len(cells) < 3 {
			continue
		}
		var where []Aspect
		value := cells[2]
		switch {
		case number.MatchString(cells[0]): // value, aspects, meaning
			value = cells[0]
			for _, name := range strings.Split(cells[1], ", ") {
				a, ok := named(name)
				if !ok {
					t.Errorf("line %d: no aspect %q", i+1, name)
				}
				where = append(where, a)
			}
		case len(cells) == 3: // when, aspect, value
			if a, ok := named(cells[1]); ok {
				where = []Aspect{a}
			}
		default: // aspect or as above, when, value, because
			if a, ok := named(cells[0]); ok {
				about, last = a, i
			} else if cells[0] != "" || i != last+1 {
				continue
			}
			last = i
			where = []Aspect{about}
		}
		n, err := strconv.ParseInt(value, 10, 8)
		if err != nil {
			continue
		}
		for _, a := range where {
			rows++
			got := Claim(n).Meaning(a)
			if strings.Contains(got, "does not know") {
				t.Errorf("line %d: %s %d has no words", i+1, a, n)
			}
			saw[a.String()+" "+value] = true
		}
	}
	if rows < 40 || len(saw) < 20 {
		t.Errorf("%d rows with %d values were found, want at least 40 and 20", rows, len(saw))
	}
	for _, want := range []string{"hardware -34", "runtime-opaque -34", "executables -5", "configuration 96", "instance-identity 2"} {
		if !saw[want] {
			t.Errorf("%s was not found in the specification", want)
		}
	}
}

func TestEveryClaimHasWordsOfItsOwn(t *testing.T) {
	for a := range aspects {
		var all []string
		for c := range 256 {
			got := Claim(int8(c)).Meaning(a)
			if got == "" || len(got) > 90 || strings.ContainsAny(got, "\n\t") {
				t.Errorf("%s %d: %q", a, int8(c), got)
			}
			if !strings.Contains(got, "does not know") {
				if slices.Contains(all, got) {
					t.Errorf("%s %d: %q is said of another value too", a, int8(c), got)
				}
				all = append(all, got)
			}
		}
	}
	if got := Claim(-34).Meaning(Hardware); !strings.Contains(got, "simulator") {
		t.Errorf("hardware -34 is %q", got)
	}
	if got := Claim(-90).Meaning(Hardware); got != "a reason for warning that this version does not know" {
		t.Errorf("hardware -90 is %q", got)
	}
}
