package lease_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/assay-project/assay/svid/internal/lease"
)

// conversation is some frames, in pieces that have nothing to do with them.
func conversation(t testing.TB, seed uint64) (stream []byte, pieces [][]byte) {
	t.Helper()
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	draw := rand.New(rand.NewPCG(seed, 1))
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14}); err != nil {
		t.Fatal(err)
	}
	// A header that goes on in other frames, between which nothing may stand
	// (RFC 9113, section 6.10): the reader of the test refuses it.
	for i := range uint32(20) {
		if err := errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1000 + 2*i + 1, BlockFragment: []byte{0x82, 0x82}}),
			f.WriteContinuation(1000+2*i+1, false, []byte{0x82}), f.WriteContinuation(1000+2*i+1, true, []byte{0x82})); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint32(40) {
		if err := errors.Join(f.WriteData(2*i+1, false, make([]byte, draw.IntN(300)*draw.IntN(2))), f.WritePing(false, [8]byte{1})); err != nil {
			t.Fatal(err)
		}
	}
	stream = b.Bytes()
	for rest := stream; len(rest) > 0; {
		n := min(len(rest), 1+draw.IntN(50))
		pieces, rest = append(pieces, rest[:n]), rest[n:]
	}
	return stream, pieces
}

// read is the frames of a stream, and how many were GOAWAY.
func read(t testing.TB, stream []byte) (others []byte, goAways int) {
	t.Helper()
	var b bytes.Buffer
	in, out := http2.NewFramer(nil, bytes.NewReader(stream)), http2.NewFramer(&b, nil)
	for {
		f, err := in.ReadFrame()
		if errors.Is(err, io.EOF) {
			return b.Bytes(), goAways
		}
		if err != nil {
			t.Fatalf("no stream of frames: %v", err)
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			if f.LastStreamID != 1<<31-1 || f.ErrCode != http2.ErrCodeNo {
				t.Fatalf("%v", f)
			}
			if b.Len() == 0 {
				t.Fatal("GOAWAY before SETTINGS")
			}
			goAways++
			continue
		case *http2.DataFrame:
			err = out.WriteData(f.StreamID, false, f.Data())
		case *http2.HeadersFrame:
			err = out.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: f.HeaderBlockFragment(), EndHeaders: f.HeadersEnded()})
		case *http2.ContinuationFrame:
			err = out.WriteContinuation(f.StreamID, f.HeadersEnded(), f.HeaderBlockFragment())
		case *http2.PingFrame:
			err = out.WritePing(false, f.Data)
		case *http2.SettingsFrame:
			err = out.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAServerSaysGoAwayOnceAndBetweenTwoFrames(t *testing.T) {
	for seed := range uint64(50) {
		stream, pieces := conversation(t, seed)
		near, far := net.Pipe()
		got := make(chan []byte, 1)
		go func() { b, _ := io.ReadAll(far); got <- b }()
		w := lease.NewWriter(near)
		for i, p := range pieces {
			if i == int(seed)%len(pieces) {
				w.Retire()
			}
			if n, err := w.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		w.Retire()
		_ = w.Close()
		if others, n := read(t, <-got); n != 1 || !bytes.Equal(others, stream) {
			t.Fatalf("seed %d: %d GOAWAY, the rest is the same: %t", seed, n, bytes.Equal(others, stream))
		}
	}
}

// over is a connection to whom somebody else writes.
func over(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

func TestAClientIsToldGoAwayOnceAndBetweenTwoFrames(t *testing.T) {
	for seed := range uint64(50) {
		stream, pieces := conversation(t, seed)
		near, far := over(t)
		r := lease.NewReader(near)
		go func() {
			for i, p := range pieces {
				if i == int(seed)%len(pieces) {
					r.Retire()
				}
				_, _ = far.Write(p)
			}
			r.Retire()
			_ = far.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // it is one
		}()
		var got []byte
		b := make([]byte, 1+seed*7)
		for {
			n, err := r.Read(b)
			got = append(got, b[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if others, n := read(t, got); n != 1 || !bytes.Equal(others, stream) {
			t.Fatalf("seed %d: %d GOAWAY, the rest is the same: %t", seed, n, bytes.Equal(others, stream))
		}
	}
}

func TestAnIdleClientIsToldGoAwayAtOnce(t *testing.T) {
	near, far := over(t)
	r := lease.NewReader(near)
	stream, _ := conversation(t, 1)
	if _, err := far.Write(stream); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(stream))
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, r.Retire)
	end := make([]byte, 17)
	if _, err := io.ReadFull(r, end); err != nil {
		t.Fatal(err)
	}
	if _, n := read(t, append(b, end...)); n != 1 {
		t.Errorf("%x", end)
	}
	// And it goes on being read.
	_, _ = far.Write([]byte("x"))
	if _, err := io.ReadFull(r, b[:1]); err != nil || b[0] != 'x' {
		t.Errorf("%q %v", b[:1], err)
	}
}

func TestACallCountsBeforeItsFirstByteIsWritten(t *testing.T) {
	near, far := net.Pipe()
	r := lease.NewReader(near)
	defer func() { _ = r.Close() }()
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&b, nil)
	if err := errors.Join(f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("\x01\x00\x01\x01"), EndHeaders: true}),
		f.WriteData(1, true, []byte("\x00\x00\x00\x01\x00"))); err != nil {
		t.Fatal(err)
	}
	headers := len(http2.ClientPreface) + 9
	for i, one := range b.Bytes() {
		done := make(chan struct{})
		go func() { defer close(done); _, _ = r.Write([]byte{one}) }()
		if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		<-done
		// A call is told from other frames by the fourth byte of the header; the
		// header is complete with the ninth, and what it is about comes after.
		if want := i >= headers+8; (r.Calls.Load() == 1) != want {
			t.Fatalf("byte %d: %d calls", i, r.Calls.Load())
		}
	}
}

func TestAConnectionEndsWhenItsPeerNoLongerPasses(t *testing.T) {
	no := errors.New("denied")
	for name, tc := range map[string]struct {
		asked uint64
		left  time.Duration
		do    func(c, far net.Conn) error // what must fail
	}{
		"there is a request": {1, time.Hour, func(c, _ net.Conn) error {
			_, err := c.Write([]byte("y"))
			return err
		}},
		"it writes, a second later": {0, time.Hour, func(c, _ net.Conn) error {
			time.Sleep(lease.Every)
			_, err := c.Write([]byte("y"))
			return err
		}},
		"it reads, a second later": {0, time.Hour, func(c, far net.Conn) error {
			time.Sleep(lease.Every)
			_, _ = far.Write([]byte("x"))
			n, err := c.Read(make([]byte, 1))
			if n > 0 {
				return nil
			}
			return err
		}},
		"it is idle at the end": {0, 50 * time.Millisecond, func(c, _ net.Conn) error {
			_, err := c.Read(make([]byte, 1))
			return err
		}},
	} {
		near, far := over(t)
		c := lease.New(near)
		var requests atomic.Uint64
		c.Begin(func() error { return no }, tc.left, &requests)
		requests.Store(tc.asked)
		if err := tc.do(c, far); !errors.Is(err, no) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Write([]byte("z")); !errors.Is(err, no) {
			t.Errorf("%s, and again: %v", name, err)
		}
		_ = far.SetReadDeadline(time.Now().Add(5 * time.Second))
		if b, err := io.ReadAll(far); errors.Is(err, io.EOF) || bytes.ContainsAny(b, "yz") {
			t.Errorf("%s: the peer got %q, %v", name, b, err)
		}
	}
}

func TestAConnectionWhosePeerPassesIsLeftAlone(t *testing.T) {
	near, far := over(t)
	asked := 0
	c := lease.New(near)
	c.Begin(func() error { asked++; return nil }, time.Hour, nil)
	for range 100 {
		_, _ = far.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("y")); err != nil {
			t.Fatal(err)
		}
	}
	if asked > 1 {
		t.Errorf("asked %d times", asked)
	}
}

func FuzzFrames(f *testing.F) {
	stream, _ := conversation(f, 3)
	f.Add(stream, 7)
	f.Add([]byte{0xff, 0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		w := lease.NewWriter(near)
		defer func() { _ = w.Close() }()
		at = min(max(at, 0), len(b))
		for _, p := range [][]byte{b[:at], b[at:]} {
			if n, err := w.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
			w.Retire()
		}
	})
}
