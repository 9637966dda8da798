package policy

import (
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// Where the keys of an identity may be, as an entry of issue says under
// key_residency. The claim of that name, in match, is another thing: it says whether
// a TPM certified the key.
const (
	KeysInMemory = "memory" // of agent and workload, and files in memory; the default
	KeysInFiles  = "file"   // on a disk as well
)

// KeyResidency is where an identity's keys may be, as policies say it.
func KeyResidency(onDisk bool) string {
	if onDisk {
		return KeysInFiles
	}
	return KeysInMemory
}

// keysOnDisk reads whether keys may be on a disk. A disk belongs to the host: an
// agent writes to one only if its operator and the policy both say so.
func (p *parser) keysOnDisk(n *strictyaml.Node) bool {
	s, ok := p.doc.Text(n)
	if !ok {
		return false
	}
	known := []string{KeysInMemory, KeysInFiles}
	switch s {
	case KeysInMemory:
		return false
	case KeysInFiles:
		return true
	}
	p.doc.Report(n, fmt.Sprintf("want %s or %s, got %q", KeysInMemory, KeysInFiles, clip(s)), p.doc.Suggest(s, known))
	return false
}

// lintResidency: match accepts only keys that never leave the TPM, and issue lets
// them be written to a disk. One of the two is not what was meant: no key of such an
// attestation can be written, and what can, its tokens, the host may read.
func lintResidency(w *workload, p *parser) {
	r := w.find("key_residency")
	if r == nil || admits(r, attest.ResidentSoftware) || !admits(r, attest.ResidentTPM) || len(r.waivers) > 0 {
		return
	}
	for _, id := range w.identities {
		if id.keysOnDisk {
			p.warn(id.diskAt, codeResidencyContradiction, fmt.Sprintf("workload %s matches only keys that never leave the TPM, and lets this identity's be written to a disk: only its tokens can be", w.name),
				"remove key_residency: file here, or the claim key_residency from match")
		}
	}
}
