package backup_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/backup"
)

var manifest = backup.Manifest{
	CreatedAt: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC), Version: "v1", TrustDomain: "attested.example.org", Server: "main", Database: backup.SQLite,
	Chains: []backup.Chain{{Name: "main", Sequence: 7, Hash: make([]byte, 32)}}, Policy: "prod@3",
}

func sources() []backup.Source {
	return []backup.Source{
		{Path: "data/keys/checkpoint.key", Mode: 0o600, Body: []byte("key")},
		{Path: "data/bootstrap-root.pem", Mode: 0o644, Body: []byte("public")},
		{Path: "data/empty", Mode: 0o600, Body: []byte{}},
		{Path: "config/assayd.yaml", Mode: 0o755, Body: []byte("trust_domain: attested.example.org\n")},
	}
}

func archive(t testing.TB, m backup.Manifest, s ...backup.Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := backup.Write(&b, m, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsArchivedIsExtractedAsItWas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := filepath.Join(t.TempDir(), "assay.db")
	if err := os.WriteFile(big, bytes.Repeat([]byte("page"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	in := append(sources(), backup.Source{Path: "data/assay.db", Mode: 0o600, From: big})
	m, err := backup.Extract(bytes.NewReader(archive(t, manifest, in...)), dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.TrustDomain != "attested.example.org" || len(m.Files) != len(in) || m.Format != backup.Format {
		t.Errorf("the manifest: %+v", m)
	}
	for _, s := range in {
		want := s.Body
		if want == nil {
			want, _ = os.ReadFile(s.From)
		}
		got, err := os.ReadFile(filepath.Join(dir, s.Path))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got) {
			t.Errorf("%s has other content", s.Path)
		}
		info, err := os.Stat(filepath.Join(dir, s.Path))
		if err != nil || info.Mode().Perm() != s.Mode&0o644 {
			t.Errorf("%s has mode %v (%v)", s.Path, info.Mode(), err)
		}
	}
	for _, d := range []string{"data", "data/keys"} {
		info, err := os.Stat(filepath.Join(dir, d))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v (%v)", d, info.Mode(), err)
		}
	}
}

func TestTheSameContentMakesTheSameArchive(t *testing.T) {
	t.Parallel()
	s := sources()
	a := archive(t, manifest, s...)
	s[0], s[2] = s[2], s[0]
	if !bytes.Equal(a, archive(t, manifest, s...)) {
		t.Error("the order of the sources shows")
	}
}

// member is one member of a hand-made archive.
type member struct {
	tar.Header
	body string
}

func rewrite(t testing.TB, in []byte, change func([]member) []member) []byte {
	t.Helper()
	var all []member
	r := tar.NewReader(bytes.NewReader(in))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, member{*h, string(b)})
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range change(all) {
		if m.Typeflag == tar.TypeReg {
			m.Size = int64(len(m.body))
		}
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if m.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(m.body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAnArchiveThatIsNotWholeIsRefusedByName(t *testing.T) {
	t.Parallel()
	good := archive(t, manifest, sources()...)
	edit := func(old, new string) func([]member) []member {
		return func(m []member) []member {
			if !strings.Contains(m[0].body, old) {
				t.Fatalf("the manifest has no %q", old)
			}
			m[0].body = strings.Replace(m[0].body, old, new, 1)
			return m
		}
	}
	for _, c := range []struct {
		name, check string
		change      func([]member) []member
	}{
		{"no manifest", "backup_manifest", func(m []member) []member { return m[1:] }},
		{"nothing at all", "backup_manifest", func([]member) []member { return nil }},
		{"a manifest that is no JSON", "backup_manifest", func(m []member) []member { m[0].body = "{"; return m }},
		{"a manifest with something behind it", "backup_manifest", func(m []member) []member { m[0].body += "{}"; return m }},
		{"an unknown key", "backup_manifest", edit(`"server"`, `"servant"`)},
		{"another format", "backup_manifest", edit(backup.Format, "assay.backup.v9")},
		{"no trust domain", "backup_manifest", edit(`"trust_domain": "attested.example.org"`, `"trust_domain": ""`)},
		{"another database", "backup_manifest", edit(`"sqlite"`, `"oracle"`)},
		{"a name that leaves the directory", "backup_manifest", edit("data/empty", "data/../../empty")},
		{"a name from the root", "backup_manifest", edit("data/empty", "/data/empty")},
		{"a name beside the two directories", "backup_manifest", edit("data/empty", "etc/empty")},
		{"a directory's name", "backup_manifest", edit("data/empty", "data/")},
		{"a name twice", "backup_manifest", edit("data/empty", "data/bootstrap-root.pem")},
		{"a mode with the setuid bit", "backup_manifest", edit(`"mode": 384`, `"mode": 2432`)},
		{"a member that is not listed", "backup_member", func(m []member) []member {
			return append(m, member{tar.Header{Typeflag: tar.TypeReg, Name: "data/more", Mode: 0o600}, "more"})
		}},
		{"a member twice", "backup_member", func(m []member) []member { return append(m, m[len(m)-1]) }},
		{"a symbolic link", "backup_member", func(m []member) []member {
			m[1].Typeflag, m[1].Linkname, m[1].Size = tar.TypeSymlink, "/etc/passwd", 0
			return m
		}},
		{"a member left out", "backup_truncated", func(m []member) []member { return m[:len(m)-1] }},
		{"a byte changed", "backup_digest", func(m []member) []member {
			i := len(m) - 1
			m[i].body = "X" + m[i].body[1:]
			return m
		}},
		{"a byte more", "backup_digest", func(m []member) []member { m[len(m)-1].body += "X"; return m }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := backup.Extract(bytes.NewReader(rewrite(t, good, c.change)), t.TempDir())
			if got := attest.CheckOf(err); got != c.check {
				t.Errorf("%v, want the check %s", err, c.check)
			}
		})
	}
	t.Run("cut off anywhere", func(t *testing.T) {
		t.Parallel()
		for n := 0; n < len(good)-3*512; n += 97 { // the last blocks are three bytes, and that it ends
			if _, err := backup.Extract(bytes.NewReader(good[:n]), t.TempDir()); err == nil {
				t.Fatalf("%d of %d bytes were taken for the whole", n, len(good))
			}
		}
	})
}

func TestAFileThatIsThereIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "empty"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := backup.Extract(bytes.NewReader(archive(t, manifest, sources()...)), dir)
	if attest.CheckOf(err) != "backup_write" {
		t.Errorf("%v, want backup_write", err)
	}
}

func TestAFileThatChangesMeanwhileMakesNoArchive(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &onWrite{do: func() { _ = os.WriteFile(path, []byte("two"), 0o600) }}
	if err := backup.Write(w, manifest, []backup.Source{{Path: "data/f", Mode: 0o600, From: path}}); err == nil {
		t.Error("it was archived")
	}
}

type onWrite struct{ do func() }

func (w *onWrite) Write(p []byte) (int, error) { w.do(); return len(p), nil }

// Whatever the bytes: an error or a whole archive, and no file elsewhere.
func FuzzExtract(f *testing.F) {
	good := archive(f, manifest, sources()...)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(rewrite(f, good, func(m []member) []member { m[0].body = strings.ReplaceAll(m[0].body, "data/", "data/../"); return m }))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Most of what a fuzzer makes ends here, without a file.
		if m, err := backup.ReadManifest(bytes.NewReader(b)); err != nil {
			if m.Format != "" && attest.CheckOf(err) == "" {
				t.Errorf("an error without a check: %v", err)
			}
			return
		}
		dir := t.TempDir()
		into := filepath.Join(dir, "into")
		if err := os.Mkdir(into, 0o700); err != nil {
			t.Fatal(err)
		}
		m, err := backup.Extract(bytes.NewReader(b), into)
		if err == nil {
			n := 0
			_ = filepath.WalkDir(into, func(_ string, d fs.DirEntry, _ error) error {
				if d.Type().IsRegular() {
					n++
				}
				return nil
			})
			if n != len(m.Files) {
				t.Errorf("%d files, the manifest has %d", n, len(m.Files))
			}
		}
		left, rerr := os.ReadDir(dir)
		if rerr != nil || len(left) != 1 {
			t.Errorf("files beside the directory: %v", left)
		}
		if diff := cmp.Diff(err == nil, m.Format == backup.Format); diff != "" {
			t.Errorf("a result and an error: %v %+v", err, m)
		}
	})
}
