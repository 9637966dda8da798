package agent

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

// docs/spec/binding.md prints the first test vector once more, for an SEV-SNP
// guest.
func TestTheReportDataAreThoseOfThePublishedVector(t *testing.T) {
	t.Parallel()
	var file struct {
		Vectors []struct {
			TrustDomain string       `json:"trust_domain"`
			ServerID    string       `json:"server_id"`
			Exporter    attest.Bytes `json:"exporter"`
			Nonce       attest.Bytes `json:"nonce"`
			Purpose     string       `json:"purpose"`
			Keys        []struct {
				SPKI attest.Bytes `json:"spki"`
			} `json:"keys"`
		} `json:"vectors"`
	}
	if err := json.Unmarshal(must(os.ReadFile("../docs/spec/binding-vector.json")), &file); err != nil {
		t.Fatal(err)
	}
	v := file.Vectors[0]
	b, err := attest.Challenge{
		Platform: attest.AMDSEVSNP, TrustDomain: v.TrustDomain, ServerID: v.ServerID, Exporter: [32]byte(v.Exporter),
		Nonce: attest.Nonce(v.Nonce), Purpose: attest.Purpose(v.Purpose), Keys: []attest.BoundKey{{SPKI: v.Keys[0].SPKI}},
	}.Binding()
	if err != nil {
		t.Fatal(err)
	}
	data := reportData(b.B, snpReportTag)
	page := string(must(os.ReadFile("../docs/spec/binding.md")))
	printed := regexp.MustCompile(`(?s)tee = amd-sev-snp.*?REPORT_DATA = ([0-9a-f]+)\s+([0-9a-f]+)\n`).FindStringSubmatch(page)
	if printed == nil {
		t.Fatalf("the page prints no vector; REPORT_DATA = %x", data)
	}
	if got := printed[1] + printed[2]; got != hex.EncodeToString(data[:]) {
		t.Errorf("the page prints\n%s, want\n%x", got, data)
	}
	if !strings.Contains(page, hex.EncodeToString(data[32:])+"\n\nIt says") {
		t.Error("the page prints another constant")
	}
}
