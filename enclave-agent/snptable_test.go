package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"testing"

	"github.com/google/go-cmp/cmp"

	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

func TestATableIsSplitAsTheVerifiersToolsSplitIt(t *testing.T) {
	t.Parallel()
	for _, l := range []simsnp.Launch{{}, {CRL: true}, {SigningKey: simsnp.VLEK}} {
		g := launchSNP(simsnp.Genoa, l)
		for _, table := range [][]byte{g.CertTable(), append(g.CertTable(), make([]byte, 4096)...), nil, make([]byte, 4096)} {
			got, err := splitTable(table)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(must(sevsnp.ParseCertTable(table)), got); d != "" {
				t.Error(d)
			}
		}
		if got := must(splitTable(g.CertTable())); !cmp.Equal(g.Endorsements(), got) {
			t.Errorf("%d items, want the guest's %d endorsements", len(got), len(g.Endorsements()))
		}
	}
}

func TestPEMInATableBecomesDER(t *testing.T) {
	t.Parallel()
	e := launchSNP(simsnp.Genoa, simsnp.Launch{}).Endorsements()
	text := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
	table := snpTable(append(text(e[0]), text(e[1])...), append(text(e[2]), 0, 0), nil)
	if d := cmp.Diff(e, must(splitTable(table))); d != "" {
		t.Error(d)
	}
}

func TestWhatATableHasBesidesIsLeftOut(t *testing.T) {
	t.Parallel()
	table := snpTable([]byte("a"), []byte("b"))
	copy(table, bytes.Repeat([]byte{0xee}, 16)) // a vendor's own
	if d := cmp.Diff([][]byte{[]byte("b")}, must(splitTable(table))); d != "" {
		t.Error(d)
	}
}

func TestAStrangeTableIsRefused(t *testing.T) {
	t.Parallel()
	outside := snpTable([]byte("abc"))
	binary.LittleEndian.PutUint32(outside[20:], 4)
	far := snpTable([]byte("abc"))
	binary.LittleEndian.PutUint32(far[16:], 0xffffffff)
	binary.LittleEndian.PutUint32(far[20:], 0xffffffff)
	for name, table := range map[string][]byte{
		"half an entry":         make([]byte, 23)[:5],
		"no end":                snpTable([]byte("abc"))[:snpTableEntry],
		"a certificate outside": outside,
		"an offset outside":     far,
		"too many entries":      snpTable(make([][]byte, maxSNPEntries+1)...),
		"too large":             make([]byte, maxSNPTable+1),
		"text that is no PEM":   snpTable([]byte("-----BEGIN CERTIFICATE")),
		"a key":                 snpTable(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})),
	} {
		if got, err := splitTable(table); err == nil {
			t.Errorf("%s: %d items", name, len(got))
		}
	}
}

func FuzzSplitTable(f *testing.F) {
	f.Add(launchSNP(simsnp.Genoa, simsnp.Launch{CRL: true}).CertTable())
	f.Add(snpTable([]byte("a"), []byte("-----BEGIN ")))
	f.Add(make([]byte, 30))
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := splitTable(b)
		if err != nil && items != nil {
			t.Fatal("a result and an error")
		}
		size := 0
		for _, i := range items {
			size += len(i)
		}
		if size > (maxSNPEntries+1)*len(b) {
			t.Fatalf("%d bytes from %d", size, len(b))
		}
	})
}
