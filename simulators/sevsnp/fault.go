package sevsnp

import (
	"slices"

	"github.com/assay-project/assay/simulators/internal/fault"
)

// The stages of verification at which a fault shows.
const (
	StageAuthenticate = fault.Authenticate // structure, endorsement, chain, revocation, signature, versions
	StageBound        = fault.Bound        // comparison with what the challenge demands
)

// Fault is one thing wrong with a guest's reports or with the certificates
// beside them: everything else is right, so that reports are signed with the
// faulty content, and certificates made with theirs. The zero Fault changes
// nothing.
type Fault struct {
	Name        string // stable, for scripts: "vcek-expired"
	Description string // one line for people
	// Check is the verifier's named check that must refuse the evidence; "" for
	// evidence that verifies, with something to be seen in its claims.
	Check string
	Kind  string // "malformed", "untrusted" or "stale"; "" with Check ""
	Stage string // StageAuthenticate or StageBound

	// Revocation marks a fault that only a verifier refuses which requires a
	// current CRL.
	Revocation bool
	// Intermediate marks a fault of the ASK's or ASVK's certificate: it shows to a
	// verifier that pins the ARK alone (ARKsPEM). One that pins the ASK as well
	// uses its own, and may find nothing wrong, or another thing.
	Intermediate bool

	products []Product    // to which it applies; nil = all
	keys     []SigningKey // likewise

	onLaunch func(*Launch, Product) // changes how the guest is started
	onPlan   func(*plan) error      // changes certificates and keys
	onFields func(*fields, Product) // changes what a report says
	onRaw    func([]byte, Product)  // changes an encoded report before it is signed
	onSigned func([]byte) []byte    // changes a signed report
}

// Applies reports whether the fault can be had for reports of a product that
// are signed by a kind of key ("" = VCEK).
func (f Fault) Applies(p Product, k SigningKey) bool {
	if k == "" {
		k = VCEK
	}
	return (f.products == nil || slices.Contains(f.products, p)) && (f.keys == nil || slices.Contains(f.keys, k))
}

// Faults lists every fault in the order of the verifier's checks. The slice is
// the caller's.
func Faults() []Fault {
	return slices.Concat(
		reportFaults(), endorsementFaults(), relationFaults(), chainFaults(), crlFaults(),
		signatureFaults(), versionFaults(), claimFaults(), bindingFaults(),
	)
}

// FaultByName finds a fault.
func FaultByName(name string) (Fault, bool) {
	return fault.Find(Faults(), name, func(f Fault) string { return f.Name })
}

func malformed(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Malformed, Stage: StageAuthenticate}
}

func untrusted(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Untrusted, Stage: StageAuthenticate}
}

func stale(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Stale, Stage: StageAuthenticate}
}

func (f Fault) launch(h func(*Launch, Product)) Fault { f.onLaunch = h; return f }
func (f Fault) plan(h func(*plan) error) Fault        { f.onPlan = h; return f }
func (f Fault) fields(h func(*fields, Product)) Fault { f.onFields = h; return f }
func (f Fault) raw(h func([]byte, Product)) Fault     { f.onRaw = h; return f }
func (f Fault) signed(h func([]byte) []byte) Fault    { f.onSigned = h; return f }
func (f Fault) on(p ...Product) Fault                 { f.products = p; return f }
func (f Fault) with(k ...SigningKey) Fault            { f.keys = k; return f }
func (f Fault) revocation() Fault                     { f.Revocation = true; return f }
func (f Fault) intermediate() Fault                   { f.Intermediate = true; return f }
