package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/policy/replay"
)

// dirRecords reads files. What a file holds is found by parsing:
//
//	JSON  records as `ledger list` and `ledger show` write them, payloads of the
//	      ledger, claims as `evidence verify` writes them or alone; one value, or
//	      any number one after the other
//	else  evidence, which is verified; FILE.endorsements.pem and FILE.ak.pem beside
//	      it are what `ledger show --evidence` writes
type dirRecords struct {
	cmd   *cobra.Command
	dir   string
	tee   *tee // of evidence; nil: it is not known
	roots string
	at    time.Time // verify all evidence then; zero: at the time that it names
	now   time.Time
}

func (f *replaySourceFlags) openDir(c *cobra.Command, now time.Time) (replaySource, error) {
	info, err := os.Stat(f.dir)
	if err != nil {
		return nil, cli.Usagef(fileHint(err), "--dir %s", clean(err))
	}
	if !info.IsDir() {
		return nil, cli.Usagef("name the directory that it is in", "--dir %s is no directory", f.dir)
	}
	d := &dirRecords{cmd: c, dir: f.dir, roots: f.roots, at: f.verifyAt.Time, now: now}
	if c.Flags().Changed("tee") {
		t, err := f.platform()
		if err != nil {
			return nil, err
		}
		d.tee = &t
	} else if f.roots != "" {
		return nil, cli.Usagef("which platform made the evidence?", "--roots needs --tee")
	}
	return d, nil
}

func (d *dirRecords) name() string                                { return d.dir }
func (d *dirRecords) Close() error                                { return nil }
func (d *dirRecords) trustDomain(context.Context) (string, error) { return "", nil }

func (d *dirRecords) document(context.Context, [32]byte) ([]byte, error) { return nil, errNotFound }

func (d *dirRecords) inForce(context.Context) ([]byte, string, error) {
	return nil, "", cli.Usagef("name a file with --against FILE", "a directory has no policy in force")
}

// companions are files that belong to another.
var companions = []string{".endorsements.pem", ".ak.pem"}

func (d *dirRecords) records(_ context.Context, _, _ time.Time, m *meter) replay.Source {
	return func(yield func(replay.Item, error) bool) {
		err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return cli.Usagef(fileHint(err), "%s", clean(err))
			}
			if !e.Type().IsRegular() {
				if e.Type()&fs.ModeSymlink != 0 && !yield(unreadableItem(path, errors.New("a symbolic link: links are not followed")), nil) {
					return fs.SkipAll
				}
				return nil
			}
			for _, s := range companions {
				if strings.HasSuffix(path, s) {
					return nil
				}
			}
			for item, err := range d.file(path) {
				m.add()
				if !yield(item, err) {
					return fs.SkipAll
				}
			}
			return nil
		})
		if err != nil {
			yield(replay.Item{}, err)
		}
	}
}

func unreadableItem(name string, err error) replay.Item {
	return replay.Item{Name: name, Decode: func() (replay.Record, error) { return replay.Record{}, err }}
}

// maxFileValue bounds one value in a file of many.
const maxFileValue = 8 << 20

// file yields what one file holds.
func (d *dirRecords) file(path string) replay.Source {
	return func(yield func(replay.Item, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(unreadableItem(path, errors.New(clean(err))), nil)
			return
		}
		defer func() { _ = f.Close() }() // only read
		head := make([]byte, 512)
		n, err := io.ReadFull(f, head)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			yield(unreadableItem(path, errors.New(clean(err))), nil)
			return
		}
		start := io.MultiReader(bytes.NewReader(head[:n]), f)
		if !bytes.HasPrefix(bytes.TrimLeft(head[:n], " \t\r\n"), []byte("{")) {
			yield(replay.Item{Name: path, Decode: func() (replay.Record, error) { return d.evidence(path) }}, nil)
			return
		}
		// A value that is larger than any of ours must not fill the memory.
		bounded := &io.LimitedReader{R: start, N: maxFileValue}
		values := json.NewDecoder(bounded)
		for i := 1; ; i++ {
			var raw json.RawMessage
			err := values.Decode(&raw)
			if errors.Is(err, io.EOF) {
				return
			}
			name := path
			if i > 1 || values.More() {
				name = fmt.Sprintf("%s#%d", path, i)
			}
			if err != nil {
				// What follows cannot be told apart any more.
				yield(unreadableItem(name, fmt.Errorf("neither JSON nor a record: %w", err)), nil)
				return
			}
			bounded.N = maxFileValue
			if noAttestation(raw) {
				continue
			}
			if !yield(replay.Item{Name: name, Decode: func() (replay.Record, error) { return d.value(path, name, raw) }}, nil) {
				return
			}
		}
	}
}

