package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/nitro"
)

func testBinding() attest.Binding {
	return attest.Binding{B: [32]byte{1, 2, 3}, Nonce: [32]byte{4, 5, 6}, Keys: []attest.BoundKey{{SPKI: []byte("the first key")}, {SPKI: []byte("the second")}}}
}

// The verifier that the server uses says whether the evidence carries the
// binding where it must.
func TestTheEvidenceOfASimulatedNSMVerifiesAndIsBound(t *testing.T) {
	t.Parallel()
	dev, auth := simulatedNSM(t)
	want := testBinding()
	ev, err := dev.Evidence(context.Background(), want)
	if err != nil {
		t.Fatal(err)
	}
	v := must(nitro.New(must(nitro.SimulatedRoots(auth.RootPEM()))))
	claims, err := v.Authenticate(context.Background(), ev, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Bound(claims, want); err != nil {
		t.Error(err)
	}
	if got, want := string(claims.Nitro.UserData), "assay/v1\x00"+string(want.B[:]); got != want {
		t.Errorf("user_data %q, want %q", got, want)
	}
	if !bytes.Equal(claims.Nitro.Nonce, want.Nonce[:]) || string(claims.Nitro.PublicKey) != "the first key" {
		t.Errorf("nonce %x, public key %q", []byte(claims.Nitro.Nonce), claims.Nitro.PublicKey)
	}
}

func TestAProbeDescribesTheDevice(t *testing.T) {
	t.Parallel()
	dev, _ := simulatedNSM(t)
	got, err := dev.Probe(context.Background())
	if err != nil || !strings.Contains(got, "module i-") || !strings.Contains(got, "SHA384") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestADeviceThatCannotBeUsedIsExplained(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(NitroDevice); err == nil {
		t.Skip("SKIPPED: this machine has an NSM")
	}
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte{}, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dev  *Nitro
		hint string
	}{
		"no enclave":     {NewNitro(NitroDevice), "no Nitro Enclave"},
		"no such device": {NewNitro(filepath.Join(dir, "nsm")), "check the path"},
		"no such socket": {NewNitroSocket(filepath.Join(dir, "nsm.sock")), "check the path"},
		"not an NSM":     {NewNitro(file), "is this an NSM?"},
	} {
		_, err := c.dev.Evidence(context.Background(), testBinding())
		wantCheck(t, err, attest.Unavailable, "nsm")
		if e := asError(err); !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: hint %q, want %q in it", name, e.Hint, c.hint)
		}
	}
}

func TestADeviceThatBelongsToSomebodyElseIsExplained(t *testing.T) {
	t.Parallel()
	dev := &Nitro{name: NitroDevice, timeout: time.Second, open: func(context.Context) (nsmSession, error) {
		return nil, &os.PathError{Op: "open", Path: NitroDevice, Err: syscall.EACCES}
	}}
	_, err := dev.Evidence(context.Background(), testBinding())
	wantCheck(t, err, attest.Unavailable, "nsm")
	if e := asError(err); !strings.Contains(e.Hint, "owner") {
		t.Errorf("hint %q", e.Hint)
	}
}

// injected drives hf/nsm's own device path with another system call.
func injected(errno syscall.Errno, wait time.Duration) *Nitro {
	o := nsm.Options{
		Open: func() (nsm.FileDescriptor, error) { return os.Open(os.DevNull) },
		Syscall: func(_, _, _, _ uintptr) (uintptr, uintptr, syscall.Errno) {
			time.Sleep(wait)
			return 0, 0, errno
		},
	}
	return &Nitro{name: NitroDevice, timeout: 50 * time.Millisecond, open: func(context.Context) (nsmSession, error) { return nsm.OpenSession(o) }}
}

func TestAFailedSystemCallIsAnError(t *testing.T) {
	t.Parallel()
	_, err := injected(syscall.ENOTTY, 0).Evidence(context.Background(), testBinding())
	wantCheck(t, err, attest.Unavailable, "nsm")
}

func TestADeviceThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	began := time.Now()
	_, err := injected(0, time.Minute).Evidence(context.Background(), testBinding())
	wantCheck(t, err, attest.Unavailable, "nsm")
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("it took %s", d)
	}
}

