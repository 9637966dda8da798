package ledger

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Checkpoint is a signed statement that a chain had this head at this size. Who
// keeps one outside can tell when the chain is cut or rewritten below it.
//
// Its text has four lines; further ones may follow, and are ignored:
//
//	ORIGIN               "TRUST_DOMAIN/assay/ledger/CHAIN"
//	SIZE                 decimal, the sequence number of the last entry
//	BASE64(head hash)    H_SIZE, 32 bytes
//	time RFC3339         the server's, UTC
type Checkpoint struct {
	TrustDomain, Chain string
	Size               uint64
	Head               [32]byte
	Time               time.Time
}

// ChainName is the origin: the first line of the checkpoints of a chain, and the name of the
// key that signs them.
func ChainName(trustDomain, chain string) string { return trustDomain + "/assay/ledger/" + chain }

func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\ntime %s\n", ChainName(c.TrustDomain, c.Chain), c.Size,
		base64.StdEncoding.EncodeToString(c.Head[:]), c.Time.UTC().Format(time.RFC3339))
}

// ParseCheckpoint checks the signature of a checkpoint and reads it.
func ParseCheckpoint(note []byte, key VerifierKey) (Checkpoint, error) {
	text, err := openNote(note, key)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint: %w", err)
	}
	return parseCheckpointText(text)
}

// parseCheckpointText reads what text writes; only the canonical form passes.
func parseCheckpointText(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 5 {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint: %d lines, want 4 or more", len(lines)-1)
	}
	td, chain, ok := strings.Cut(lines[0], "/assay/ledger/")
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if !ok || td == "" || chain == "" || err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint: origin or size is damaged")
	}
	head, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(head) != 32 {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint: the head is not 32 bytes in base64")
	}
	at, err := time.Parse(time.RFC3339, strings.TrimPrefix(lines[3], "time "))
	if err != nil || !strings.HasPrefix(lines[3], "time ") {
		return Checkpoint{}, fmt.Errorf("ledger: checkpoint: the time is damaged")
	}
	return Checkpoint{TrustDomain: td, Chain: chain, Size: size, Head: [32]byte(head), Time: at.UTC()}, nil
}

// sigPrefix begins each signature line of a signed note.
const sigPrefix = "— "

// tornMark ends what a crash left incomplete in a sink.
const tornMark = sigPrefix + "incomplete"

// SplitNotes takes a file of signed notes apart: each note ends with its
// signature lines, and an empty line follows. Pieces that a server marked as
// left incomplete by a crash are dropped; whether the rest are checkpoints is
// for the caller to check. A piece without signature lines at the end is
// dropped too: it was being written when the file was read.
func SplitNotes(file []byte) [][]byte {
	var out [][]byte
	var note strings.Builder
	signed := false
	flush := func() {
		if signed && !strings.HasSuffix("\n"+note.String(), "\n"+tornMark+"\n") {
			out = append(out, []byte(note.String()))
		}
		note.Reset()
		signed = false
	}
	for line := range strings.Lines(string(file)) {
		isSig := strings.HasPrefix(line, sigPrefix) && strings.HasSuffix(line, "\n")
		if signed && !isSig {
			flush()
		}
		if note.Len() == 0 && strings.TrimSpace(line) == "" {
			continue
		}
		note.WriteString(line)
		signed = isSig
	}
	flush()
	return out
}
