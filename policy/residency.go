package policy

import (
	"fmt"

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
