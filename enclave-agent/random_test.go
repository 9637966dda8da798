package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/enclave-agent/entropy"
)

var (
	_ entropy.Source = (*Nitro)(nil)
	_ entropy.Source = (*TPM)(nil)
)

// seeds wants two different answers of every size, and a seeded kernel.
func seeds(t *testing.T, src entropy.Source) {
	t.Helper()
	for _, n := range []int{1, 16, 64, 257, entropy.MaxBytes} {
		a, err := src.Entropy(t.Context(), n)
		if err != nil || len(a) != n {
			t.Fatalf("%d bytes: %x %v", n, a, err)
		}
		b, err := src.Entropy(t.Context(), n)
		if err != nil || n > 8 && bytes.Equal(a, b) {
			t.Errorf("%d bytes, twice the same: %x %v", n, b, err)
		}
	}
	for _, n := range []int{0, entropy.MaxBytes + 1} {
		_, err := src.Entropy(t.Context(), n)
		wantCheck(t, err, attest.Internal, entropy.CheckLength)
	}
	var log bytes.Buffer
	if err := entropy.Seed(t.Context(), src, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Errorf("%v\n%s", err, log.String())
	}
	t.Log(log.String())
}

func TestAnNSMGivesEntropy(t *testing.T) {
	t.Parallel()
	dev, _ := simulatedNSM(t)
	seeds(t, dev)
}

func TestATPMGivesEntropy(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	seeds(t, m.attester(TPMOptions{EventLog: NoEventLog}))
	if n := m.transient(); n != 0 {
		t.Errorf("%d objects are left in the TPM", n)
	}
}

func TestAnNSMWhoseRandomBytesCannotBeRightIsRefusedByName(t *testing.T) {
	t.Parallel()
	random := func(n int) []byte { return bytes.Repeat([]byte{1, 2, 3, 4}, (n+3)/4)[:n] }
	answer := func(b any) []byte {
		return frame(must(cbor.Marshal(map[string]any{"GetRandom": map[string]any{"random": b}})))
	}
	for name, c := range map[string]struct {
		frame []byte
		kind  attest.Kind
		check string
	}{
		"too short":          {answer(random(15)), attest.Internal, entropy.CheckLength},
		"empty":              {answer([]byte{}), attest.Internal, entropy.CheckLength},
		"none":               {answer(nil), attest.Internal, entropy.CheckLength},
		"too long":           {answer(random(257)), attest.Internal, entropy.CheckLength},
		"all zeros":          {answer(make([]byte, 256)), attest.Internal, entropy.CheckConstant},
		"the same each time": {answer(random(256)), attest.Internal, entropy.CheckRepeated},
		"text":               {answer("random"), attest.Unavailable, "nsm"},
		"an error":           {frame(must(cbor.Marshal(map[string]any{"Error": "InternalError"}))), attest.Internal, "nsm"},
		"a document":         {frame(must(cbor.Marshal(map[string]any{"Attestation": map[string]any{"document": []byte{1}}}))), attest.Internal, "nsm"},
		"another word":       {frame(must(cbor.Marshal("LockPCR"))), attest.Internal, "nsm"},
		"no CBOR":            {frame([]byte{0xff}), attest.Unavailable, "nsm"},
		"a huge answer":      {[]byte{0xff, 0xff, 0xff, 0xff}, attest.Unavailable, "nsm"},
		"the end":            {nil, attest.Unavailable, "nsm"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := strangeNSM(t, c.frame).Entropy(t.Context(), 512)
			wantCheck(t, err, c.kind, c.check)
			if b != nil {
				t.Errorf("and bytes: %x", b)
			}
		})
	}
}

func TestADeviceThatHangsOverRandomBytesIsGivenUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := injected(0, 3*time.Second).Entropy(ctx, 64)
	wantCheck(t, err, attest.Unavailable, "nsm")
	_, err = NewTPMSocket(mute(t, nil), TPMOptions{Log: testLog(t)}).Entropy(ctx, 64)
	wantCheck(t, err, attest.Unavailable, "tpm")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

// wired hands the commands to a real TPM, and its responses through a hook.
func wired(t *testing.T, m *swtpm, hook func(response []byte) []byte) *TPM {
	t.Helper()
	path := filepath.Join(shortDir(t), "wire.sock")
	l := must(net.Listen("unix", path))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tpm, err := net.Dial("unix", m.socket)
			if err != nil {
				_ = c.Close()
				return
			}
			go func() { _, _ = io.Copy(tpm, c); _ = tpm.Close() }()
			go func() {
				defer func() { _ = c.Close() }()
				for {
					head := make([]byte, tpmHeader)
					if _, err := io.ReadFull(tpm, head); err != nil {
						return
					}
					rest := make([]byte, binary.BigEndian.Uint32(head[2:])-tpmHeader)
					if _, err := io.ReadFull(tpm, rest); err != nil {
						return
					}
					if _, err := c.Write(hook(append(head, rest...))); err != nil {
						return
					}
				}
			}()
		}
	}()
	return NewTPMSocket(path, TPMOptions{Log: testLog(t), EventLog: NoEventLog})
}

