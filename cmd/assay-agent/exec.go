package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/enclave-agent/child"
	"github.com/assay-project/assay/enclave-agent/files"
	"github.com/assay-project/assay/internal/cli"
)

func execCommand() *cobra.Command {
	var (
		f       deviceFlags
		w       writeFlags
		socket  string
		runAs   string
		timeout time.Duration
	)
	c := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARGUMENT]…",
		Short: "Run the agent, and a workload once there is an identity",
		Long: `exec runs the agent, waits for an identity, and then runs a command beside it
with SPIFFE_ENDPOINT_SOCKET in its environment. With --write, as in run, it waits
for the files too, and says where they are: ASSAY_SVID_FILE, ASSAY_KEY_FILE,
ASSAY_BUNDLE_FILE, and with --aws-role the variables of AWS SDKs.

It can be the first process of an enclave or a container: it hands signals on to
the command, reaps the processes that others leave behind, and ends with the
command's exit code (128 and the signal, where one ended it). Until the command
ends, the agent serves.

Run the command as a user of its own with --user: one that runs as the agent's
can open the TEE's device, and have evidence made over what it likes. One that
runs as root can also read the keys of all identities in the agent's memory.

Without --reload-pid-file, --reload-signal goes to the command, once it handles
that signal: a command that has only begun is not ended by it.

With --socket it runs no agent, and takes that of the socket.`,
		Example: `  assay-agent exec -- /usr/bin/orders --listen :8443
  assay-agent exec --user app -- /usr/bin/orders
  assay-agent exec --write /run/svid --user www-data --reload-signal HUP -- nginx -g 'daemon off;'
  assay-agent exec --socket /run/assay/agent.sock --timeout 1m -- /usr/bin/batch`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.Usagef("for example assay-agent exec -- /usr/bin/orders --listen :8443", "which command is to be run?")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := w.check(c, true); err != nil {
				return err
			}
			// Signals count from now on: those before the command runs wait for it.
			signals, stop := child.Signals()
			defer stop()
			x := &execution{signals: signals, files: &w, timeout: timeout, keeper: child.New()}
			if err := x.find(args, runAs); err != nil {
				return err
			}
			if runAs != "" && w.owner == "" {
				w.owner = runAs
			}
			if socket != "" {
				path, err := absoluteSocket(socket, "--socket")
				if err != nil {
					return err
				}
				x.log = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
				return x.beside(c.Context(), path)
			}
			s, err := f.load()
			if err != nil {
				return err
			}
			x.log = newLog(c.ErrOrStderr(), s)
			closeMemory(x.log)
			a, err := newAgent(c.Context(), s, x.log, func(string) {})
			if err != nil || a == nil {
				return err
			}
			writer, done, err := w.openFor(s, x.keeper, x.toCommand, x.log)
			if err != nil {
				return err
			}
			defer done()
			x.agent = true
			return x.run(c.Context(), s.Config.Socket, writer, a.Run)
		},
	}
	f.add(c)
	w.add(c)
	c.Flags().StringVar(&socket, "socket", "", "socket of an agent that runs already; without it, exec runs one")
	c.Flags().StringVar(&runAs, "user", "", "USER or USER:GROUP, by name or number, that the command runs as")
	c.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait for an identity (default: for ever)")
	c.Flags().SetInterspersed(false) // what follows the command is the command's
	return c
}

// execution is one run of a command beside an agent.
type execution struct {
	command child.Command
	signals <-chan os.Signal
	files   *writeFlags
	timeout time.Duration
	keeper  *child.Keeper
	log     *slog.Logger
	agent   bool // it is in this process

	mu      sync.Mutex
	started *child.Child // nil before
}

// find looks the command and its user up.
func (x *execution) find(args []string, runAs string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return cli.Usagef("name an executable", "%w", err)
	}
	x.command = child.Command{Path: path, Args: args, Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, Terminal: child.Terminal(), Foreground: onTerminal()}
	if runAs == "" {
		return nil
	}
	o, err := findOwner(runAs)
	if err != nil {
		return cli.Usagef("for example --user app, or 1000:1000", "--user: %w", err)
	}
	x.command.User = &syscall.Credential{Uid: uint32(o.UID), Gid: uint32(o.GID), Groups: groupsOf(o)}
	return nil
}

// groupsOf are the groups of a user's account; without an account none but its own.
func groupsOf(o *files.Owner) []uint32 {
	out := []uint32{uint32(o.GID)}
	u, err := user.LookupId(strconv.Itoa(o.UID))
	if err != nil {
		return out
	}
	ids, err := u.GroupIds()
	if err != nil {
		return out
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil && n < math.MaxUint32 && uint32(n) != out[0] {
			out = append(out, uint32(n))
		}
	}
	return out
}

