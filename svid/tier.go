package svid

import (
	"encoding/json"
	"fmt"
)

// Tier is one of the four trustworthiness tiers of AR4SI
// (draft-ietf-rats-ar4si, section 2.3.2), with the numbers that EAR gives them.
type Tier uint8

// The tiers. None says that the verifier asserts nothing.
const (
	None            Tier = 0
	Affirming       Tier = 2
	Warning         Tier = 32
	Contraindicated Tier = 96
)

// String returns the tier's name in AR4SI's JSON serialization.
func (t Tier) String() string {
	switch t {
	case None:
		return "none"
	case Affirming:
		return "affirming"
	case Warning:
		return "warning"
	case Contraindicated:
		return "contraindicated"
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// MarshalText writes the name.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a name.
func (t *Tier) UnmarshalText(b []byte) error {
	for _, x := range []Tier{None, Affirming, Warning, Contraindicated} {
		if string(b) == x.String() {
			*t = x
			return nil
		}
	}
	return fmt.Errorf("unknown tier %.40q: want none, affirming, warning or contraindicated", b)
}

// known reports whether t is one of the four tiers.
func (t Tier) known() bool {
	return t == None || t == Affirming || t == Warning || t == Contraindicated
}

// rank orders the tiers by trust, best last. A verifier that says nothing is
// worth less than one that warns, and more than one that objects.
func (t Tier) rank() int {
	switch t {
	case Affirming:
		return 3
	case Warning:
		return 2
	case None:
		return 1
	case Contraindicated:
		return 0
	}
	return -1
}

// AtLeast reports whether t is as good as least, or better:
// affirming > warning > none > contraindicated.
func (t Tier) AtLeast(least Tier) bool {
	return t.known() && least.known() && t.rank() >= least.rank()
}

// Claim is one trustworthiness claim: a signed byte whose range gives its tier
// and whose value gives the reason (AR4SI, section 2.3.2). Positive values are
// AR4SI's own, negative ones this project's (docs/spec/attested-svid.md).
type Claim int8

// Tier is the tier of the range that the claim falls into.
func (c Claim) Tier() Tier {
	switch {
	case c >= -1 && c <= 1:
		return None
	case c >= 2 && c <= 31, c >= -32 && c <= -2:
		return Affirming
	case c >= 32 && c <= 95, c >= -96 && c <= -33:
		return Warning
	}
	return Contraindicated
}

// Aspect is an index into a [Vector]: what a claim is about. The numbers are
// the keys of AR4SI's CBOR trustworthiness vector.
type Aspect int

// The eight aspects of AR4SI, section 2.3.4.
const (
	InstanceIdentity Aspect = iota // is this instance one that its owner is known to run
	Configuration                  // does the configuration expose it
	Executables                    // is the code that was loaded approved
	FileSystem                     // are the files approved
	Hardware                       // is the hardware and firmware genuine and up to date
	RuntimeOpaque                  // is memory hidden from the outside
	StorageOpaque                  // is storage encrypted
	SourcedData                    // is the data it works on attested
	aspects
)

// aspectName is indexed by Aspect.
func aspectName(a Aspect) string {
	return [...]string{
		"instance-identity", "configuration", "executables", "file-system",
		"hardware", "runtime-opaque", "storage-opaque", "sourced-data",
	}[a]
}

// String returns the aspect's name in AR4SI's JSON serialization.
func (a Aspect) String() string {
	if a < 0 || a >= aspects {
		return fmt.Sprintf("aspect(%d)", int(a))
	}
	return aspectName(a)
}

// Vector is the trustworthiness vector, indexed by [Aspect]. A zero entry makes
// no claim.
type Vector [aspects]Claim

// Status is the tier of the worst entry. Entries that make no claim do not
// count; a vector without any claim is None.
func (v Vector) Status() Tier {
	worst := None
	for _, c := range v {
		t := c.Tier()
		if t == None {
			continue
		}
		if worst == None || t.rank() < worst.rank() {
			worst = t
		}
	}
	return worst
}

// MarshalJSON writes the entries that make a claim, by name:
// {"executables":3,"hardware":2}.
func (v Vector) MarshalJSON() ([]byte, error) {
	m := make(map[string]int, len(v))
	for i, c := range v {
		if c != 0 {
			m[aspectName(Aspect(i))] = int(c)
		}
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (v *Vector) UnmarshalJSON(b []byte) error {
	var m map[string]int8
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*v = Vector{}
	for i := range v {
		name := aspectName(Aspect(i))
		if c, ok := m[name]; ok {
			v[i] = Claim(c)
			delete(m, name)
		}
	}
	for name := range m {
		return fmt.Errorf("unknown aspect %.40q", name)
	}
	return nil
}
