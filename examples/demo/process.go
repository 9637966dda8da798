package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one of the demo's long-running programs.
type process struct {
	name string
	cmd  *exec.Cmd
	out  *transcript
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done
}

// transcript keeps what a process prints, in memory and in a file.
type transcript struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	file io.Writer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	return t.file.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// start runs a program of ours and logs what it prints to NAME.log.
func (d *demo) start(name string, env []string, program string, args ...string) (*process, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(d.program(program), args...), out: &transcript{file: f}, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		_ = f.Close()
		close(p.done)
	}()
	d.running = append(d.running, p)
	return p, nil
}

// until waits for the condition, for the end of the process, or for 20 s.
func (p *process) until(ctx context.Context, what string, ok func() bool) error {
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before %s: %s\n%s", p.name, what, p.cmd.ProcessState, p.out)
		case <-deadline:
			return fmt.Errorf("%s: waited 20 s for %s\n%s", p.name, what, p.out)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// says waits until the process has printed the text.
func (p *process) says(ctx context.Context, text string) error {
	return p.until(ctx, fmt.Sprintf("it says %q", text), func() bool { return strings.Contains(p.out.String(), text) })
}

// stop ends the process in an orderly way and reports if it did not go so.
func (p *process) stop() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s had already ended: %s\n%s", p.name, p.cmd.ProcessState, p.out)
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop within 10 s of SIGTERM\n%s", p.name, p.out)
	}
	if p.err != nil {
		return fmt.Errorf("%s ended with %w\n%s", p.name, p.err, p.out)
	}
	return nil
}

// run executes one of our commands to its end and returns what it printed.
func (d *demo) run(ctx context.Context, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.program(program), args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", program, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// program finds the binaries next to this one.
func (d *demo) program(name string) string { return filepath.Join(d.bin, name) }

// stop ends one process before the others.
func (d *demo) stop(p *process) error {
	d.running = slices.DeleteFunc(d.running, func(r *process) bool { return r == p })
	return p.stop()
}

// stopAll ends every process, the newest first.
func (d *demo) stopAll() error {
	var errs []error
	for i := len(d.running) - 1; i >= 0; i-- {
		if err := d.running[i].stop(); err != nil {
			errs = append(errs, err)
		}
	}
	d.running = nil
	return errors.Join(errs...)
}
