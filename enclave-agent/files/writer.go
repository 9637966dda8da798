package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Waits between two tries. An agent that is about to attest is asked often.
const (
	retryBase  = 50 * time.Millisecond
	retryCap   = 5 * time.Second
	deniedWait = 30 * time.Second // for a token that policy does not grant
	minRefresh = time.Second
	lookEvery  = 2 * time.Second // whether the directory is still where its path leads
)

// TokenFile is a JWT-SVID that is kept in a file.
type TokenFile struct {
	Audience string
	Name     string // of a file in the directory
}

// Config is what a Writer keeps in files.
type Config struct {
	Socket string // of the agent, an absolute path
	Dir    *Dir
	ID     string // the one identity that is written; "" is all
	Tokens []TokenFile
	AWS    *AWS         // nil is none
	Log    *slog.Logger // nil discards
}

// Writer keeps files as fresh as the agent's answers. Make one with [NewWriter].
type Writer struct {
	c      Config
	ready  chan struct{}
	reload func(context.Context)

	mu      sync.Mutex
	waiting map[string]bool // what was not written once yet
	said    map[string]bool // what the log says already
}

// NewWriter checks a configuration, and claims the directory.
func NewWriter(c Config) (*Writer, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.AWS != nil {
		if err := c.AWS.check(c.Dir.Path()); err != nil {
			return nil, err
		}
		c.Tokens = append(slices.Clone(c.Tokens), TokenFile{AWSAudience, awsTokenFile})
	}
	w := &Writer{c: c, ready: make(chan struct{}), waiting: map[string]bool{"svid.pem": true}, said: map[string]bool{}}
	for _, t := range c.Tokens {
		switch {
		case t.Audience == "":
			return nil, fmt.Errorf("the token in %s has no audience", t.Name)
		case !ownName(t.Name):
			return nil, fmt.Errorf("%q is not the name of a file in %s", t.Name, c.Dir.Path())
		case reserved(t.Name):
			return nil, fmt.Errorf("the name %s is taken by another file", t.Name)
		case w.waiting[t.Name]:
			return nil, fmt.Errorf("two tokens in %s", t.Name)
		}
		w.waiting[t.Name] = true
	}
	if err := c.Dir.Claim(); err != nil {
		return nil, err
	}
	return w, nil
}

// reserved reports whether certificates, keys or variables may have the name.
func reserved(name string) bool {
	for _, p := range []string{"svid.", "svid-with-key.", "bundle.", "federated."} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return name == awsEnvFile
}

// Ready is closed once there is an identity in the files, and each token that policy
// grants.
func (w *Writer) Ready() <-chan struct{} { return w.ready }

// Environ are the variables by which software finds the files, as NAME=VALUE.
func (w *Writer) Environ() []string {
	dir := w.c.Dir.Path()
	out := []string{"ASSAY_SVID_FILE=" + dir + "/svid.pem", "ASSAY_KEY_FILE=" + dir + "/svid.key", "ASSAY_BUNDLE_FILE=" + dir + "/bundle.pem"}
	if w.c.AWS != nil {
		out = append(out, w.c.AWS.Environ(dir)...)
	}
	return out
}

// OnChange has reload called after each change of certificates and keys, one call at
// a time. It is to be set before Run.
func (w *Writer) OnChange(reload func(context.Context)) { w.reload = reload }

