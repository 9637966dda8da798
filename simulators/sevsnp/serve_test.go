package sevsnp

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"

	"github.com/assay-project/assay/simulators/internal/socket/sockettest"
)

// served runs a guest on a socket until the test ends, and connects to it.
func served(t *testing.T, l Launch) (sockettest.Conn, *Guest) {
	t.Helper()
	g := testGuest(t, testChip(t, testAuthority(t), Genoa), l)
	path, _ := sockettest.Serve(t, Listen, g.Serve)
	return sockettest.Dial(t, path), g
}

// request asks for what, over report data of one repeated byte.
func request(what, data, vmpl byte) []byte {
	return append(append([]byte{what}, bytes.Repeat([]byte{data}, 64)...), vmpl)
}

func TestAGuestAnswersOverASocket(t *testing.T) {
	c, g := served(t, Launch{VMPL: 1})
	got := c.Ask(request(requestReport, 5, 2))
	r, err := abi.ReportToProto(got[1:])
	if err != nil || got[0] != statusGood || len(got) != 1+ReportSize {
		t.Fatalf("%d bytes, status %d: %v", len(got), got[0], err)
	}
	if !bytes.Equal(r.GetReportData(), bytes.Repeat([]byte{5}, 64)) || r.GetVmpl() != 2 {
		t.Errorf("the report has data %x at level %d", r.GetReportData(), r.GetVmpl())
	}
	got = c.Ask(request(requestExtended, 6, 1))
	if got[0] != statusGood || !bytes.Equal(got[1+ReportSize:], g.CertTable()) {
		t.Error("the extended report does not end in the certificate table")
	}
	if !bytes.Equal(got[1+offReportData:1+offReportData+64], bytes.Repeat([]byte{6}, 64)) {
		t.Error("the extended report has other data")
	}
}

func TestALevelThatTheGuestMayNotSpeakForIsRefused(t *testing.T) {
	c, _ := served(t, Launch{VMPL: 2})
	for vmpl, want := range map[byte]byte{0: statusVMPL, 1: statusVMPL, 2: statusGood, 3: statusGood, 4: statusVMPL, 255: statusVMPL} {
		if got := c.Ask(request(requestReport, 1, vmpl)); got[0] != want {
			t.Errorf("level %d: status %d, want %d", vmpl, got[0], want)
		}
	}
}

func TestGarbageIsAnsweredAndTheConnectionGoesOn(t *testing.T) {
	c, _ := served(t, Launch{})
	for _, b := range [][]byte{
		{}, {1}, []byte("GET / HTTP/1.1\r\n\r\n"), request(0, 1, 0), request(3, 1, 0), request(255, 1, 0), request(1, 1, 0)[:65],
	} {
		if got := c.Ask(b); got[0] != statusRequest || !strings.Contains(string(got), "66 bytes") {
			t.Errorf("%.10q answers %q", b, got)
		}
	}
	if got := c.Ask(request(requestReport, 7, 0)); len(got) != 1+ReportSize || got[0] != statusGood {
		t.Errorf("after it a request is answered with %d bytes, status %d", len(got), got[0])
	}
}

func TestAFrameLongerThanARequestIsNone(t *testing.T) {
	c, _ := served(t, Launch{})
	c.Send(binary.BigEndian.AppendUint32(nil, requestSize+1))
	if got := c.Receive(); got[0] != statusRequest || !strings.Contains(string(got), "longer than a request") {
		t.Errorf("it is answered with %q", got)
	}
	c.WantEnd()
}

// Whatever comes in is answered: with a status and, if that is good, a report
// over exactly the data that were sent.
func FuzzHandle(f *testing.F) {
	a, err := shared()
	if err != nil {
		f.Fatal(err)
	}
	c, err := a.Chip(Turin, "fuzz")
	if err != nil {
		f.Fatal(err)
	}
	g, err := c.Launch(Launch{VMPL: 1})
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{nil, request(1, 1, 1), request(2, 9, 3), request(1, 1, 0), request(7, 1, 1), make([]byte, 67)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		got := g.Handle(b)
		if !bytes.Equal(b, before) {
			t.Error("the request was changed")
		}
		good := len(b) == requestSize && (b[0] == 1 || b[0] == 2) && b[65] >= 1 && b[65] <= 3
		if (got[0] == statusGood) != good {
			t.Fatalf("status %d for %x", got[0], b)
		}
		if !good {
			if len(got) < 10 {
				t.Errorf("no sentence: %q", got)
			}
			return
		}
		if !bytes.Equal(got[1+offReportData:1+offReportData+64], b[1:65]) || got[1+offVMPL] != b[65] {
			t.Error("the report says something else than was asked for")
		}
		if want := 1 + ReportSize + len(g.table)*int(b[0]-1); len(got) != want {
			t.Errorf("%d bytes, want %d", len(got), want)
		}
	})
}
