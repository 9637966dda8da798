package agent

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/vectors"
)

// recordedSNP is a report of a real machine, with the certificate of its key.
type recordedSNP struct {
	name   string
	report snpReport
	leaf   []byte
	vlek   bool
	line   string // as the KDS writes it
	tcb    snpTCB
	table  []byte // nil where none was recorded
}

func recordedSNPs(t *testing.T) []recordedSNP {
	t.Helper()
	var out []recordedSNP
	for _, v := range vectors.Load(t, "sevsnp") {
		if v.VerificationTime == nil {
			continue // the roots
		}
		var want struct {
			SigningKey string `json:"signing_key"`
			Product    string `json:"kds_product"`
			TCB        struct {
				FMC *int `json:"fmc"`
				BL  int  `json:"bootloader"`
				TEE int  `json:"tee"`
				SNP int  `json:"snp"`
				U   int  `json:"microcode"`
			} `json:"tcb"`
		}
		if err := json.Unmarshal(v.Expect, &want); err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(want.Product, "-") // "Milan-B0"
		r := recordedSNP{
			name: path.Base(v.Name), report: v.Read(t, "report.bin"), leaf: v.Read(t, strings.ToLower(want.SigningKey)+".der"),
			vlek: want.SigningKey == "VLEK", line: line, tcb: snpTCB{bl: want.TCB.BL, tee: want.TCB.TEE, snp: want.TCB.SNP, ucode: want.TCB.U},
		}
		if want.TCB.FMC != nil {
			r.tcb.fmc = *want.TCB.FMC
		}
		if slices.ContainsFunc(v.Files, func(f string) bool { return path.Base(f) == "auxblob.bin" }) {
			r.table = v.Read(t, "auxblob.bin")
		}
		out = append(out, r)
	}
	if len(out) < 20 {
		t.Fatalf("%d recordings, expected at least 20", len(out))
	}
	return out
}

func TestTheCertificateOfARealMachineFitsItsReportAndNoOther(t *testing.T) {
	t.Parallel()
	all := recordedSNPs(t)
	for _, r := range all {
		if r.report.signedByVCEK() == r.vlek {
			t.Errorf("%s: signed by a VCEK: %t", r.name, r.report.signedByVCEK())
		}
		lines := r.report.lines()
		i := slices.IndexFunc(lines, func(l snpLine) bool { return l.name == r.line })
		if i < 0 || r.report.version() >= 3 && len(lines) != 1 {
			t.Errorf("%s: of %v, want %s", r.name, lines, r.line)
			continue
		}
		if d := cmp.Diff(r.tcb, r.report.levels(lines[i]), cmp.AllowUnexported(snpTCB{})); d != "" {
			t.Errorf("%s: %s", r.name, d)
		}
		if r.vlek {
			continue
		}
		for _, other := range all {
			same := cmp.Equal(other.report.chipID(), r.report.chipID()) && other.report.tcb() == r.report.tcb() && !other.vlek
			if err := r.report.fits(other.leaf); same != (err == nil) {
				t.Errorf("the report %s and the certificate of %s: %v", r.name, other.name, err)
			}
		}
	}
}

func TestTheTableOfARealHostHoldsTheCertificate(t *testing.T) {
	t.Parallel()
	n := 0
	for _, r := range recordedSNPs(t) {
		if r.table == nil {
			continue
		}
		n++
		items, err := splitTable(r.table)
		if err != nil || !slices.ContainsFunc(items, func(der []byte) bool { return r.report.fits(der) == nil }) {
			t.Errorf("%s: %d items, %v", r.name, len(items), err)
		}
	}
	if n == 0 {
		t.Error("no recording has a table")
	}
}
