package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
)

// mute accepts connections and commands, and never answers.
func mute(t testing.TB, answers []byte) string {
	t.Helper()
	path := filepath.Join(shortDir(t), "mute.sock")
	l := must(net.Listen("unix", path))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if answers != nil {
						if _, err := c.Write(answers); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return path
}

func TestAStalledTPMIsAnErrorAndIsOpenedAgain(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	path := mute(t, nil)
	tpm := NewTPMSocket(path, TPMOptions{Log: testLog(t)})
	tpm.timeout, tpm.slow = 100*time.Millisecond, 300*time.Millisecond
	for range 2 {
		began := time.Now()
		_, err := tpm.Evidence(t.Context(), bindingOf(t))
		wantCheck(t, err, attest.Unavailable, "tpm")
		if h := asError(err).Hint; !strings.Contains(h, "did not answer in time") {
			t.Errorf("hint %q", h)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %s", d)
		}
	}
	// The same attester, once the TPM is well.
	tpm.timeout, tpm.slow = tpmTimeout, tpmSlow
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.socket, path); err != nil {
		t.Fatal(err)
	}
	want := bindingOf(t)
	quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
	m.off()
	_, err := tpm.Evidence(t.Context(), want)
	wantCheck(t, err, attest.Unavailable, "tpm")
	m.on()
	if err := os.Rename(m.socket, path); err != nil {
		t.Fatal(err)
	}
	quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
}

// tpmDriver is what the kernel's TPM driver is to a program: a file descriptor that
// takes a command with one write, and gives the response to one read.
func tpmDriver(t testing.TB, answer func(command []byte) []byte) *tpmFile {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer func() { _ = unix.Close(fds[1]) }()
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(fds[1], buf)
			if err != nil || n == 0 {
				return
			}
			if out := answer(bytes.Clone(buf[:n])); out != nil {
				if _, err := unix.Write(fds[1], out); err != nil {
					return
				}
			}
		}
	}()
	return &tpmFile{fd: fds[0], path: TPMDevice, managed: true}
}

func TestTheDriversDeviceCarriesCommandsAndHasATimeOut(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	behind := func(command []byte) []byte {
		c, err := openTPMSocket(m.socket)(context.Background())
		if err != nil {
			return nil
		}
		defer func() { _ = c.Close() }()
		out, err := c.exchange(context.Background(), command)
		if err != nil {
			return nil
		}
		return out
	}
	tpm := newTPM(TPMDevice, func(context.Context) (tpmConn, error) { return tpmDriver(t, behind), nil }, TPMOptions{EventLog: NoEventLog})
	want := bindingOf(t)
	quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)

	stalled := newTPM(TPMDevice, func(context.Context) (tpmConn, error) { return tpmDriver(t, func([]byte) []byte { return nil }), nil }, TPMOptions{EventLog: NoEventLog})
	stalled.timeout, stalled.slow = 50*time.Millisecond, time.Second
	_, err := stalled.Evidence(t.Context(), want)
	wantCheck(t, err, attest.Unavailable, "tpm")
	if !strings.Contains(asError(err).Hint, "did not answer in time") {
		t.Errorf("hint %q", asError(err).Hint)
	}
	gone := newTPM(TPMDevice, func(context.Context) (tpmConn, error) {
		d := tpmDriver(t, nil)
		_ = unix.Shutdown(d.fd, unix.SHUT_RDWR)
		return d, nil
	}, TPMOptions{EventLog: NoEventLog})
	_, err = gone.Evidence(t.Context(), want)
	wantCheck(t, err, attest.Unavailable, "tpm")
}

func TestACallerWhoStopsWaitingIsLetGo(t *testing.T) {
	t.Parallel()
	tpm := NewTPMSocket(mute(t, nil), TPMOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := tpm.NewKey(ctx)
	wantCheck(t, err, attest.Unavailable, "tpm")
}

func TestNonsenseOfATPMIsAnError(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string][]byte{
		"a huge size":   {0x80, 1, 0xff, 0, 0, 0, 0, 0, 0, 0},
		"a size of 0":   {0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"empty success": {0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0},
		"garbage":       append([]byte{0x80, 1, 0, 0, 0, 30, 0, 0, 0, 0}, bytes.Repeat([]byte{0xff}, 20)...),
		"a refusal":     {0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x01},
	} {
		tpm := NewTPMSocket(mute(t, answer), TPMOptions{})
		_, err := tpm.Evidence(t.Context(), bindingOf(t))
		if attest.KindOf(err) != attest.Internal || attest.CheckOf(err) != "tpm" {
			t.Errorf("%s: %v", name, err)
		}
	}
	tpm := NewTPMSocket(mute(t, []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0}), TPMOptions{})
	_, err := tpm.Evidence(t.Context(), bindingOf(t))
	if attest.KindOf(err) != attest.Unavailable || !strings.Contains(asError(err).Hint, "TPM2_Startup") {
		t.Errorf("not started: %v", err)
	}
}

func TestATPMThatOthersLeftFullMakesRoom(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	full := errors.New("enough")
	tpm := m.attester(TPMOptions{})
	_, err := withTPM(t.Context(), m.attester(TPMOptions{}), tpmTimeout, func(s *tpmSession) (int, error) {
		for {
			s.swept = true // as a program does that knows nothing of this
			if _, err := s.createPrimary(tpm2.TPMRHNull, must(residentTemplate())); err != nil {
				s.loaded = nil // and dies
				return 0, full
			}
		}
	})
	if err == nil || m.transient() < 3 {
		t.Fatalf("the TPM is not full: %v", err)
	}
	want := bindingOf(t)
	quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
	if n := m.transient(); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

func TestManyCallersShareATPMWithRoomForThree(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	tpm := m.attester(TPMOptions{})
	errs := make(chan error, 24)
	var wg sync.WaitGroup
	for i := range cap(errs) {
		wg.Go(func() {
			key, err := tpm.NewKey(t.Context())
			if err == nil && i%2 == 0 {
				_, err = tpm.Quote(t.Context(), bindingOf(t, key), DefaultPCRs(), []crypto.Signer{key})
			} else if err == nil {
				sum := sha256.Sum256([]byte{byte(i)})
				_, err = key.Sign(nil, sum[:], crypto.SHA256)
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestADeviceThatIsNoneIsNamed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tpm0")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, hint := range map[string]string{
		filepath.Join(t.TempDir(), "tpmrm0"): "ls /dev/tpm*",
		file:                                 "",
		"unix:" + filepath.Join(t.TempDir(), "x"): "tpm.socket",
	} {
		d := NewTPMDevice(path, TPMOptions{})
		d.timeout, d.slow = time.Second, time.Second
		_, err := d.Probe(t.Context())
		if attest.CheckOf(err) != "tpm" || !strings.Contains(asError(err).Hint, hint) || !strings.Contains(err.Error(), strings.TrimPrefix(path, "unix:")) {
			t.Errorf("%s: %v (hint %q)", path, err, asError(err).Hint)
		}
	}
}
