package tpm

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// serve serves a machine until the test ends, and returns its socket.
func serve(t *testing.T, tpm *TPM) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // t.TempDir() can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "tpm.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tpm.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket is there still")
		}
	})
	return path
}

func connect(t *testing.T, path string) transport.TPMCloser {
	t.Helper()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestAClientOfTheSocketAttests(t *testing.T) {
	tpm := startMachine(t, Machine{})
	c := connect(t, serve(t, tpm))
	if diff := cmp.Diff([]string(nil), attestTo(t, c, []byte("x")).wrong([]byte("x"))); diff != "" {
		t.Error(diff)
	}
}

func TestClientsOfTheSocketDoNotMixTheirAnswers(t *testing.T) {
	path := serve(t, startMachine(t, Machine{}))
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			c, err := Dial(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			for range 20 {
				r, err := tpm2.GetRandom{BytesRequested: uint16(i + 8)}.Execute(c)
				if err != nil || len(r.RandomBytes.Buffer) != i+8 {
					t.Errorf("%v: asked for %d, got %d", err, i+8, len(r.RandomBytes.Buffer))
				}
			}
		})
	}
	wg.Wait()
}

func TestWhatAClientLeavesLoadedIsFlushed(t *testing.T) {
	path := serve(t, startMachine(t, Machine{}))
	for range 5 { // the TPM has room for three
		c := connect(t, path)
		if _, err := (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(testAK())}).Execute(c); err != nil {
			t.Fatal(err)
		}
		if _, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		// The server sees the end of the connection a moment later.
		wait(t, path)
	}
}

// wait until the server has nothing loaded.
func wait(t *testing.T, path string) {
	t.Helper()
	for range 1000 {
		c, err := Dial(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(tpm2.TPMHTTransient) << 24, PropertyCount: 8}.Execute(c)
		_ = c.Close()
		if err != nil {
			t.Fatal(err)
		}
		if list, err := r.CapabilityData.Data.Handles(); err == nil && len(list.Handle) == 0 {
			return
		}
	}
	t.Fatal("keys are still loaded")
}

func TestBytesThatAreNoCommandEndTheConnectionAlone(t *testing.T) {
	path := serve(t, startMachine(t, Machine{}))
	good := connect(t, path)
	for _, b := range []string{
		"\x80\x01\x00\x00\x00\x09\x00\x00\x01\x7b", "\x80\x01\xff\xff\xff\xff\x00\x00\x01\x7b", "\x80\x01\x00\x00\x10\x01\x00\x00\x01\x7b",
	} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(b)); err != nil {
			t.Error(err)
		}
		if n, err := c.Read(make([]byte, 1)); err == nil || n != 0 {
			t.Errorf("%x was answered", b)
		}
		_ = c.Close()
	}
	if _, err := (tpm2.GetRandom{BytesRequested: 8}).Execute(good); err != nil {
		t.Error(err)
	}
	for _, b := range [][]byte{nil, {0}, startup(tpm2.TPMSUClear)[:11], append(startup(tpm2.TPMSUClear), 0)} {
		if _, err := good.Send(b); err == nil {
			t.Errorf("%x was sent", b)
		}
	}
}

func TestAMachineIsRebootedFromAfar(t *testing.T) {
	tpm := startMachine(t, Machine{Boot: Boot{Image: "one"}})
	path := serve(t, tpm)
	c, r := connect(t, path), Remote{Path: path}
	before := clock(t, c)
	if err := r.Reset(Boot{Image: "two", SecureBootOff: true}); err != nil {
		t.Fatal(err)
	}
	if got := clock(t, c).ResetCount; got != before.ResetCount+1 || tpm.Booted().Image != "two" || !tpm.Booted().SecureBootOff {
		t.Errorf("resets %d, boot %+v", got, tpm.Booted())
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	if got := clock(t, c).RestartCount; got != 1 {
		t.Errorf("restarts %d", got)
	}
	if err := r.PowerCut(Boot{}); err != nil {
		t.Fatal(err)
	}
	if got := clock(t, c); bool(got.Safe) || tpm.Booted().Image != "two" {
		t.Errorf("%+v, boot %+v", got, tpm.Booted())
	}
	if err := r.Clear(); err != nil {
		t.Fatal(err)
	}
	if got := clock(t, c).ResetCount; got != 0 {
		t.Errorf("resets after clearing: %d", got)
	}
	if err := r.Reset(Boot{Loader: "lilo"}); err == nil || !strings.Contains(err.Error(), "lilo") {
		t.Error(err)
	}
	if err := r.do(vendorBit|1, nil); err == nil || !strings.Contains(err.Error(), "not a simulated machine") {
		t.Error(err)
	}
	if err := r.do(commandReset, []byte("{")); err == nil {
		t.Error("a boot that is no JSON was started")
	}
	if err := (Remote{Path: path + ".none"}).Clear(); err == nil || !strings.Contains(err.Error(), "no machine answers") {
		t.Error(err)
	}
}
