package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/replay"
)

// FuzzReplayedFile: whatever a file holds, each value in it is a record that was
// judged, or one that is named as unreadable; nothing panics.
func FuzzReplayedFile(f *testing.F) {
	_, source := replayWorld(f)
	draft, err := policy.Parse("policy.yaml", []byte(source))
	check(f, err)
	for _, s := range []string{
		`{"platform":"aws-nitro","nitro":{"module_id":"i-1","pcrs":{"0":"00"}}}`,
		`{"verified":true,"at":"2026-11-20T12:00:00Z","claims":{"platform":"amd-sev-snp","snp":{"report_id":"01","chip_id":"02"}}}`,
		`{"verified":false,"claims":null}`, `{"entry":{}}{"entry":null}`, `{"platform":"tpm2","tpm":{"ek":"aa","boot":{}}}`,
		`{"entry":{"version":1,"outcome":"denied","tee":"aws-nitro","instance":"aws-nitro:i-1","policy":{"digest":"00"},"claims":{"platform":"aws-nitro","nitro":{"module_id":"i-1"}},"decision":{"outcome":"denied"}}}`,
		"{", "{}", "{} x", "text", "", "\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		check(t, os.WriteFile(filepath.Join(dir, "file.json"), content, 0o600))
		d := &dirRecords{cmd: &cobra.Command{}, dir: dir, now: time.Unix(0, 0)}
		items := 0
		counted := func(yield func(replay.Item, error) bool) {
			for i, err := range d.records(t.Context(), time.Time{}, time.Time{}, &meter{}) {
				items++
				if !yield(i, err) {
					return
				}
			}
		}
		r, err := replay.Run(t.Context(), counted, replay.Options{Draft: draft, At: time.Unix(0, 0), Workers: 1})
		check(t, err)
		if r.Attestations+r.Unreadable != uint64(items) {
			t.Errorf("%d items, %d judged and %d unreadable", items, r.Attestations, r.Unreadable)
		}
		for _, b := range r.Bad {
			if len(b.Error) > 0 && filepath.Base(b.Record)[:9] != "file.json" {
				t.Errorf("named %q", b.Record)
			}
		}
	})
}