// Run keeps the files until ctx ends, then returns nil. What is written stays, so
// that the workload outlives a restart of the agent. No failure ends it: the log
// says what it is, and it tries again.
func (w *Writer) Run(ctx context.Context) error {
	c, err := dial(w.c.Socket)
	if err != nil {
		return err
	}
	defer c.close()
	if w.c.Dir.OnDisk() {
		w.c.Log.Warn("keys and tokens are written to a disk, which the host can read, where policy permits it", "dir", w.c.Dir.Path())
	}
	if err := w.keep(ctx, c); err != nil {
		return err
	}
	for wait := retryBase; ctx.Err() == nil; {
		anew, err := w.c.Dir.Reopen()
		if anew {
			w.c.Log.Warn("the directory was moved or made anew: its files are written again", "dir", w.c.Dir.Path())
		}
		if err == nil {
			err = w.keep(ctx, c)
		}
		if err == nil {
			w.well("dir")
			wait = retryBase
			continue
		}
		w.trouble("dir", "nothing is written: the directory was moved or removed, and the one in its place cannot be used", err, "dir", w.c.Dir.Path(), "hint", "it must be on a tmpfs, belong to root or the agent's user, and be changed by nobody else")
		if !sleep(ctx, wait) {
			return nil
		}
		wait = min(2*wait, retryCap)
	}
	return nil
}

// keep keeps the files until ctx ends, or until the directory is another.
func (w *Writer) keep(ctx context.Context, c *client) error {
	if w.c.AWS != nil {
		if err := w.c.Dir.Replace(w.c.AWS.envFile(w.c.Dir.Path())); err != nil {
			return err
		}
	}
	changed := make(chan struct{}, 1)
	ctx, end := context.WithCancel(ctx)
	defer end()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.certificates(ctx, c, changed) })
	g.Go(func() error { return w.reloads(ctx, changed) })
	for _, t := range w.c.Tokens {
		g.Go(func() error { return w.token(ctx, c, t) })
	}
	g.Go(func() error {
		defer end()
		for !w.c.Dir.Moved() {
			if !sleep(ctx, lookEvery) {
				return nil
			}
		}
		return nil
	})
	return g.Wait()
}

// certificates follows the X.509-SVIDs.
func (w *Writer) certificates(ctx context.Context, c *client, changed chan<- struct{}) error {
	wait := retryBase
	for {
		err := c.watch(ctx, w.c.Dir.OnDisk(), func(m *material) error {
			err := w.put(m, changed)
			if err == nil {
				wait = retryBase // the agent is asked less and less while nothing can be written
			}
			return err
		})
		if ctx.Err() != nil {
			return nil
		}
		w.trouble("svid", "no certificates to write", err)
		if !sleep(ctx, wait) {
			return nil
		}
		wait = min(2*wait, retryCap)
	}
}

// put writes what may be written.
func (w *Writer) put(m *material, changed chan<- struct{}) error {
	if w.c.ID != "" {
		m.identities = slices.DeleteFunc(m.identities, func(i identity) bool { return i.svid.ID.String() != w.c.ID })
		if len(m.identities) == 0 {
			return fmt.Errorf("the agent has no identity %s for this process", w.c.ID)
		}
		m.first, m.away = m.identities[0].svid.ID.TrustDomain().Name(), nil // the only one here
	}
	var written []string
	for i := range m.identities {
		id := &m.identities[i]
		if len(id.svid.ID.TrustDomain().Name()) > maxDomainName && w.once("long "+id.svid.ID.String()) {
			w.c.Log.Error("the trust domain's name is too long for that of a file: the identity is not written, unless it is named alone", "spiffe_id", id.svid.ID.String())
		}
		if w.may(id) {
			written = append(written, id.svid.ID.String())
		} else if name := id.svid.ID.String(); w.once("disk " + name) {
			w.c.Log.Error("policy does not permit keys on a disk: the identity is not written", "check", "key_residency", "spiffe_id", name, "dir", w.c.Dir.Path(), "hint", "use a tmpfs; or permit it in the policy: issue: … key_residency: file")
		}
	}
	set, err := m.pems(w.may)
	if err != nil {
		return err
	}
	set = append(set, w.c.Dir.kept(func(file string) bool {
		n, ok := parseName(file)
		return ok && !slices.ContainsFunc(set, func(f File) bool { return f.Name == file }) && (m.away[n.td] || n.td == "" && m.away[m.first])
	})...)
	fresh, err := w.c.Dir.Put(set)
	if err != nil {
		return fmt.Errorf("files are not written; those of before stay: %w", err)
	}
	w.well("svid")
	if slices.ContainsFunc(set, func(f File) bool { n, ok := parseName(f.Name); return ok && n.td == "" && f.Secret }) {
		w.wrote("svid.pem") // or another of the first trust domain, which software is told of
	}
	if fresh {
		w.c.Log.Info("certificates and keys are written", "dir", w.c.Dir.Path(), "identities", strings.Join(written, " "), "files", len(set))
		select {
		case changed <- struct{}{}:
		default: // one reload is due already
		}
	}
	return nil
}

