package sevsnp

import (
	"bytes"
	"testing"

	"github.com/google/go-sev-guest/abi"
)

func TestTheLibraryFindsEveryCertificateInTheTable(t *testing.T) {
	a := testAuthority(t)
	for _, k := range []SigningKey{VCEK, VLEK} {
		g := testGuest(t, testChip(t, a, Turin), Launch{SigningKey: k, CRL: true})
		var table abi.CertTable
		if err := table.Unmarshal(g.CertTable()); err != nil {
			t.Fatal(err)
		}
		leaf := abi.VcekGUID
		if k == VLEK {
			leaf = abi.VlekGUID
		}
		want := g.Endorsements()
		if len(table.Entries) != len(want) || len(want) != 4 {
			t.Fatalf("%d entries for %d endorsements", len(table.Entries), len(want))
		}
		for i, guid := range []string{leaf, abi.AskGUID, abi.ArkGUID, guidCRL} {
			if got, err := table.GetByGUIDString(guid); err != nil || !bytes.Equal(got, want[i]) {
				t.Errorf("%s: entry %s: %v", k, guid, err)
			}
		}
	}
}

func TestAGuestWithoutACRLHasNone(t *testing.T) {
	g := testGuest(t, testChip(t, testAuthority(t), Milan), Launch{})
	if n := len(g.Endorsements()); n != 3 {
		t.Errorf("%d endorsements, want 3", n)
	}
}
