package nitro

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/assay-project/assay/simulators/internal/socket/sockettest"
)

// served runs a module on a socket until the test ends, and connects to it.
func served(t *testing.T) sockettest.Conn {
	t.Helper()
	m := launch(t, newTestAuthority(t, AuthorityOptions{}), Launch{Image: ImageFromSeed("x")})
	path, _ := sockettest.Serve(t, Listen, m.Serve)
	return sockettest.Dial(t, path)
}

func TestAModuleAnswersOverASocket(t *testing.T) {
	c := served(t)
	for range 3 {
		if got := c.Ask(cborText("GetRandom")); !bytes.HasPrefix(got, respond("GetRandom", nil)) || len(got) < 256 {
			t.Errorf("GetRandom answers %d bytes", len(got))
		}
	}
	if got := c.Ask(cborText("DescribeNSM")); !bytes.HasPrefix(got, respond("DescribeNSM", nil)) {
		t.Errorf("DescribeNSM answers %q", got)
	}
}

func TestGarbageIsAnsweredAndTheConnectionGoesOn(t *testing.T) {
	c := served(t)
	want := respond("Error", cborText("InvalidOperation"))
	for _, b := range [][]byte{{}, {0xff}, []byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0x9f}, MaxRequest)} {
		if got := c.Ask(b); !bytes.Equal(got, want) {
			t.Errorf("%.10q answers %q", b, got)
		}
	}
	if got := c.Ask(cborText("DescribeNSM")); !bytes.HasPrefix(got, respond("DescribeNSM", nil)) {
		t.Errorf("after it DescribeNSM answers %q", got)
	}
}

func TestAFrameLongerThanARequestIsTooLarge(t *testing.T) {
	c := served(t)
	c.Send(binary.BigEndian.AppendUint32(nil, MaxRequest+1))
	if got, want := c.Receive(), respond("Error", cborText("InputTooLarge")); !bytes.Equal(got, want) {
		t.Errorf("it is answered with %q", got)
	}
	c.WantEnd()
}