// onTerminal reports whether standard input is a terminal.
func onTerminal() bool {
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	return err == nil
}

// beside runs the command beside an agent of another process.
func (x *execution) beside(ctx context.Context, socket string) error {
	writer, done, err := x.files.open(socket, x.keeper, x.toCommand, x.log)
	if err != nil {
		return err
	}
	defer done()
	return x.run(ctx, socket, writer, func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
}

// run runs agent, files and command. A signal that ends the agent before there is a
// command ends it all; later it is the command's, and the agent serves until the
// command has ended.
func (x *execution) run(ctx context.Context, socket string, writer *files.Writer, serve func(context.Context) error) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, life := errgroup.WithContext(life)
	g.Go(func() error { return serve(life) })
	g.Go(func() error { return x.keeper.Run(life) })
	if writer != nil {
		g.Go(func() error { return writer.Run(life) })
	}
	code, err := x.workload(ctx, life, socket, writer)
	end()
	if failed := g.Wait(); failed != nil {
		return failed
	}
	if err != nil || code == cli.OK {
		return err
	}
	return &cli.Silent{Code: code}
}

// workload waits for an identity, runs the command, and returns its exit code.
func (x *execution) workload(ctx, life context.Context, socket string, writer *files.Writer) (int, error) {
	wait, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(life, stop)()
	if x.timeout > 0 {
		wait, stop = context.WithTimeout(wait, x.timeout)
		defer stop()
	}
	env := []string{endpointVariable + "=unix://" + socket}
	if err := x.identity(wait, socket, writer); err != nil {
		switch {
		case life.Err() != nil:
			return 0, nil // what ended it is told by who ended
		case ctx.Err() != nil:
			return 128 + int(x.stopper()), nil
		}
		return 0, err
	}
	if writer != nil {
		env = append(env, writer.Environ()...)
	}
	x.command.Env = child.Environ(os.Environ(), env...)
	if x.command.User == nil {
		can := "the command runs as the agent's user: it can open the TEE's device"
		if os.Geteuid() == 0 {
			can += ", and, as root, read the keys of all identities in the agent's memory"
		}
		x.log.Warn(can, "hint", "give it a user of its own with --user")
	}
	c, err := x.keeper.Start(x.command)
	if x.agent && x.command.User != nil {
		closeMemory(x.log) // changing the user of what begins in it may have opened it (fs.suid_dumpable)
	}
	switch {
	case errors.Is(err, syscall.EPERM) && x.command.User != nil && os.Geteuid() != 0:
		return 0, cli.Usagef("only root can run a command as somebody else: leave --user out, or run the agent as root", "%w", err)
	case err != nil:
		return 0, cli.Usagef("is it an executable for this machine, and may the user run it", "%w", err)
	}
	x.mu.Lock()
	x.started = c
	x.mu.Unlock()
	x.log.Info("the command runs", "command", x.command.Path, "pid", c.PID())
	// An agent that fails takes the command along.
	defer context.AfterFunc(life, func() {
		_ = c.Signal(syscall.SIGTERM)
		_ = c.Signal(syscall.SIGCONT) // one that is stopped would not hear it
	})()
	code := c.Forward(x.signals)
	x.log.Info("the command ended", "command", x.command.Path, "outcome", c.Outcome(), "orphans_reaped", x.keeper.Orphans())
	return code, nil
}

// identity waits until a workload would get an identity, and for the files.
func (x *execution) identity(ctx context.Context, socket string, writer *files.Writer) error {
	x.log.Info("waiting for an identity", "command", x.command.Path)
	var why error
	for {
		h, err := askHealth(ctx, socket)
		if err == nil {
			err = h.verdict()
		}
		if err == nil {
			if writer == nil || waitReady(ctx, writer) {
				return nil
			}
			err = &attest.Error{Kind: attest.Unavailable, Check: "files", Err: errors.New("there is an identity, and its files are not written"), Hint: "the log says why"}
		}
		if why == nil || ctx.Err() == nil || attest.CheckOf(err) == "files" { // what a question says that was cut short is no reason
			why = err
		}
		if !wait(ctx) {
			return why
		}
	}
}

// stopper is the signal that ended the wait.
func (x *execution) stopper() syscall.Signal {
	for {
		select {
		case s := <-x.signals:
			if s == syscall.SIGINT {
				return syscall.SIGINT
			}
		default: // the other signal that ends
			return syscall.SIGTERM
		}
	}
}

// readiness is how long a command may take until it handles a signal that tells it of
// new files.
const readiness = 30 * time.Second

// toCommand tells the command of new files.
func (x *execution) toCommand(s syscall.Signal) error {
	x.mu.Lock()
	c := x.started
	x.mu.Unlock()
	if c == nil {
		return child.ErrEnded
	}
	return c.Tell(s, readiness)
}
