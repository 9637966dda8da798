package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes of TPM commands and responses (Part 1, section 18; the Platform TPM
// Profile wants 4096 bytes at least).
const (
	headerSize = 10
	maxMessage = 4096
)

// errFrame is a message that is none.
var errFrame = errors.New("not a TPM message")

// readMessage reads one command or response: its own header says how long it is
// (Part 1, section 18.2: tag, size and code, big-endian).
func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < headerSize || size > maxMessage {
		return nil, fmt.Errorf("%w: the header says %d bytes, want %d to %d", errFrame, size, headerSize, maxMessage)
	}
	out := append(make([]byte, 0, size), head...)[:size]
	if _, err := io.ReadFull(r, out[headerSize:]); err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	return out, nil
}

// checkCommand is for a command that came as bytes.
func checkCommand(command []byte) error {
	if len(command) < headerSize || len(command) > maxMessage || int64(binary.BigEndian.Uint32(command[2:])) != int64(len(command)) {
		return fmt.Errorf("tpm: %w: %d bytes, which the header must say, want %d to %d", errFrame, len(command), headerSize, maxMessage)
	}
	return nil
}

// codeOf is the command's or the response's code.
func codeOf(message []byte) uint32 {
	if len(message) < headerSize {
		return 0
	}
	return binary.BigEndian.Uint32(message[6:])
}

// Tags (Part 2, section 6.9).
const (
	tagNoSessions = 0x8001
	tagSessions   = 0x8002
)

// message is a command or a response without sessions.
func message(code uint32, parameters ...byte) []byte {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, headerSize+len(parameters)), tagNoSessions)
	out = binary.BigEndian.AppendUint32(out, uint32(headerSize+len(parameters)))
	out = binary.BigEndian.AppendUint32(out, code)
	return append(out, parameters...)
}
