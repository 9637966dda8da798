package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"

	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/child"
	"github.com/assay-project/assay/enclave-agent/config"
	"github.com/assay-project/assay/enclave-agent/files"
	"github.com/assay-project/assay/internal/cli"
)

// writeFlags say which files the agent keeps for software that reads PEM.
type writeFlags struct {
	dir           string
	unsafe        bool
	owner         string
	keyMode       string
	id            string
	tokens        []string
	awsRole       string
	awsSession    string
	awsRegion     string
	reloadSignal  string
	reloadPIDFile string
	reloadCommand string
	reloadTimeout time.Duration
}

const unsafeFlag = "keys-on-disk-unsafe"

func (f *writeFlags) add(c *cobra.Command) {
	l := c.Flags()
	l.StringVar(&f.dir, "write", "", "keep svid.pem, svid.key and bundle.pem in this directory, which must be on a tmpfs or ramfs")
	addUnsafe(c, &f.unsafe)
	l.StringVar(&f.owner, "write-owner", "", "USER or USER:GROUP, by name or number, that the files belong to")
	l.StringVar(&f.keyMode, "write-key-mode", "0600", "mode of keys and tokens: 0400, 0440, 0600 or 0640")
	cli.Complete(c, "write-key-mode", "0400", "0440", "0600", "0640")
	l.StringVar(&f.id, "write-id", "", "SPIFFE ID of the one identity to write (default: all, the first as svid.pem, the next as svid.1.pem)")
	l.StringArrayVar(&f.tokens, "jwt", nil, "AUDIENCE=FILE: keep a JWT-SVID for the audience in this file of the directory; repeatable")
	l.StringVar(&f.awsRole, "aws-role", "", "ARN of an AWS role: keep its token in aws-token, and the variables of AWS SDKs in aws.env")
	l.StringVar(&f.awsSession, "aws-session", files.DefaultAWSSession, "name of the role's session")
	l.StringVar(&f.awsRegion, "aws-region", "", "AWS region for the SDKs")
	l.StringVar(&f.reloadSignal, "reload-signal", "", "signal, such as HUP, that tells the workload to read its files again")
	cli.Complete(c, "reload-signal", "HUP", "USR1", "USR2")
	l.StringVar(&f.reloadPIDFile, "reload-pid-file", "", "file that names the process to signal")
	l.StringVar(&f.reloadCommand, "reload-command", "", "command to run when certificates changed; split at spaces, no shell")
	l.DurationVar(&f.reloadTimeout, "reload-timeout", files.DefaultReloadTimeout, "how long the command may take before it is killed")
}

func addUnsafe(c *cobra.Command, into *bool) {
	c.Flags().BoolVar(into, unsafeFlag, false, "let the directory be on a disk, which the host can read, for identities whose policy says key_residency: file")
}

// check refuses flags that say nothing without --write.
func (f *writeFlags) check(c *cobra.Command, hasChild bool) error {
	if f.dir == "" {
		for _, name := range []string{unsafeFlag, "write-owner", "write-key-mode", "write-id", "jwt", "aws-role", "aws-session", "aws-region", "reload-signal", "reload-pid-file", "reload-command", "reload-timeout"} {
			if c.Flags().Changed(name) {
				return cli.Usagef("for example --write /run/orders", "--%s says nothing without --write DIR", name)
			}
		}
		return nil
	}
	if f.id != "" {
		if _, err := spiffeid.FromString(f.id); err != nil {
			return cli.Usagef("for example --write-id spiffe://attested.example.org/orders", "--write-id %q: %w", f.id, err)
		}
	}
	switch {
	case f.reloadSignal != "" && f.reloadPIDFile == "" && !hasChild:
		return cli.Usagef("for example --reload-pid-file /run/nginx.pid", "--reload-signal needs --reload-pid-file: which process is signalled")
	case f.reloadPIDFile != "" && f.reloadSignal == "":
		return cli.Usagef("for example --reload-signal HUP", "--reload-pid-file needs --reload-signal")
	case f.reloadTimeout <= 0 || f.reloadTimeout > files.MaxReloadTimeout:
		return cli.Usagef("for example 10s", "--reload-timeout: more than 0, and at most %s", files.MaxReloadTimeout)
	case f.awsRole == "" && (c.Flags().Changed("aws-session") || c.Flags().Changed("aws-region")):
		return cli.Usagef("for example --aws-role arn:aws:iam::123456789012:role/payments", "--aws-session and --aws-region say nothing without --aws-role")
	}
	return nil
}

// openFor is open for the agent of this process.
func (f *writeFlags) openFor(s *config.Settings, keeper *child.Keeper, toChild func(syscall.Signal) error, log *slog.Logger) (*files.Writer, func(), error) {
	if f.dir != "" && s.KeyResidency == agent.TPMKeys {
		return nil, nil, cli.Usagef("set key_residency: software in the agent's configuration, or have programs ask the agent to sign: assay.agent.v1", "--write: keys live in the TPM and cannot be written")
	}
	return f.open(s.Config.Socket, keeper, toChild, log)
}

