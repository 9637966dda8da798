package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-project/assay/attest"
)

// sink appends checkpoints to a file outside the database. It has a goroutine
// of its own, so that a slow or broken disk there never holds up the ledger; a
// checkpoint that could not be written is covered by the next.
type sink struct {
	f     *os.File
	queue chan []byte
	done  chan struct{}
}

const (
	sinkQueue   = 64
	sinkTail    = 64 << 10 // bytes of the file that are read at the start
	sinkTimeout = 5 * time.Second
)

// openSink opens the file for appending, and compares its last checkpoint with
// the database: a database that was rolled back is noticed here.
func (l *Ledger) openSink(ctx context.Context, path string) (*sink, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644) //nolint:gosec // public, and for others to read
	if err != nil {
		return nil, sinkFile(path, err)
	}
	whole, err := l.compareSink(ctx, path, f)
	if err == nil && !whole {
		l.log.Warn("ledger: the sink ends in an incomplete checkpoint, as after a crash; marking it", slog.String("sink", path))
		if _, werr := f.WriteString("\n" + tornMark + "\n\n"); werr != nil {
			err = sinkFile(path, werr)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &sink{f: f, queue: make(chan []byte, sinkQueue), done: make(chan struct{})}, nil
}

// checkSink is openSink for one who changes nothing: the file may be missing,
// its directory may not.
func (l *Ledger) checkSink(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return sinkFile(path, err)
		}
		return nil
	}
	if err != nil {
		return sinkFile(path, err)
	}
	_, err = l.compareSink(ctx, path, f)
	return errors.Join(err, f.Close())
}

func sinkFile(path string, err error) error {
	return &attest.Error{
		Kind: attest.Internal, Check: "sink_file", Err: fmt.Errorf("%s: %w", path, err),
		Hint: "check the path and permissions of the checkpoint sink in the configuration",
	}
}

// compareSink compares the last checkpoint in the file with the database. whole
// is false where the file ends within a checkpoint.
func (l *Ledger) compareSink(ctx context.Context, path string, f *os.File) (whole bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return false, sinkFile(path, err)
	}
	tail := make([]byte, min(info.Size(), sinkTail))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return false, sinkFile(path, err)
	}
	notes := SplitNotes(tail)
	for i := len(notes) - 1; i >= 0; i-- {
		cp, err := l.openCheckpoint(notes[i], l.key)
		if err != nil {
			continue // another chain's, or a piece: what counts is our last
		}
		if err := l.checkAgainst(ctx, cp); err != nil {
			return false, &attest.Error{
				Kind: attest.Internal, Check: "sink_ahead", Err: fmt.Errorf("%s: %w", path, err),
				Hint: "the database is older than the sink, or another one. After restoring a backup on purpose, move the sink file away and keep it: it shows what was lost",
			}
		}
		break
	}
	return len(tail) == 0 || bytes.HasSuffix(tail, []byte("\n\n")), nil
}

// put queues a note, or drops it where the sink is stuck.
func (s *sink) put(note []byte) {
	select {
	case s.queue <- note:
	default:
	}
}

// start runs the goroutine that writes.
func (s *sink) start(l *Ledger) {
	go func() {
		defer close(s.done)
		for note := range s.queue {
			// An empty line ends the note: see SplitNotes.
			_, err := s.f.Write(append(bytes.Clone(note), '\n'))
			if err == nil {
				err = s.f.Sync()
			}
			if err != nil {
				l.counters.sinkFailures.Add(1)
				l.log.Error("ledger: the sink refuses checkpoints", slog.Any("error", err))
			}
		}
		if err := s.f.Close(); err != nil {
			l.log.Error("ledger: closing the sink", slog.Any("error", err))
		}
	}()
}

// stop lets the goroutine write the rest, and waits for it for a while. Nothing
// may be put afterwards.
func (s *sink) stop(l *Ledger) {
	close(s.queue)
	select {
	case <-s.done:
	case <-time.After(sinkTimeout):
		l.log.Error("ledger: the sink is stuck; its last checkpoints are not written")
	}
}
