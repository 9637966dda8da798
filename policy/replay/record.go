package replay

import (
	"iter"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Source yields records in any order. An error ends the replay: what is read from
// it would be incomplete. A single record that cannot be read is an [Item] whose
// Decode fails.
type Source = iter.Seq2[Item, error]

// Item is a record before it is decoded: decoding costs more than judging, and is
// shared by all cores.
type Item struct {
	Name   string                 // "entry 17", "fleet/a.json": where it is, for reports
	Decode func() (Record, error) // is called once, from any goroutine
}

// Record is one environment that attested.
type Record struct {
	Reference string // by which it is found again
	Time      time.Time
	Instance  attest.Instance
	Claims    attest.Claims
	Then      *Then // nil: nobody recorded what was decided
}

// Then is what was decided about a record, by whatever policy was in force.
type Then struct {
	Policy Version
	At     time.Time // of the decision
	// Outcome, Reason and Workload are those of the [policy.Decision].
	Outcome, Reason, Workload string
	// SPIFFEIDs are what was issued: what policy granted to those keys that there
	// were. An agent may ask for less than all.
	SPIFFEIDs []string
	// Decision reads the whole decision; it may be nil.
	Decision func() (policy.Decision, error)
}

// Version names a policy.
type Version struct {
	Name     string
	Revision uint64
	Digest   [32]byte // SHA-256 of its source
}

// String is "name@revision".
func (v Version) String() string { return policyVersion(v.Name, v.Revision) }

// newer orders records by time, and those of one instant by reference.
func (r *Record) newer(at time.Time, reference string) bool {
	if c := r.Time.Compare(at); c != 0 {
		return c > 0
	}
	return r.Reference > reference
}
