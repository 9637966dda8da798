package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// Bounds of a helper command.
const (
	maxOutput = 4 << 10                // bytes of its output that are kept, the last
	drain     = 100 * time.Millisecond // for output that is on its way when it ended
	killWait  = 2 * time.Second        // for the kernel to end what was killed
)

// Ran is what a helper command did.
type Ran struct {
	Output string // standard output and error, the last 4 KiB
	Err    error  // nil where it ended with 0
}

// RunFor runs a command to its end, or kills it and its process group after a time.
// It reads no input. The keeper must run.
func (k *Keeper) RunFor(ctx context.Context, path string, args, env []string, within time.Duration) Ran {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return Ran{Err: err}
	}
	defer func() { _ = null.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		return Ran{Err: err}
	}
	c, err := k.Start(Command{Path: path, Args: args, Env: env, Files: [3]*os.File{null, w, w}})
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return Ran{Err: err}
	}
	out := &tail{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		out.from(r)
	}()
	err = c.wait(ctx, within)
	// Something that it left in the background may hold the pipe open for ever.
	t := time.NewTimer(drain)
	defer t.Stop()
	select {
	case <-read:
	case <-t.C:
	}
	_ = r.Close()
	<-read
	return Ran{Output: out.String(), Err: err}
}

// wait waits for the end, and brings it about when there is no more time.
func (c *Child) wait(ctx context.Context, within time.Duration) error {
	t := time.NewTimer(within)
	defer t.Stop()
	var cut error
	select {
	case <-c.done:
	case <-t.C:
		cut = fmt.Errorf("it did not end within %s and was killed", within)
	case <-ctx.Done():
		cut = errors.New("it was killed: the agent is stopping")
	}
	if cut == nil {
		if c.Code() != 0 {
			return errors.New(c.Outcome())
		}
		return nil
	}
	_ = c.SignalGroup(syscall.SIGKILL)
	k := time.NewTimer(killWait)
	defer k.Stop()
	select {
	case <-c.done:
	case <-k.C: // in the kernel, on a device that does not answer: it is reaped when it ends
	}
	return cut
}

// tail keeps the last bytes of what it reads.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func (t *tail) from(r *os.File) {
	buf := make([]byte, maxOutput)
	for {
		n, err := r.Read(buf)
		t.mu.Lock()
		t.kept = append(t.kept, buf[:n]...)
		t.kept = t.kept[max(0, len(t.kept)-maxOutput):]
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
