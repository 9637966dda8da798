package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// memory is a directory on a tmpfs.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "files")
	if err != nil || !InMemory(dir) {
		t.Fatalf("these tests need a tmpfs on /dev/shm: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// disk is a directory that is on none.
func disk(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{"", "/var/tmp", "."} {
		dir, err := os.MkdirTemp(parent, "files")
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if dir, err = filepath.Abs(dir); err == nil && !InMemory(dir) {
			return dir
		}
	}
	t.Fatal("these tests need a disk")
	return ""
}

func open(t *testing.T, path string, o Options) *Dir {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func put(t *testing.T, d *Dir, set ...File) bool {
	t.Helper()
	changed, err := d.Put(set)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// names are what is in a directory, without the names of sets.
func names(t *testing.T, dir string) (out []string, sets int) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if strings.HasPrefix(e.Name(), "..set-") {
			sets++
			continue
		}
		if e.Name() == lockName {
			continue
		}
		out = append(out, e.Name())
	}
	return out, sets
}

func pair(v string) []File {
	return []File{{Name: "svid.pem", Content: []byte("cert " + v)}, {Name: "svid.key", Content: []byte("key " + v), Secret: true}}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestADirectoryOnADiskIsRefusedAndNotMade(t *testing.T) {
	on := disk(t)
	for _, path := range []string{on, filepath.Join(on, "a"), filepath.Join(on, "a", "b")} {
		if d, err := Open(path, Options{}); !errors.Is(err, ErrDisk) {
			t.Errorf("%s: %v, %v", path, d, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(on, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a directory was made on the disk")
	}
	// A link from memory onto a disk is a disk.
	link := filepath.Join(memory(t), "link")
	if err := os.Symlink(on, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(link, Options{}); !errors.Is(err, ErrDisk) {
		t.Errorf("a link onto a disk: %v", err)
	}
	d := open(t, filepath.Join(on, "a"), Options{OnDiskUnsafe: true})
	if !d.OnDisk() {
		t.Error("it does not know that it is on a disk")
	}
	if open(t, filepath.Join(memory(t), "a"), Options{OnDiskUnsafe: true}).OnDisk() {
		t.Error("memory counts as a disk")
	}
}

func TestADirectoryThatOthersCanChangeIsRefused(t *testing.T) {
	for _, mode := range []fs.FileMode{0o777, 0o1777, 0o775, 0o702} {
		dir := filepath.Join(memory(t), "d")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode&0o777|(mode&0o1000)<<11)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); !errors.Is(err, ErrPermission) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if os.Getuid() != 0 {
		t.Log("NOT TESTED: a directory of another user (needs root)")
		return
	}
	dir := memory(t)
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrPermission) {
		t.Errorf("of another user: %v", err)
	}
}

func TestModesThatLetStrangersReadSecretsAreRefused(t *testing.T) {
	for _, mode := range []fs.FileMode{0o644, 0o604, 0o660, 0o700, 0o200, 0o4600} {
		if _, err := Open(memory(t), Options{KeyMode: mode}); !errors.Is(err, ErrMode) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := Open(memory(t), Options{Mode: 0o666}); err == nil {
		t.Error("certificates that others can write")
	}
}

func TestFilesHaveTheirModeAndOwner(t *testing.T) {
	o := Options{KeyMode: 0o440}
	if os.Getuid() == 0 {
		o.Owner = &Owner{12345, 23456}
	} else {
		t.Log("NOT TESTED: another owner (needs root)")
	}
	dir := filepath.Join(memory(t), "d")
	d := open(t, dir, o)
	put(t, d, pair("1")...)
	if err := d.Replace(File{Name: "token", Secret: true, Content: []byte("t")}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"svid.pem": 0o644, "svid.key": 0o440, "token": 0o440} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), want)
		}
		if st := info.Sys().(*syscall.Stat_t); o.Owner != nil && (st.Uid != 12345 || st.Gid != 23456) {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	switch {
	case o.Owner == nil && info.Mode().Perm() != 0o700:
		t.Errorf("the directory has mode %o", info.Mode().Perm())
	case o.Owner != nil && (info.Mode().Perm() != 0o750 || st.Uid != 0 || st.Gid != 23456): // it can enter, and change nothing
		t.Errorf("the directory has mode %o and belongs to %d:%d", info.Mode().Perm(), st.Uid, st.Gid)
	}
}

func TestASetTakesThePlaceOfTheOneBeforeWhole(t *testing.T) {
	dir := memory(t)
	d := open(t, dir, Options{})
	if !put(t, d, pair("1")...) || put(t, d, pair("1")...) {
		t.Error("a first set changes something, and the same again does not")
	}
	first, err := filepath.EvalSymlinks(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, d, pair("2")...)
	if got := read(t, dir, "svid.pem") + read(t, dir, "svid.key"); got != "cert 2key 2" {
		t.Errorf("read %q", got)
	}
	// Who resolved the set a moment ago still reads what belongs together.
	if got := read(t, first, "svid.pem") + read(t, first, "svid.key"); got != "cert 1key 1" {
		t.Errorf("the set before reads %q", got)
	}
	put(t, d, pair("3")...)
	if _, err := os.Stat(first); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the set before the one before is still there: %v", err)
	}
	// What is no longer handed out is gone at once, in the old set too.
	put(t, d, File{Name: "bundle.pem", Content: []byte("b")})
	got, sets := names(t, dir)
	if diff := cmp.Diff([]string{"..data", "bundle.pem"}, got); diff != "" || sets != 1 {
		t.Errorf("%d sets, (-want +got):\n%s", sets, diff)
	}
}

func TestWhatAProcessBeforeLeftIsTakenOver(t *testing.T) {
	dir := memory(t)
	before := open(t, dir, Options{})
	put(t, before, pair("1")...)
	_ = before.Close()
	// It was killed while it wrote, and somebody made files and links of their own.
	half := filepath.Join(dir, "..set-half")
	elsewhere := filepath.Join(memory(t), "elsewhere")
	err := errors.Join(
		os.Mkdir(half, 0o700), os.WriteFile(filepath.Join(half, "svid.key"), []byte("ke"), 0o600), os.WriteFile(filepath.Join(dir, "..new-half"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "bundle.pem"), []byte("old"), 0o666), os.WriteFile(elsewhere, []byte("elsewhere"), 0o600),
		os.Remove(filepath.Join(dir, "svid.key")), os.Symlink(elsewhere, filepath.Join(dir, "svid.key")),
		os.WriteFile(filepath.Join(dir, "theirs"), []byte("theirs"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	put(t, open(t, dir, Options{}), append(pair("2"), File{Name: "bundle.pem", Content: []byte("new")})...)
	if got := read(t, dir, "bundle.pem") + read(t, dir, "svid.key") + read(t, dir, "theirs") + read(t, elsewhere); got != "newkey 2theirselsewhere" {
		t.Errorf("read %q", got)
	}
	got, sets := names(t, dir)
	if diff := cmp.Diff([]string{"..data", "bundle.pem", "svid.key", "svid.pem", "theirs"}, got); diff != "" || sets != 2 {
		t.Errorf("%d sets, (-want +got):\n%s", sets, diff)
	}
}

// A reader in a loop never finds a name missing, a file half-written, or, in one
// set, files that do not belong together.
func TestAReaderSeesWholeFilesOfOneSetOnly(t *testing.T) {
	dir := memory(t)
	d := open(t, dir, Options{})
	big := strings.Repeat("x", 1<<16)
	set := func(i int) []File {
		v := fmt.Sprintf("%06d%s", i, big)
		return []File{{Name: "svid.pem", Content: []byte(v)}, {Name: "svid.key", Secret: true, Content: []byte(v)}}
	}
	put(t, d, set(0)...)
	if err := d.Replace(File{Name: "token", Content: set(0)[0].Content}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	reads := 0
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			reads++
			for _, name := range []string{"svid.pem", "svid.key", "token"} {
				if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(b) != 6+len(big) {
					t.Errorf("%s: %d bytes, %v", name, len(b), err)
					return
				}
			}
			now, err := os.Readlink(filepath.Join(dir, "..data"))
			if err != nil {
				t.Error(err)
				return
			}
			cert, err1 := os.ReadFile(filepath.Join(dir, now, "svid.pem"))
			key, err2 := os.ReadFile(filepath.Join(dir, now, "svid.key"))
			if errors.Is(errors.Join(err1, err2), fs.ErrNotExist) {
				continue // it slept over two switches; in a renewal's time it does not
			}
			if err1 != nil || err2 != nil || string(cert) != string(key) {
				t.Errorf("certificate and key do not belong together: %v %v", err1, err2)
				return
			}
		}
	})
	for i := range 300 {
		put(t, d, set(i+1)...)
		if err := d.Replace(File{Name: "token", Content: set(i)[0].Content}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
	t.Logf("%d reads", reads)
}

func TestWhereThereIsNoRoomTheFilesOfBeforeStay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: mounting a small tmpfs needs root")
	}
	dir := filepath.Join(memory(t), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("NOT TESTED: a small tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	d := open(t, dir, Options{})
	put(t, d, pair("1")...)
	if err := d.Replace(File{Name: "token", Secret: true, Content: []byte("t1")}); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 128<<10)
	if _, err := d.Put([]File{{Name: "svid.pem", Content: []byte("cert 2")}, {Name: "svid.key", Content: large}}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("a set beyond the room: %v", err)
	}
	if err := d.Replace(File{Name: "token", Secret: true, Content: large}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("a token beyond the room: %v", err)
	}
	if got := read(t, dir, "svid.pem") + read(t, dir, "svid.key") + read(t, dir, "token"); got != "cert 1key 1t1" {
		t.Errorf("read %q", got)
	}
	got, sets := names(t, dir)
	if diff := cmp.Diff([]string{"..data", "svid.key", "svid.pem", "token"}, got); diff != "" || sets != 1 {
		t.Errorf("%d sets are left, (-want +got):\n%s", sets, diff)
	}
	put(t, d, pair("2")...)
	if got := read(t, dir, "svid.pem"); got != "cert 2" {
		t.Errorf("read %q", got)
	}
}

func TestNamesThatLeadOutOfTheDirectoryAreRefused(t *testing.T) {
	d := open(t, memory(t), Options{})
	for _, name := range []string{"", ".", "..", "..data", ".hidden", "a/b", "../a", "/a", "a\x00", "a\nb", strings.Repeat("a", 256)} {
		if err := d.Replace(File{Name: name, Content: []byte("x")}); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if got, sets := names(t, d.Path()); len(got) != 0 || sets != 0 {
		t.Errorf("it left %v", got)
	}
}
