package issuer

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// changeTime is when a file's content or anything else about it changed last; no
// program can set it.
func changeTime(info os.FileInfo) time.Time {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(s.Ctim.Unix())
	}
	return time.Time{}
}

// unopened reports whether certainly nobody has the file open for writing: the
// kernel grants a read lease only then (F_SETLEASE in fcntl(2)). It grants one to
// the owner of the file only, and knows nothing of writers elsewhere: so the
// answer no means little.
func unopened(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // ends the lease
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil || !local(int64(fs.Type)) { //nolint:unconvert // of another width on some platforms
		return false
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	return err == nil
}

// local names the file systems whose writers are all in this kernel.
func local(magic int64) bool {
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC:
		return true
	}
	return false
}
