package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

func TestEndorsementsLieBesideTheEvidenceAndReadBackAsTheyWere(t *testing.T) {
	chip, err := snpAuthority(t).Chip(simsnp.Milan, "a chip")
	check(t, err)
	guest, err := chip.Launch(simsnp.Launch{CRL: true})
	check(t, err)
	want := guest.Endorsements()
	file := filepath.Join(t.TempDir(), "report.bin")
	var warned []string
	beside, err := writeEvidence(file, []byte("a report"), append(want, []byte("neither")), &warned)
	check(t, err)
	if beside == nil || len(warned) != 1 {
		t.Fatalf("file %v, warnings %q", beside, warned)
	}
	body, err := os.ReadFile(file)
	check(t, err)
	text, err := os.ReadFile(*beside)
	check(t, err)
	es, err := parseEndorsements("x", text)
	check(t, err)
	var got [][]byte
	for _, e := range es {
		got = append(got, e.raw)
	}
	if string(body) != "a report" || !slices.EqualFunc(got, want, slices.Equal[[]byte]) {
		t.Errorf("%d endorsements, want %d", len(got), len(want))
	}
}

func TestEvidenceWithoutEndorsementsIsOneFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "document.cbor")
	beside, err := writeEvidence(file, []byte("a document"), nil, new([]string))
	check(t, err)
	files, err := filepath.Glob(file + "*")
	check(t, err)
	if beside != nil || len(files) != 1 {
		t.Errorf("%v, %v", beside, files)
	}
}
