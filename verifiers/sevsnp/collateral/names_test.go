package collateral

import (
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// tcbOf is the TCB of a file's name.
func tcbOf(n fileName) attest.TCB {
	t := attest.TCB{Bootloader: n.tcb[1], TEE: n.tcb[2], SNP: n.tcb[3], Microcode: n.tcb[4]}
	if n.product == sevsnp.Turin {
		t.FMC = &n.tcb[0]
	}
	return t
}

func TestKeysThatNameNoEndorsementAreNotLookedFor(t *testing.T) {
	one, id := uint8(1), make(attest.Bytes, 64)
	id[0] = 1
	long := make(attest.Bytes, 64)
	long[0], long[63] = 1, 1
	tail := make(attest.Bytes, 64)
	tail[63] = 1
	turin := attest.TCB{FMC: &one}
	for _, c := range []struct {
		name string
		key  sevsnp.Key
		good bool
	}{
		{"a VCEK of Milan", sevsnp.Key{Product: "milan", SigningKey: "vcek", ChipID: id}, true},
		{"a VLEK with a masked chip", sevsnp.Key{Product: "genoa", SigningKey: "vlek", ChipID: make(attest.Bytes, 64)}, true},
		{"a VCEK of Turin", sevsnp.Key{Product: "turin", SigningKey: "vcek", ChipID: id, TCB: turin}, true},
		{"a masked chip", sevsnp.Key{Product: "milan", SigningKey: "vcek", ChipID: make(attest.Bytes, 64)}, false},
		{"a chip id that is too short", sevsnp.Key{Product: "milan", SigningKey: "vcek", ChipID: id[:8]}, false},
		{"no chip id", sevsnp.Key{Product: "milan", SigningKey: "vcek"}, false},
		{"a chip of Turin with more than eight bytes", sevsnp.Key{Product: "turin", SigningKey: "vcek", ChipID: long, TCB: turin}, false},
		{"a chip of Turin with other bytes", sevsnp.Key{Product: "turin", SigningKey: "vcek", ChipID: tail, TCB: turin}, false},
		{"Turin without fmc", sevsnp.Key{Product: "turin", SigningKey: "vcek", ChipID: id}, false},
		{"Milan with fmc", sevsnp.Key{Product: "milan", SigningKey: "vcek", ChipID: id, TCB: turin}, false},
		{"an unknown line", sevsnp.Key{Product: "venice", SigningKey: "vcek", ChipID: id}, false},
		{"an unknown signing key", sevsnp.Key{Product: "milan", SigningKey: "none", ChipID: id}, false},
	} {
		if _, ok := want(c.key); ok != c.good {
			t.Errorf("%s: %t, want %t", c.name, ok, c.good)
		}
	}
}
