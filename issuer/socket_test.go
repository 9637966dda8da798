package issuer_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer"
)

// Tenants that were away open again in the same second, when what they share is
// there again.
func TestSocketsOfOneDirectoryThatOpenAtTheSameTimeAreEachTheirOwn(t *testing.T) {
	dir, err := os.MkdirTemp("", "ax")
	must(t, err)
	defer func() { _ = os.RemoveAll(dir) }()
	const n = 3
	for range 300 {
		var (
			sockets [n]net.Listener
			wg      sync.WaitGroup
		)
		for i := range n {
			wg.Go(func() {
				var err error
				if sockets[i], err = issuer.ListenAdmin(filepath.Join(dir, fmt.Sprint(i))); err != nil {
					t.Errorf("socket %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		answers := make(chan int, n)
		for i, l := range sockets {
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_ = c.Close()
					answers <- i
				}
			}()
		}
		for i := range n {
			c, err := net.Dial("unix", filepath.Join(dir, fmt.Sprint(i)))
			if err != nil {
				t.Fatalf("socket %d is open, and nobody is reached: %v", i, err)
			}
			select {
			case who := <-answers:
				if who != i {
					t.Fatalf("%d answers at the socket of %d", who, i)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("nobody answers at socket %d", i)
			}
			_ = c.Close()
		}
		for _, l := range sockets {
			must(t, l.Close())
		}
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Whoever connects before the socket is narrowed waits in its queue, and would be
// served as an operator.
func TestNobodyReachesTheAdminSocketBeforeItIsNarrowed(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	old := syscall.Umask(0)
	defer syscall.Umask(old)

	stop, seen := make(chan struct{}), make(chan string, 1)
	var wg sync.WaitGroup
	wg.Go(func() { // what another user could reach at any time
		for {
			select {
			case <-stop:
				return
			default:
			}
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				info, err := e.Info()
				if err == nil && info.Mode().Perm()&0o077 != 0 {
					select {
					case seen <- fmt.Sprintf("%s: %v", e.Name(), info.Mode()):
					default:
					}
				}
			}
		}
	})
	for range 500 {
		l, err := issuer.ListenAdmin(filepath.Join(dir, "admin.sock"))
		must(t, err)
		must(t, l.Close())
	}
	close(stop)
	wg.Wait()
	select {
	case what := <-seen:
		t.Errorf("others could enter %s", what)
	default:
	}
}

func TestAnAdminSocketsPathMayBeAlmostAsLongAsTheSystemTakes(t *testing.T) {
	base, err := os.MkdirTemp("", "ax")
	must(t, err)
	defer func() { _ = os.RemoveAll(base) }()
	path := filepath.Join(base, strings.Repeat("d", 107-len(base)-len("//admin.sock")), "admin.sock")
	if len(path) != 107 {
		t.Fatal(len(path))
	}
	l, err := issuer.ListenAdmin(path)
	must(t, err)
	must(t, l.Close())
}
