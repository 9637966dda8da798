package diff

import (
	"time"

	"github.com/assay-project/assay/attest"
)

// Report is the difference of two policies, A and B.
type Report struct {
	A Policy `json:"a"`
	B Policy `json:"b"`
	// From is the moment from which on they were compared.
	From time.Time `json:"from"`
	// Widenings are claims that B admits and A refuses, Narrowings the reverse.
	Widenings  []Difference `json:"widenings"`
	Narrowings []Difference `json:"narrowings"`
	// Changes are claims that both admit, and that get something else.
	Changes []Change `json:"changes"`
	// Undecided is what could not be found out.
	Undecided []Undecided `json:"undecided"`
}

// Policy names one of the two.
type Policy struct {
	Policy string       `json:"policy"` // "name@revision"
	Digest attest.Bytes `json:"digest"`
}

// Same reports that no claims are decided otherwise, and that nothing is left
// undecided.
func (r *Report) Same() bool {
	return len(r.Widenings)+len(r.Narrowings)+len(r.Changes)+len(r.Undecided) == 0
}

// Difference is a set of claims that one policy admits and the other refuses.
type Difference struct {
	TEE      attest.Platform `json:"tee"`
	Workload string          `json:"workload"` // of the policy that admits
	// What says of each claim that makes the difference what is admitted.
	What []string `json:"what"`
	// Why is what the other policy says of the counterexample.
	Why string `json:"why"`
	// From and Until are the stretch of time in which it is so: up to, not
	// including, Until, where there is an end.
	From  time.Time  `json:"from"`
	Until *time.Time `json:"until"`
	// At and Claims are the counterexample: both policies were asked about it.
	At     time.Time     `json:"at"`
	Claims attest.Claims `json:"claims"`

	key   string
	words []string
}

// Change is a set of claims that both policies admit, and that get something
// else from each.
type Change struct {
	TEE    attest.Platform `json:"tee"`
	A      string          `json:"a"` // the workload that grants in A
	B      string          `json:"b"`
	What   []string        `json:"what"`
	From   time.Time       `json:"from"`
	Until  *time.Time      `json:"until"`
	At     time.Time       `json:"at"`
	Claims attest.Claims   `json:"claims"`
}

// Undecided is a part of the comparison that has no answer.
type Undecided struct {
	TEE      attest.Platform `json:"tee"`
	Workload string          `json:"workload"`
	In       string          `json:"in"` // "A" or "B": where the workload is
	Why      string          `json:"why"`
	What     []string        `json:"what"`
}
