package nitro

import (
	"slices"

	"github.com/assay-project/assay/simulators/internal/fault"
)

// The stages of verification at which a fault shows.
const (
	StageAuthenticate = fault.Authenticate // structure, signature, chain, time
	StageBound        = fault.Bound        // comparison with what the challenge demands
)

// Fault is one thing wrong with a document: everything else about it is right,
// so it is signed with the faulty content, chained and dated as it should be.
// The zero Fault changes nothing.
type Fault struct {
	Name        string // stable, for scripts: "leaf-p521"
	Description string // one line for people
	// Check is the verifier's named check that must refuse the document; "" for a
	// document that verifies, with something to be seen in its claims.
	Check string
	Kind  string // "malformed", "untrusted" or "stale"; "" with Check ""
	Stage string // StageAuthenticate or StageBound
	// MintOnly marks a fault whose document a device could not hand over, because
	// its response buffer is smaller (0x3000 bytes). Launch refuses it.
	MintOnly bool

	onDocument hook                      // changes what is said
	onPlan     func(*draft, *plan) error // changes blueprints of certificates
	onChain    hook                      // changes finished certificates
	onPayload  hook                      // changes encoded fields
	onHeaders  hook                      // changes payload bytes and headers
	onSigned   hook                      // changes the signature, or what was signed
	onFinished hook                      // changes the finished bytes
}

// Faults lists every fault in the order of the verifier's checks. The slice is
// the caller's.
func Faults() []Fault {
	return slices.Concat(
		coseFaults(), documentFaults(), fieldFaults(), chainFaults(), leafFaults(),
		signatureFaults(), timeFaults(), claimFaults(), bindingFaults(),
	)
}

// FaultByName finds a fault.
func FaultByName(name string) (Fault, bool) {
	return fault.Find(Faults(), name, func(f Fault) string { return f.Name })
}

// Checks that several faults share.
func malformed(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Malformed, Stage: StageAuthenticate}
}

func untrusted(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Untrusted, Stage: StageAuthenticate}
}

func stale(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Stale, Stage: StageAuthenticate}
}

func (f Fault) document(h hook) Fault { f.onDocument = h; return f }
func (f Fault) chain(h hook) Fault    { f.onChain = h; return f }
func (f Fault) payload(h hook) Fault  { f.onPayload = h; return f }
func (f Fault) headers(h hook) Fault  { f.onHeaders = h; return f }
func (f Fault) signed(h hook) Fault   { f.onSigned = h; return f }
func (f Fault) finished(h hook) Fault { f.onFinished = h; return f }
func (f Fault) mintOnly() Fault       { f.MintOnly = true; return f }

func (f Fault) plan(h func(*draft, *plan) error) Fault { f.onPlan = h; return f }
