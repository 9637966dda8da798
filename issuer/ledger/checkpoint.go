package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Checkpoint is a signed statement that a chain had this head at this size. Who
// keeps one outside can tell when the chain is cut or rewritten below it.
//
// Its text has four lines; further ones may follow, and those that it does not know
// a reader ignores:
//
//	ORIGIN               "TRUST_DOMAIN/assay/ledger/CHAIN"
//	SIZE                 decimal, the sequence number of the last entry
//	BASE64(head hash)    H_SIZE, 32 bytes
//	time RFC3339         the server's, UTC
//	peer ORIGIN SIZE BASE64(head hash)
//	                     for each other chain: the newest checkpoint of it that
//	                     this server had seen, and verified
type Checkpoint struct {
	TrustDomain, Chain string
	Size               uint64
	Head               [32]byte
	Time               time.Time
	Peers              []Peer // by chain
}

// Peer is what a checkpoint says of another chain of its trust domain.
type Peer struct {
	Chain string
	Size  uint64
	Head  [32]byte
}

// maxPeers bounds what a checkpoint says of others.
const maxPeers = 128

// ChainName is the origin: the first line of the checkpoints of a chain, and the name of the
// key that signs them.
func ChainName(trustDomain, chain string) string { return trustDomain + "/assay/ledger/" + chain }

func (c Checkpoint) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\ntime %s\n", ChainName(c.TrustDomain, c.Chain), c.Size,
		base64.StdEncoding.EncodeToString(c.Head[:]), c.Time.UTC().Format(time.RFC3339))
	for _, p := range c.Peers {
		fmt.Fprintf(&b, "peer %s %d %s\n", ChainName(c.TrustDomain, p.Chain), p.Size, base64.StdEncoding.EncodeToString(p.Head[:]))
	}
	return b.String()
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
	c := Checkpoint{TrustDomain: td, Chain: chain, Size: size, Head: [32]byte(head), Time: at.UTC()}
	for _, line := range lines[4:] {
		if !strings.HasPrefix(line, "peer ") {
			continue
		}
		p, err := c.parsePeer(line)
		if err != nil {
			return Checkpoint{}, fmt.Errorf("ledger: checkpoint: what it says of another chain is damaged: %w", err)
		}
		c.Peers = append(c.Peers, p)
	}
	return c, nil
}

// parsePeer reads a line about another chain of the same trust domain, in the
// order of their names, each once.
func (c Checkpoint) parsePeer(line string) (Peer, error) {
	f := strings.Split(line, " ")
	if len(f) != 4 {
		return Peer{}, fmt.Errorf("%d words, want 4", len(f))
	}
	name, ok := strings.CutPrefix(f[1], ChainName(c.TrustDomain, ""))
	size, err := strconv.ParseUint(f[2], 10, 63)
	head, herr := base64.StdEncoding.Strict().DecodeString(f[3])
	switch {
	case !ok || !validChain(name) || name == c.Chain:
		return Peer{}, errors.New("its origin is not that of another chain of the trust domain")
	case err != nil || strconv.FormatUint(size, 10) != f[2]:
		return Peer{}, errors.New("its size is not a number")
	case herr != nil || len(head) != 32:
		return Peer{}, errors.New("its head is not 32 bytes in base64")
	case len(c.Peers) == maxPeers:
		return Peer{}, fmt.Errorf("there are more than %d", maxPeers)
	case len(c.Peers) > 0 && c.Peers[len(c.Peers)-1].Chain >= name:
		return Peer{}, errors.New("they are not in the order of their names")
	}
	return Peer{Chain: name, Size: size, Head: [32]byte(head)}, nil
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