func TestATPMWhoseRandomBytesCannotBeRightIsRefusedByName(t *testing.T) {
	t.Parallel()
	m := newTPM2(t)
	// response is the answer of TPM2_GetRandom: header, TPM2B_DIGEST (Part 3, section 16.1).
	response := func(b []byte) []byte {
		out := []byte{0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint32(out[2:], uint32(tpmHeader+2+len(b)))
		return append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...)
	}
	always := func(b []byte) func([]byte) []byte { return func([]byte) []byte { return b } }
	for name, c := range map[string]struct {
		hook  func([]byte) []byte
		check string
	}{
		"too short":          {func(r []byte) []byte { return response(r[tpmHeader+2:][:15]) }, entropy.CheckLength},
		"empty":              {always(response(nil)), entropy.CheckLength},
		"too long":           {func(r []byte) []byte { return response(append(r[tpmHeader+2:], 1)) }, entropy.CheckLength},
		"all zeros":          {always(response(make([]byte, 32))), entropy.CheckConstant},
		"the same each time": {always(response(bytes.Repeat([]byte{1, 2}, 16))), entropy.CheckRepeated},
		"an error":           {always([]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1}), "tpm"},
		"half a response":    {always([]byte{0x80, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0, 32}), "tpm"},
	} {
		b, err := wired(t, m, c.hook).Entropy(t.Context(), 64)
		if b != nil || attest.CheckOf(err) != c.check {
			t.Errorf("%s: %x %v, want the check %s", name, b, err, c.check)
		}
	}
	// One that gives half of what it is asked for, as a TPM may, is asked again.
	b, err := wired(t, m, func(r []byte) []byte { return response(r[tpmHeader+2:][:16]) }).Entropy(t.Context(), 64)
	if err != nil || len(b) != 64 {
		t.Errorf("%x %v", b, err)
	}
	// Through the wire as it is, it is a TPM.
	if b, err := wired(t, m, func(r []byte) []byte { return r }).Entropy(t.Context(), 64); err != nil || len(b) != 64 {
		t.Errorf("%x %v", b, err)
	}
	var code tpm2.TPMRC
	if _, err := wired(t, m, always([]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1})).Entropy(t.Context(), 64); !errors.As(err, &code) {
		t.Errorf("the TPM's own error is lost: %v", err)
	}
}

// moody attests as a simulated security module does, and has a source of entropy of
// the test's.
type moody struct {
	*Nitro
	entropy func(ctx context.Context, n int) ([]byte, error)
}

func (m moody) Entropy(ctx context.Context, n int) ([]byte, error) { return m.entropy(ctx, n) }

func TestAnAgentServesWhateverItsSourceOfEntropyDoes(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]func(context.Context, int) ([]byte, error){
		"refuses": func(context.Context, int) ([]byte, error) {
			return nil, &attest.Error{Kind: attest.Internal, Check: "nsm", Err: errors.New("refused")}
		},
		"gives zeros": func(_ context.Context, n int) ([]byte, error) { return make([]byte, n), nil },
		"gives more":  func(_ context.Context, n int) ([]byte, error) { return make([]byte, 1<<20), nil },
		"hangs":       func(ctx context.Context, _ int) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFaultyServer(t)
			s.start()
			cfg := s.config(t)
			nsm, _ := simulatedNSM(t)
			asked := make(chan int, 1)
			cfg.Attester = moody{nsm, func(ctx context.Context, n int) ([]byte, error) {
				select {
				case asked <- len(s.heard()):
				default:
				}
				return source(ctx, n)
			}}
			a, _ := runAgent(t, cfg)
			served(t, a)
			select {
			case before := <-asked:
				if before != 0 {
					t.Errorf("the source was asked after %d attestations", before)
				}
			default:
				t.Error("the source was never asked")
			}
		})
	}
}

func FuzzRandomAnswers(f *testing.F) {
	f.Add(must(cbor.Marshal(map[string]any{"GetRandom": map[string]any{"random": bytes.Repeat([]byte{1, 2}, 128)}})), 64)
	f.Add(must(cbor.Marshal("GetRandom")), 64)
	f.Add(append([]byte{3, 0x80, 1, 0, 0, 0, 44, 0, 0, 0, 0, 0, 32}, bytes.Repeat([]byte{3, 4}, 20)...), 32)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		tpm := newTPM("fuzz", func(context.Context) (tpmConn, error) { return &scripted{b}, nil }, TPMOptions{EventLog: NoEventLog})
		tpm.timeout = 20 * time.Millisecond // it may say for ever that it is busy
		nsm := &Nitro{name: "fuzz", timeout: time.Second, open: func(context.Context) (nsmSession, error) { return fixedNSM(b), nil }}
		for _, src := range []entropy.Source{tpm, nsm} {
			got, err := src.Entropy(t.Context(), n)
			var e *attest.Error
			switch {
			case err != nil && (got != nil || !errors.As(err, &e)):
				t.Fatalf("%x and an error without a check: %v", got, err)
			case err == nil && len(got) != n:
				t.Fatalf("%d bytes, want %d", len(got), n)
			}
		}
	})
}

// fixedNSM decodes one answer again and again.
type fixedNSM []byte

func (f fixedNSM) Send(request.Request) (response.Response, error) { return decodeNSMResponse(f) }
func (f fixedNSM) Close() error                                    { return nil }
