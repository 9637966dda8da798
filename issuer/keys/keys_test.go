package keys

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/assay-project/assay/attest"
)

func newDir(t *testing.T) *Dir {
	t.Helper()
	d, err := MakeDir(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func equal(a, b crypto.Signer) bool {
	k, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b.Public())
}

func TestAKeyThatWasCreatedIsTheOneThatIsLoaded(t *testing.T) {
	d, ctx := newDir(t), context.Background()
	for _, alg := range []Algorithm{P256, Ed25519} {
		name := "a-" + strings.ToLower(strings.ReplaceAll(alg.String(), "-", ""))
		made, err := d.Create(ctx, name, alg)
		if err != nil {
			t.Fatal(err)
		}
		if !alg.Is(made.Public()) {
			t.Errorf("%v: made a %T", alg, made.Public())
		}
		got, err := d.Get(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if !equal(made, got) {
			t.Errorf("%v: loaded another key than was made", alg)
		}
		info, err := os.Stat(d.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("mode %v, want 0600", info.Mode())
		}
		if _, err := d.Create(ctx, name, alg); !errors.Is(err, fs.ErrExist) {
			t.Errorf("second Create: %v, want fs.ErrExist", err)
		}
		if again, err := d.Get(ctx, name); err != nil || !equal(made, again) {
			t.Errorf("the second Create changed the key (%v)", err)
		}
	}
	names, err := d.Names(ctx)
	if err != nil || len(names) != 2 {
		t.Errorf("Names = %v, %v", names, err)
	}
}

func TestEveryUnsafeKeyFileIsRefusedForItsOwnReason(t *testing.T) {
	tests := []struct {
		name, check string
		spoil       func(t *testing.T, path string)
	}{
		{"missing", "key_file", func(t *testing.T, p string) { must(t, os.Remove(p)) }},
		{"readable by the group", "key_mode", func(t *testing.T, p string) { must(t, os.Chmod(p, 0o640)) }},
		{"writable by others", "key_mode", func(t *testing.T, p string) { must(t, os.Chmod(p, 0o602)) }},
		{"a symbolic link", "key_file", func(t *testing.T, p string) {
			must(t, os.Rename(p, p+".elsewhere"))
			must(t, os.Symlink(p+".elsewhere", p))
		}},
		{"a directory", "key_file", func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, os.Mkdir(p, 0o700)) }},
		{"a FIFO", "key_file", func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, syscall.Mkfifo(p, 0o600)) }},
		{"too large", "key_file", func(t *testing.T, p string) { must(t, os.WriteFile(p, make([]byte, maxFile+1), 0o600)) }},
		{"empty", "key_parse", func(t *testing.T, p string) { must(t, os.WriteFile(p, nil, 0o600)) }},
		{"cut off", "key_parse", func(t *testing.T, p string) { must(t, os.Truncate(p, 60)) }},
		{"two keys", "key_parse", func(t *testing.T, p string) {
			b, err := os.ReadFile(p)
			must(t, err)
			must(t, os.WriteFile(p, append(b, b...), 0o600))
		}},
		{"another PEM type", "key_parse", func(t *testing.T, p string) {
			b, err := os.ReadFile(p)
			must(t, err)
			must(t, os.WriteFile(p, bytes.ReplaceAll(b, []byte("PRIVATE KEY"), []byte("EC PRIVATE KEY")), 0o600))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, ctx := newDir(t), context.Background()
			if _, err := d.Create(ctx, "x", P256); err != nil {
				t.Fatal(err)
			}
			tt.spoil(t, d.Path("x"))
			key, err := d.Get(ctx, "x")
			if err == nil || key != nil {
				t.Fatalf("Get = %v, %v: want no key and an error", key, err)
			}
			if got := attest.CheckOf(err); got != tt.check {
				t.Errorf("check %q, want %q: %v", got, tt.check, err)
			}
			var e *attest.Error
			if errors.As(err, &e) && e.Hint == "" {
				t.Errorf("no hint: %v", err)
			}
		})
	}
}

func TestAKeyOfAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED WITHOUT ROOT: only root can give a file away")
	}
	d, ctx := newDir(t), context.Background()
	if _, err := d.Create(ctx, "x", P256); err != nil {
		t.Fatal(err)
	}
	must(t, os.Chown(d.Path("x"), 65534, 65534))
	if _, err := d.Get(ctx, "x"); attest.CheckOf(err) != "key_owner" {
		t.Errorf("got %v, want check key_owner", err)
	}
}

func TestAKeyOfAnotherAlgorithmIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.key")
	if _, err := LoadOrCreate(path, false, P256); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing, not to be created: %v", err)
	}
	made, err := LoadOrCreate(path, true, P256)
	must(t, err)
	again, err := LoadOrCreate(path, true, P256)
	must(t, err)
	if !equal(made, again) {
		t.Error("the second LoadOrCreate made another key")
	}
	if _, err := LoadOrCreate(path, true, Ed25519); attest.CheckOf(err) != "key_type" {
		t.Errorf("got %v, want check key_type", err)
	}
}

func TestADirectoryOpenToOthersIsRefused(t *testing.T) {
	parent := t.TempDir()
	p := filepath.Join(parent, "keys")
	if _, err := OpenDir(p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	must(t, os.Mkdir(p, 0o700))
	must(t, os.Chmod(p, 0o750))
	if _, err := MakeDir(p); attest.CheckOf(err) != "key_mode" {
		t.Errorf("mode 0750: %v", err)
	}
	must(t, os.Chmod(p, 0o700))
	must(t, os.Symlink(p, filepath.Join(parent, "link")))
	if _, err := OpenDir(filepath.Join(parent, "link")); attest.CheckOf(err) != "key_dir" {
		t.Errorf("symbolic link: %v", err)
	}
}

func TestNamesThatCouldLeaveTheDirectoryAreRefused(t *testing.T) {
	d := newDir(t)
	for _, name := range []string{"", "../x", "a/b", "A", "-a", "a.b", "a\x00", strings.Repeat("a", 65)} {
		if _, err := d.Create(context.Background(), name, P256); err == nil {
			t.Errorf("Create(%q) succeeded", name)
		}
		if _, err := d.Get(context.Background(), name); err == nil {
			t.Errorf("Get(%q) succeeded", name)
		}
	}
}

func TestACrashWhileAKeyIsWrittenLeavesNoKeyOrTheWholeKey(t *testing.T) {
	for _, step := range []string{stepOpened, stepSynced, stepNamed} {
		t.Run(step, func(t *testing.T) {
			d := newDir(t)
			key, err := P256.generate()
			must(t, err)
			body := pemOf(t, key)
			err = writeFile(d.Path("x"), body, 0o600, Refuse, func(s string) error {
				if s == step {
					return errCrash
				}
				return nil
			})
			if !errors.Is(err, errCrash) {
				t.Fatalf("the crash did not happen: %v", err)
			}
			got, err := d.Get(context.Background(), "x")
			switch {
			case step == stepNamed && (err != nil || !equal(got, key)):
				t.Errorf("after %q the key should be there: %v", step, err)
			case step != stepNamed && !errors.Is(err, fs.ErrNotExist):
				t.Errorf("after %q there should be no key: %v", step, err)
			}
			must(t, d.Sweep())
			left, err := filepath.Glob(filepath.Join(d.path, ".*"))
			if err != nil || len(left) != 0 {
				t.Errorf("Sweep left %v (%v)", left, err)
			}
			if step != stepNamed {
				if _, err := d.Create(context.Background(), "x", P256); err != nil {
					t.Errorf("the next start cannot create the key: %v", err)
				}
			}
		})
	}
}

func TestReplaceExchangesTheWholeFile(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	must(t, WriteFile(p, []byte("old"), 0o600, Refuse))
	if err := WriteFile(p, []byte("new"), 0o600, Refuse); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Refuse: %v", err)
	}
	must(t, WriteFile(p, []byte("new"), 0o644, Replace))
	b, err := os.ReadFile(p)
	if err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
	left, err := os.ReadDir(filepath.Dir(p))
	if err != nil || len(left) != 1 {
		t.Errorf("files left behind: %v %v", left, err)
	}
}

func FuzzParseKey(f *testing.F) {
	key, err := P256.generate()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pemOf(f, key))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, err := parseKey(b); (key == nil) == (err == nil) {
			t.Fatalf("parseKey = %v, %v: want a key or an error", key, err)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
