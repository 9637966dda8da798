package entropy

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/assay-project/assay/attest"
)

// pieces answers with each in turn, and with an error when they have run out.
func pieces(all ...[]byte) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(all) == 0 {
			return nil, errors.New("asked once more")
		}
		b := all[0]
		all = all[1:]
		return b, nil
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b
}

func TestPiecesAreGatheredInTheirOrder(t *testing.T) {
	t.Parallel()
	a, b, c := random(32), random(16), random(32)
	got, err := Gather(64, 32, pieces(a, b, c))
	if want := bytes.Join([][]byte{a, b, c[:16]}, nil); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x %v, want %x", got, err, want)
	}
	if got, err := Gather(1, 32, pieces(a)); err != nil || !bytes.Equal(got, a[:1]) {
		t.Errorf("%x %v", got, err)
	}
}

func TestAnswersThatCannotBeRandomAreRefusedByName(t *testing.T) {
	t.Parallel()
	same := random(32)
	for name, c := range map[string]struct {
		check   string
		answers [][]byte
	}{
		"nothing":                     {CheckLength, [][]byte{nil}},
		"too short":                   {CheckLength, [][]byte{random(15)}},
		"too short after a good one":  {CheckLength, [][]byte{random(32), random(1)}},
		"too long":                    {CheckLength, [][]byte{random(33)}},
		"zeros":                       {CheckConstant, [][]byte{make([]byte, 32)}},
		"ones":                        {CheckConstant, [][]byte{bytes.Repeat([]byte{0xff}, 16)}},
		"zeros after a good one":      {CheckConstant, [][]byte{random(32), make([]byte, 32)}},
		"the same twice":              {CheckRepeated, [][]byte{same, bytes.Clone(same)}},
		"the same twice, later":       {CheckRepeated, [][]byte{random(16), same, bytes.Clone(same)}},
		"an error of the device's":    {"", nil},
		"an error after a good piece": {"", [][]byte{random(32)}},
	} {
		got, err := Gather(64, 32, pieces(c.answers...))
		if got != nil || err == nil || attest.CheckOf(err) != c.check {
			t.Errorf("%s: %x %v, want the check %q", name, got, err, c.check)
		}
	}
	for _, n := range []int{-1, 0, MaxBytes + 1} {
		if got, err := Gather(n, 32, pieces(random(32))); got != nil || attest.CheckOf(err) != CheckLength {
			t.Errorf("%d bytes: %x %v", n, got, err)
		}
	}
}

// A device that gives as little as it may is asked a bounded number of times.
func TestADeviceIsAskedABoundedNumberOfTimes(t *testing.T) {
	t.Parallel()
	asked := 0
	got, err := Gather(MaxBytes, 256, func() ([]byte, error) { asked++; return random(MinPiece), nil })
	if err != nil || len(got) != MaxBytes || asked != MaxBytes/MinPiece {
		t.Errorf("%d bytes after %d answers: %v", len(got), asked, err)
	}
}

func FuzzGather(f *testing.F) {
	f.Add(64, append([]byte{32}, random(32)...))
	f.Add(1, []byte{0})
	f.Add(40, append([]byte{16}, make([]byte, 16)...))
	f.Fuzz(func(t *testing.T, n int, answers []byte) {
		got, err := Gather(n, 32, func() ([]byte, error) {
			if len(answers) == 0 {
				return nil, errors.New("no more")
			}
			k := min(int(answers[0]), len(answers)-1)
			b := answers[1 : 1+k]
			answers = answers[1+k:]
			return b, nil
		})
		if (err == nil) != (got != nil) || err == nil && (len(got) != n || n > MaxBytes) {
			t.Fatalf("%d bytes of %d, %v", len(got), n, err)
		}
	})
}