// noAttestation reports whether a value is a record of another kind, or a checkpoint,
// by its own word: lists and exports of the ledger hold them beside issuances.
func noAttestation(raw []byte) bool {
	var outer struct {
		Outcome string `json:"outcome"`
		Entry   *struct {
			Outcome string `json:"outcome"`
		} `json:"entry"`
	}
	if json.Unmarshal(raw, &outer) != nil {
		return false
	}
	if outer.Entry != nil { // what was hashed counts, not what stands around it
		return outer.Entry.Outcome == ledger.Minted || outer.Entry.Outcome == ledger.Admin
	}
	return outer.Outcome == "checkpoint" || outer.Outcome == ledger.Minted || outer.Outcome == ledger.Admin
}

// value reads one JSON value.
func (d *dirRecords) value(path, name string, raw []byte) (replay.Record, error) {
	var outer struct {
		Entry    json.RawMessage `json:"entry"`
		Decision json.RawMessage `json:"decision"`
		Policy   json.RawMessage `json:"policy"`
		Chain    *string         `json:"chain"`
		At       time.Time       `json:"at"`
		Verified *bool           `json:"verified"`
		Claims   json.RawMessage `json:"claims"`
		Platform *string         `json:"platform"`
	}
	if err := json.Unmarshal(raw, &outer); err != nil {
		return replay.Record{}, err
	}
	switch {
	case outer.Entry != nil:
		r, _, err := recordOfPayload(outer.Entry)
		return r, err
	case outer.Chain != nil && outer.Decision != nil && outer.Policy != nil:
		r, _, err := recordOfPayload(raw)
		return r, err
	case outer.Claims == nil && outer.Platform == nil:
		return d.evidence(path) // JSON that is no value of ours: a TPM's evidence
	case outer.Verified != nil && !*outer.Verified && (outer.Claims == nil || string(outer.Claims) == "null"):
		return replay.Record{}, errors.New("the evidence was refused: there are no claims")
	case outer.Verified != nil && !*outer.Verified:
		return replay.Record{}, errors.New("its claims are not verified")
	}
	claims, err := readClaims(raw)
	if err != nil {
		return replay.Record{}, err
	}
	if claims == nil {
		return replay.Record{}, errors.New("neither a record nor claims")
	}
	return d.claimed(name, path, *claims, outer.At), nil
}

// claimed is a record of claims alone: it has the name of its file, and the time
// of its verification, its evidence or its file, whatever there is.
func (d *dirRecords) claimed(name, path string, c attest.Claims, at time.Time) replay.Record {
	when := at
	if when.IsZero() {
		when = c.EvidenceTime()
	}
	if info, err := os.Stat(path); err == nil && when.IsZero() {
		when = info.ModTime()
	}
	rel, err := filepath.Rel(d.dir, name)
	return replay.Record{Reference: cmp.Or(map[bool]string{true: rel}[err == nil], name), Time: when.UTC(), Claims: c}
}

// evidence verifies a file at the time that was asked for, or that it says it was
// made, as recorded evidence is; one that says none, now.
func (d *dirRecords) evidence(path string) (replay.Record, error) {
	if d.tee == nil {
		return replay.Record{}, errors.New("no record and no claims in JSON; to read it as evidence, say of which platform with --tee")
	}
	raw, err := readInput(d.cmd, path)
	if err != nil {
		return replay.Record{}, err
	}
	v := verification{tee: *d.tee, at: d.now}
	if !d.at.IsZero() {
		v.at = d.at
	} else if ev, err := d.tee.normalize(raw); err == nil {
		ev.Endorsements = nil
		if seen, err := d.tee.inspect(ev); err == nil && !seen.time.IsZero() {
			v.at = seen.time.UTC()
		}
	}
	var o opening
	if ak := path + ".ak.pem"; d.tee.platform == attest.TPM2 && exists(ak) {
		if o.tpm, err = (&tpmFlags{aks: []string{ak}, log: &eventLogValue{}}).read(d.cmd, *d.tee); err != nil {
			return replay.Record{}, err
		}
	}
	if err := v.openRoots(d.cmd, d.roots, o); err != nil {
		return replay.Record{}, err
	}
	if beside := path + ".endorsements.pem"; exists(beside) {
		if v.endorsements, err = readEndorsements(d.cmd, []string{beside}); err != nil {
			return replay.Record{}, err
		}
	}
	result := v.run(d.cmd.Context(), raw)
	if result.err != nil {
		return replay.Record{}, result.err
	}
	return d.claimed(path, path, *result.Claims, v.at), nil
}

func exists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// record looks through all files: a directory has no index.
func (d *dirRecords) record(ctx context.Context, reference string) (replay.Record, error) {
	for item, err := range d.records(ctx, time.Time{}, time.Time{}, &meter{}) {
		if err != nil {
			return replay.Record{}, err
		}
		if r, err := item.Decode(); err == nil && r.Reference == reference {
			return r, nil
		}
	}
	return replay.Record{}, errNotFound
}
