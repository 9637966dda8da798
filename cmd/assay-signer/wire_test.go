package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// askRaw sends a message as it is, without the client's own checks.
func askRaw(t *testing.T, socket string, m signerwire.Message) signerwire.Message {
	t.Helper()
	body, err := signerwire.Encode(m)
	must(t, err)
	var frame bytes.Buffer
	must(t, signerwire.WriteFrame(&frame, body))
	answers := talk(t, socket, frame.Bytes())
	if len(answers) != 1 {
		t.Fatalf("%d answers to one question", len(answers))
	}
	return answers[0]
}

// talk writes bytes, says that no more come, and reads all answers.
func talk(t *testing.T, socket string, b []byte) (answers []signerwire.Message) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, conn.SetDeadline(time.Now().Add(15*time.Second)))
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	must(t, conn.(*net.UnixConn).CloseWrite())
	for {
		body, err := signerwire.ReadFrame(conn)
		// The signer closes without reading what follows a fault: a reset, once the
		// answer has been read.
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return answers
		}
		must(t, err)
		m, err := signerwire.ParseResponse(body)
		must(t, err)
		answers = append(answers, m)
	}
}
