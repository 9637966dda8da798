package main

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
)

// tpmCorpus is every file of the fixtures and, where there are recordings, of those.
func tpmCorpus(f *testing.F) {
	f.Helper()
	dir := f.TempDir()
	tpmFixtures(f, dir)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	check(f, err)
	if os.Getenv(vectors.Env) != "" {
		for _, tee := range []string{"tpm", "azure"} {
			for _, v := range vectors.Load(f, tee) {
				for _, name := range v.Files {
					if path.Base(name) != "eventlog.bin" {
						files = append(files, v.Path(name))
					}
				}
			}
		}
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		check(f, err)
		f.Add(b)
	}
	f.Add([]byte("r::"))
	f.Add([]byte(`{"Quote":{"Quote":"","Signature":""},"AK":{"Public":""},"Log":{"PCRs":[{"Index":-1}]}}`))
	f.Add([]byte(`{"tpm_quote":{"message":[256]}}`))
}

// Whatever a file holds: no panic, an error that says what is wrong or evidence that
// can be written, read again and inspected.
func FuzzTPMFiles(f *testing.F) {
	tpmCorpus(f)
	key := newSoftTPM(f).key.Public()
	f.Fuzz(func(t *testing.T, raw []byte) {
		if ev, err := tpmNormalize(raw); err == nil {
			again(t, ev)
		} else if attest.KindOf(err) != attest.Malformed {
			t.Fatalf("normalize: %v", err)
		}
		if in, err := readForeign(raw); err == nil {
			if in.key == nil && in.area == nil && in.akCert == nil {
				in.key = key
			}
			var warnings []string
			if e, err := in.evidence(&warnings); err == nil {
				if ev, err := e.evidence(); err == nil {
					again(t, ev)
				}
			} else if attest.KindOf(err) != attest.Malformed {
				t.Fatalf("import: %v", err)
			}
		} else if attest.KindOf(err) != attest.Malformed {
			t.Fatalf("foreign: %v", err)
		}
		if r, err := readRegisters(raw); err == nil {
			_, _ = r.of(tpmBank{Bank: "sha256", PCRs: []int{0, 7, 23}})
		}
		if k, area, err := parseAK(raw); err == nil {
			if _, err := akPEM(k); err != nil {
				t.Fatalf("a key that cannot be written: %v", err)
			}
			if area != nil && !bytes.Contains(raw, area) {
				t.Fatal("an area that is not in the file")
			}
		}
		_, _ = parseTPMQuote(raw)
		_, _ = tpmSignature(raw, key)
		_, _ = quoteSigner(raw)
	})
}

// again writes evidence as JSON, and reads the same from it.
func again(t *testing.T, ev attest.Evidence) {
	t.Helper()
	if _, err := tpmInspect(ev); err != nil {
		t.Fatalf("inspect: %v", err)
	}
	e, err := ofEvidence(ev)
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.file()
	if err != nil {
		t.Fatal(err)
	}
	back, err := tpmNormalize(out)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%s", err, out)
	}
	// A body may name a log that is not there, or another; JSON holds log and digest
	// together.
	if len(ev.EventLog) > 0 && !bytes.Equal(back.EventLog, ev.EventLog) {
		t.Fatal("another event log")
	}
	a, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		t.Fatal(err)
	}
	b, err := attest.DecodeTPMEvidence(back.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Quote, b.Quote) || !bytes.Equal(a.Signature, b.Signature) || len(a.PCRs) != len(b.PCRs) || len(ev.Endorsements) != len(back.Endorsements) {
		t.Fatal("what was read differs from what was written")
	}
}