// strangeNSM answers every request with the same bytes.
func strangeNSM(t *testing.T, frame []byte) *Nitro {
	t.Helper()
	path := filepath.Join(shortDir(t), "nsm.sock")
	l := must(net.Listen("unix", path))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var head [4]byte
			if _, err := io.ReadFull(c, head[:]); err == nil {
				_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:])))
				_, _ = c.Write(frame)
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return NewNitroSocket(path)
}

func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestAStrangeAnswerOfTheDeviceIsAnError(t *testing.T) {
	t.Parallel()
	enc := func(v any) []byte { return frame(must(cbor.Marshal(v))) }
	for name, c := range map[string]struct {
		frame []byte
		kind  attest.Kind
	}{
		"nothing":           {nil, attest.Unavailable},
		"half a length":     {[]byte{0, 0}, attest.Unavailable},
		"an empty answer":   {frame(nil), attest.Unavailable},
		"a huge length":     {[]byte{0xff, 0xff, 0xff, 0xff}, attest.Unavailable},
		"one byte too many": {frame(make([]byte, maxNSMResponse+1)), attest.Unavailable},
		"a cut answer":      {[]byte{0, 0, 0, 9, 1}, attest.Unavailable},
		"no CBOR":           {frame([]byte{0xff}), attest.Unavailable},
		"a number":          {enc(7), attest.Unavailable},
		"an unknown word":   {enc("Hello"), attest.Unavailable},
		"an error":          {enc(map[string]any{"Error": "InternalError"}), attest.Internal},
		"another answer":    {enc(map[string]any{"GetRandom": map[string]any{"random": []byte{1}}}), attest.Internal},
		"an empty map":      {enc(map[string]any{}), attest.Internal},
		"an empty document": {enc(map[string]any{"Attestation": map[string]any{"document": []byte{}}}), attest.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := strangeNSM(t, c.frame).Evidence(context.Background(), testBinding())
			wantCheck(t, err, c.kind, "nsm")
		})
	}
}

func TestABindingWithoutKeysIsRefused(t *testing.T) {
	t.Parallel()
	dev, _ := simulatedNSM(t)
	_, err := dev.Evidence(context.Background(), attest.Binding{})
	wantCheck(t, err, attest.Internal, "nsm")
}

func TestEvidenceOfAPlatformWithoutAttesterIsRefused(t *testing.T) {
	t.Parallel()
	for _, p := range []attest.Platform{"abacus", ""} {
		_, err := evidenceMessage(attest.Evidence{Platform: p})
		wantCheck(t, err, attest.Internal, "platform")
	}
}

func FuzzNSMResponse(f *testing.F) {
	f.Add(frame(must(cbor.Marshal(map[string]any{"Attestation": map[string]any{"document": []byte{1}}}))))
	f.Add(frame(must(cbor.Marshal("LockPCR"))))
	f.Add(frame(must(cbor.Marshal(map[string]any{"Error": "InputTooLarge"}))))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readNSMMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(body) == 0 || len(body) > maxNSMResponse {
			t.Fatalf("a body of %d bytes", len(body))
		}
		_, _ = decodeNSMResponse(body)
	})
}

func TestACollectedDocumentIsRefusedAsAnAnswerToAChallenge(t *testing.T) {
	t.Parallel()
	dev, auth := simulatedNSM(t)
	ev, err := dev.Collect(context.Background(), []byte("a nonce"))
	if err != nil {
		t.Fatal(err)
	}
	v := must(nitro.New(must(nitro.SimulatedRoots(auth.RootPEM()))))
	claims, err := v.Authenticate(context.Background(), ev, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b := must(attest.CollectedBinding([]byte("a nonce")))
	if got := string(claims.Nitro.UserData); got != "assay/v1 collected\x00"+string(b[:]) || string(claims.Nitro.Nonce) != "a nonce" || len(claims.Nitro.PublicKey) != 0 {
		t.Errorf("user_data %q, nonce %q, public key %x", got, claims.Nitro.Nonce, []byte(claims.Nitro.PublicKey))
	}
	want := testBinding()
	want.B = b
	wantCheck(t, v.Bound(claims, want), attest.Untrusted, "binding_user_data")
	_, err = dev.Collect(context.Background(), nil)
	wantCheck(t, err, attest.Malformed, "challenge")
}
