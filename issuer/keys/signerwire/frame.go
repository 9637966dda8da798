package signerwire

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/assay-project/assay/attest"
)

// Version is the version of the protocol, the first byte of every body.
const Version = 1

// MaxFrame is the largest body of a frame, in bytes. A list of [MaxKeys] keys of
// RSA-4096 fits.
const MaxFrame = 64 << 10

// ReadFrame reads one frame and returns its body. A clean end of the stream
// before the first byte is io.EOF; a body that is announced too large is not
// read.
func ReadFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 2 || n > MaxFrame {
		return nil, malformed("signer_frame", fmt.Errorf("a frame of %d bytes, want 2 to %d", n, MaxFrame))
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return body, nil
}

// WriteFrame writes a body as one frame, in one call of Write.
func WriteFrame(w io.Writer, body []byte) error {
	if len(body) < 2 || len(body) > MaxFrame {
		return &attest.Error{Kind: attest.Internal, Check: "signer_frame", Err: fmt.Errorf("a frame of %d bytes, want 2 to %d", len(body), MaxFrame)}
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err := w.Write(append(frame, body...))
	return err
}

func malformed(check string, err error) error {
	return &attest.Error{Kind: attest.Malformed, Check: check, Err: err, Hint: "both ends must speak version 1 of the signer's protocol"}
}
