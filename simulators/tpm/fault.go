package tpm

import (
	"github.com/assay-project/assay/simulators/internal/fault"
)

// The stages of verification at which a fault shows.
const (
	StageAuthenticate = fault.Authenticate
	StageBound        = fault.Bound
)

// Fault makes one thing wrong with a machine, and leaves everything else right.
type Fault struct {
	Name        string // lower case with hyphens: "ek-other-authority"
	Description string // one line, not a sentence
	Check       string // the verifier's check in which it must end; "" = it verifies
	Kind        string // the error's kind there: "malformed", "untrusted" or "stale"; "" with Check ""
	Stage       string // which step of verification: StageAuthenticate or StageBound
	Activation  bool   // shows only when the AK is activated with the EK
	Resident    bool   // shows only with keys that live in the TPM

	onCertificate func(*ekPlan) error                      // the EK certificate, before it is made
	onLog         func(b Boot, log []byte) ([]byte, error) // what the log says
	onCommand     func(*exchange)                          // a command before the TPM sees it
	onResponse    func(*exchange)                          // its response before the client sees it
}

// Faults lists all there are: those of certificates, of keys, of quotes, of
// certified keys, of the event log.
func Faults() []Fault {
	var out []Fault
	for _, f := range [][]Fault{certificateFaultList(), keyFaults(), quoteFaults(), certifyFaults(), logFaults()} {
		out = append(out, f...)
	}
	return out
}

// FaultByName finds a fault.
func FaultByName(name string) (Fault, bool) {
	return fault.Find(Faults(), name, func(f Fault) string { return f.Name })
}

// malformed, untrusted and stale are faults that end in an error of that kind,
// foreign those that belong to another challenge, harmless those that verify.
func malformed(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Malformed, Stage: StageAuthenticate}
}

func untrusted(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Untrusted, Stage: StageAuthenticate}
}

func stale(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Stale, Stage: StageAuthenticate}
}

func foreign(name, check, description string) Fault {
	return Fault{Name: name, Check: check, Description: description, Kind: fault.Untrusted, Stage: StageBound}
}

func harmless(name, description string) Fault {
	return Fault{Name: name, Description: description, Stage: StageAuthenticate}
}

// certificate, log, command and response say what a fault does.
func (f Fault) certificate(do func(*ekPlan) error) Fault {
	f.onCertificate = do
	return f
}

func (f Fault) eventLog(do func(b Boot, log []byte) ([]byte, error)) Fault {
	f.onLog = do
	return f
}

func (f Fault) command(do func(*exchange)) Fault {
	f.onCommand = do
	return f
}

func (f Fault) response(do func(*exchange)) Fault {
	f.onResponse = do
	return f
}
