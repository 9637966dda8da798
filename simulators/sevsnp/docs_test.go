package sevsnp

import (
	"os"
	"strings"
	"testing"
)

// The specification names everything that can be asked for.
func TestTheSpecificationNamesEveryKDSFaultAndEveryGUID(t *testing.T) {
	kds, err := os.ReadFile("../../docs/spec/snp-kds.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range KDSFaults() {
		if !strings.Contains(string(kds), "`"+f.Name+"`") {
			t.Errorf("docs/spec/snp-kds.md does not name fault %s", f.Name)
		}
	}
	socket, err := os.ReadFile("../../docs/spec/snp-socket.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []string{guidVCEK, guidVLEK, guidASK, guidARK, guidCRL} {
		if !strings.Contains(string(socket), g) {
			t.Errorf("docs/spec/snp-socket.md does not name GUID %s", g)
		}
	}
}