// open makes the writer; nil without --write. toChild signals the workload that the
// agent itself started, and may be nil. The keeper runs reload commands.
func (f *writeFlags) open(socket string, keeper *child.Keeper, toChild func(syscall.Signal) error, log *slog.Logger) (*files.Writer, func(), error) {
	if f.dir == "" {
		return nil, func() {}, nil
	}
	o := files.Options{OnDiskUnsafe: f.unsafe}
	mode, err := strconv.ParseUint(f.keyMode, 8, 9)
	if err != nil || mode == 0 {
		return nil, nil, cli.Usagef("for example 0640", "--write-key-mode: %q is no mode", f.keyMode)
	}
	o.KeyMode = fs.FileMode(mode)
	if f.owner != "" {
		if o.Owner, err = findOwner(f.owner); err != nil {
			return nil, nil, cli.Usagef("for example --write-owner app, or 1000:1000", "--write-owner: %w", err)
		}
	}
	conf := files.Config{Socket: socket, ID: f.id, Log: log}
	for _, t := range f.tokens {
		audience, name, ok := lastCut(t, "=")
		if !ok {
			return nil, nil, cli.Usagef("for example --jwt vault=vault-token", "--jwt: %q is not AUDIENCE=FILE", t)
		}
		conf.Tokens = append(conf.Tokens, files.TokenFile{Audience: audience, Name: name})
	}
	if f.awsRole != "" {
		conf.AWS = &files.AWS{Role: f.awsRole, Session: f.awsSession, Region: f.awsRegion}
	}
	reload, err := f.reload(keeper, toChild, log)
	if err != nil {
		return nil, nil, err
	}
	if conf.Dir, err = openDir(f.dir, o); err != nil {
		return nil, nil, err
	}
	w, err := files.NewWriter(conf)
	if err != nil {
		_ = conf.Dir.Close()
		hint := ""
		if errors.Is(err, files.ErrBusy) {
			hint = "give each agent a directory of its own"
		}
		return nil, nil, cli.Usagef(hint, "%w", err)
	}
	if reload != nil {
		reload.Env = child.Environ(os.Environ(), append(w.Environ(), endpointVariable+"=unix://"+socket)...)
		w.OnChange(reload.Do)
	}
	if swapping() && !conf.Dir.OnDisk() {
		log.Warn("this machine swaps: what is in memory can get onto a disk", "hint", "turn swap off, or use a ramfs")
	}
	return w, func() { _ = conf.Dir.Close() }, nil
}

// lastCut cuts at the last separator: an audience may hold one, a file's name here
// need not.
func lastCut(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func openDir(path string, o files.Options) (*files.Dir, error) {
	d, err := files.Open(path, o)
	switch {
	case err == nil:
		return d, nil
	case errors.Is(err, files.ErrDisk):
		return nil, cli.Usagef("use a directory on a tmpfs, such as /run/orders; or --"+unsafeFlag+", and key_residency: file in the policy", "%w", err)
	case errors.Is(err, files.ErrPermission):
		return nil, cli.Usagef("use a directory of your own that only you can write to: chmod 0755", "%w", err)
	case errors.Is(err, files.ErrMode):
		return nil, cli.Usagef("a group can be let in with 0640", "%w", err)
	}
	return nil, cli.Usagef("choose a directory that you may write to", "%w", err)
}

func (f *writeFlags) reload(keeper *child.Keeper, toChild func(syscall.Signal) error, log *slog.Logger) (*files.Reload, error) {
	if f.reloadSignal == "" && f.reloadCommand == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	r := &files.Reload{PIDFile: f.reloadPIDFile, Timeout: f.reloadTimeout, Keeper: keeper, Log: log}
	if f.reloadSignal != "" {
		name := strings.ToUpper(f.reloadSignal)
		if r.Signal = unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG")); r.Signal == 0 {
			return nil, cli.Usagef("for example HUP or USR1", "--reload-signal: there is no signal %q", f.reloadSignal)
		}
		if f.reloadPIDFile == "" {
			r.Child = toChild
		}
	}
	if f.reloadCommand != "" {
		r.Command = strings.Fields(f.reloadCommand)
		if len(r.Command) == 0 {
			return nil, cli.Usagef("for example --reload-command 'nginx -s reload'", "--reload-command is empty")
		}
		path, err := exec.LookPath(r.Command[0])
		if err != nil {
			return nil, cli.Usagef("name an executable", "--reload-command: %w", err)
		}
		r.Command[0] = path
	}
	return r, nil
}

// findOwner reads USER or USER:GROUP. A number needs no account; without a group it is
// the account's, and for a number without an account that number.
func findOwner(s string) (*files.Owner, error) {
	name, group, grouped := strings.Cut(s, ":")
	o := &files.Owner{}
	u, err := user.Lookup(name)
	if n, nerr := strconv.ParseUint(name, 10, 31); nerr == nil {
		o.UID, o.GID = int(n), int(n)
		u, err = user.LookupId(name)
		if err != nil {
			u, err = nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if u != nil {
		if o.UID, err = strconv.Atoi(u.Uid); err != nil {
			return nil, err
		}
		if o.GID, err = strconv.Atoi(u.Gid); err != nil {
			return nil, err
		}
	}
	if !grouped {
		return o, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		o.GID = int(n)
		return o, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return nil, err
	}
	o.GID, err = strconv.Atoi(g.Gid)
	return o, err
}

// swapping reports whether the kernel has somewhere to swap to.
func swapping() bool {
	b, err := os.ReadFile("/proc/swaps")
	return err == nil && strings.Count(strings.TrimSpace(string(b)), "\n") > 0
}

// waitReady waits for the files, or for the end.
func waitReady(ctx context.Context, w *files.Writer) bool {
	select {
	case <-ctx.Done():
		return false
	case <-w.Ready():
		return true
	}
}