func (w *Writer) may(id *identity) bool { return !w.c.Dir.OnDisk() || id.onDisk }

// reloads has the workload read the files again.
func (w *Writer) reloads(ctx context.Context, changed <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if w.reload != nil {
				w.reload(ctx)
			}
		}
	}
}

// token keeps one token fresh.
func (w *Writer) token(ctx context.Context, c *client, f TokenFile) error {
	wait := retryBase
	for {
		next, err := w.renew(ctx, c, f)
		if ctx.Err() != nil {
			return nil
		}
		pause := max(time.Until(next), minRefresh)
		if err != nil {
			w.trouble(f.Name, "no token to write", err, "file", f.Name, "audience", f.Audience)
			pause, wait = wait, min(2*wait, retryCap)
			if errors.Is(err, errNotGranted) {
				w.wrote(f.Name) // who waits for it would wait for ever
				pause = deniedWait
			}
		} else {
			w.well(f.Name)
			w.wrote(f.Name)
			wait = retryBase
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// errNotGranted means that asking again changes nothing until the policy does.
var errNotGranted = errors.New("policy does not permit it")

// renew writes one token, and says when the next is due.
func (w *Writer) renew(ctx context.Context, c *client, f TokenFile) (time.Time, error) {
	select { // before there is an identity, a denial says nothing
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	default:
	}
	t, err := c.mint(ctx, f.Audience, w.c.ID)
	if status.Code(err) == codes.PermissionDenied && w.isWritten("svid.pem") {
		return time.Time{}, fmt.Errorf("%w: %s", errNotGranted, status.Convert(err).Message())
	}
	if err != nil {
		return time.Time{}, err
	}
	if w.c.Dir.OnDisk() {
		ok, err := c.mayBeOnDisk(ctx, t.id)
		if err != nil {
			return time.Time{}, err
		}
		if !ok {
			return time.Time{}, fmt.Errorf("%w: tokens of %s on a disk (issue: … key_residency: file)", errNotGranted, t.id)
		}
	}
	if err := w.c.Dir.Replace(File{Name: f.Name, Secret: true, Content: []byte(t.text)}); err != nil {
		return time.Time{}, fmt.Errorf("the token is not written; that of before stays: %w", err)
	}
	return t.refresh, nil
}

// trouble logs what is wrong once, until it is well again or is another thing. Before
// the first success, that there is nothing yet is no trouble: the agent says so itself.
func (w *Writer) trouble(what, msg string, err error, args ...any) {
	why := err.Error()
	if s, ok := status.FromError(err); ok {
		why = s.Message()
		if c := s.Code(); (c == codes.PermissionDenied || c == codes.Unavailable) && !w.isWritten("svid.pem") && !strings.Contains(why, "TPM") {
			return
		}
	}
	if w.once(what + " " + why) {
		w.c.Log.Warn(msg, append([]any{"error", why}, args...)...)
	}
}

func (w *Writer) well(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.said {
		if strings.HasPrefix(k, what+" ") {
			delete(w.said, k)
		}
	}
}

// maxSaid bounds what is remembered of the log.
const maxSaid = 256

func (w *Writer) once(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.said[what] {
		return false
	}
	if len(w.said) >= maxSaid {
		clear(w.said)
	}
	w.said[what] = true
	return true
}

func (w *Writer) wrote(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.waiting[name] {
		return
	}
	delete(w.waiting, name)
	if len(w.waiting) == 0 {
		close(w.ready)
	}
}

func (w *Writer) isWritten(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.waiting[name]
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
