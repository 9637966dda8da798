package process

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/internal/lru"
)

// The facts that the kernel tells of every process.
const (
	UID              = "unix:uid"
	GID              = "unix:gid"
	SupplementaryGID = "unix:supplementary_gid"
	Path             = "unix:path"   // of the program, as this machine's root sees it
	SHA256           = "unix:sha256" // of the program, hex
)

// maxProgram bounds what is read to make a digest: no program that anybody
// selects by its digest is larger.
const maxProgram = 1 << 30 // bytes

// rememberedPrograms is how many digests are remembered.
const rememberedPrograms = 256

// kernel is what /proc says.
type kernel struct {
	digests *lru.Cache[version, string]
	reading chan struct{} // whoever reads a program holds a place
}

// maxReading is how many programs are read at once: whoever runs a large one, and
// another each time, is not to take the machine's time from everybody.
const maxReading = 2

// version is one content of a file: every write changes its times.
type version struct {
	inode
	size         int64
	mtime, ctime int64 // nanoseconds
}

// NewKernel is the source of the kind "unix".
func NewKernel() Source {
	return &kernel{lru.New[version, string](rememberedPrograms), make(chan struct{}, maxReading)}
}

// Kind implements [Source].
func (*kernel) Kind() string { return "unix" }

// Facts implements [Source].
func (k *kernel) Facts(ctx context.Context, p *Process, types []string) ([]Fact, error) {
	s, err := p.status()
	if err != nil {
		return nil, err
	}
	var out []Fact
	number := func(t string, n uint32) { out = append(out, Fact{t, strconv.FormatUint(uint64(n), 10)}) }
	for _, t := range types {
		switch t {
		case UID:
			number(t, s.uid)
		case GID:
			number(t, s.gid)
		case SupplementaryGID:
			for _, g := range s.groups {
				number(t, g)
			}
		case Path:
			path, err := p.programPath()
			if err != nil {
				return nil, err
			}
			if path != "" {
				out = append(out, Fact{t, path})
			}
		case SHA256:
			sum, err := k.digest(ctx, p)
			if err != nil {
				return nil, err
			}
			out = append(out, Fact{t, sum})
		}
	}
	return out, nil
}

// programPath is where the program is for this machine; empty when nothing or
// another file is there: the program was replaced or removed, or the process has a
// file system of its own, in which it can name anything as it likes.
func (p *Process) programPath() (string, error) {
	if p.exe == (inode{}) {
		return "", errHidden
	}
	path, err := os.Readlink(p.path("exe"))
	if err != nil {
		return "", gone(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", nil //nolint:nilerr // not there is an answer
	}
	if at, err := inodeOf(info); err != nil || at != p.exe {
		return "", err
	}
	return path, nil
}

// digest is that of the program which the process runs, wherever its file is now.
func (k *kernel) digest(ctx context.Context, p *Process) (string, error) {
	if p.exe == (inode{}) {
		return "", errHidden
	}
	f, err := os.Open(p.path("exe"))
	if err != nil {
		return "", gone(err)
	}
	defer func() { _ = f.Close() }()
	before, err := versionOf(f)
	if err != nil {
		return "", err
	}
	if before.inode != p.exe {
		return "", ErrChanged
	}
	if sum, ok := k.digests.Get(before); ok {
		return sum, nil
	}
	select {
	case k.reading <- struct{}{}:
		defer func() { <-k.reading }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if sum, ok := k.digests.Get(before); ok { // another has read it meanwhile
		return sum, nil
	}
	if before.size > maxProgram {
		return "", fmt.Errorf("the program has %d bytes, at most %d are read", before.size, maxProgram)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(&interruptible{ctx, f}, maxProgram+1)); err != nil {
		return "", err
	}
	switch after, err := versionOf(f); {
	case err != nil:
		return "", err
	case after != before:
		return "", errors.New("the program was written to while it was read")
	}
	sum := hex.EncodeToString(h.Sum(nil))
	k.digests.Put(before, sum)
	return sum, nil
}

func versionOf(f *os.File) (v version, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return v, err
	}
	return version{inode{uint64(st.Dev), st.Ino}, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil //nolint:unconvert // 32 bits on some machines
}

// interruptible stops reading when nobody waits any more.
type interruptible struct {
	ctx context.Context //nolint:containedctx // of one call
	r   io.Reader
}

func (i *interruptible) Read(b []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(b)
}
