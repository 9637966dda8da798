// Package soak runs two servers on one database with many agents, breaks what can
// break, and looks whether what was promised holds: at all times, for all of them.
//
//	report, err := soak.Run(ctx, soak.Options{Seed: 7, Duration: 10 * time.Minute, Agents: 50, Out: os.Stdout})
//
// The servers are assayd, the database is PostgreSQL, operators use assay: each a
// process of its own, killed with kill -9. The agents are package agent in this
// process, on simulated Nitro enclaves with a device each. Nothing is relaxed but
// the times: authorities live for minutes, so that a planned rotation happens within
// the run, beside those that are forced.
//
// What must hold:
//
//  1. Every agent that has had its first SVID serves one that is live, at every look.
//  2. A relying party whose bundle and verifier keys are of any age up to the
//     propagation time verifies every SVID that it meets: go-spiffe's rules, package
//     svid's, and crypto/x509 by itself.
//  3. No serial that an agent was seen with is missing from the ledger; none is there
//     twice, nor is any key.
//  4. The chains verify, against the checkpoints that each server wrote to its sink,
//     and agree with what they say of each other.
//  5. A policy that is pushed to one server is in force on the other within seconds.
//  6. A relying party whose key set (the JWKS that servers publish) is of any age up to
//     the propagation time verifies every token that an agent is given, and every agent
//     is given one at least once a minute.
//  7. The deny-list of each server verifies under the pinned root at every look, never
//     goes back, and names nobody who is not banned.
//  8. Who is banned is on every server's deny-list within seconds, gets nothing more,
//     and gets an SVID again when the ban is lifted.
//  9. After a taint by force, for which an operator accepts that older bundles do not
//     verify, nobody holds anything of the old authority soon, it signs nothing more,
//     and a propagation time later 2 holds again for bundles of any age.
//
// What happens, and when, is drawn from the seed alone before anything starts: the
// same seed does the same again, as far as a machine can.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Options say what to run. Zero fields take their defaults.
type Options struct {
	Seed     uint64
	Duration time.Duration // of the storm, 10 minutes
	Agents   int           // 50
	Binaries string        // a directory with assayd and assay; built where it is empty
	Module   string        // the module's directory, for building: "."
	Out      io.Writer     // what happens, as it happens; nil discards it
	Keep     bool          // leave the working directory behind, also when all is well
}

// Report is what was seen.
type Report struct {
	Seed       uint64
	Duration   time.Duration
	Looks      int               // at one agent's SVID
	Checks     int               // verifications by a relying party
	SVIDs      int               // different ones that were seen
	Entries    map[string]uint64 // of each chain
	Events     map[string]int
	Oldest     time.Duration // the oldest bundle with which a relying party verified
	Signers    int           // X.509 authorities that signed something
	Tokens     int           // JWT-SVIDs that were verified
	Minters    int           // keys that signed them
	Lists      int           // deny-lists that were verified
	Excused    int           // SVIDs that an older bundle did not verify after a taint by force
	Longest    time.Duration // the longest time in which no server answered
	Slowest    time.Duration // the slowest answer of an agent: how starved this machine was
	Violations []string
	Directory  string // of what is left behind
}

const (
	trustDomain = "simulated.soak.example"
	// propagation is how long an authority is published before it signs. What a
	// server gives out can be older than what is in the database by the time for
	// which it is cut off: lag. So a relying party's bundle is at most relyingAge old.
	propagation = 25 * time.Second
	lag         = 8 * time.Second
	relyingAge  = propagation - lag
	x509TTL     = 150 * time.Second // of an authority; the next one is prepared at half of it
	jwtTTL      = 170 * time.Second // of a key that signs tokens; likewise
	verifierTTL = 200 * time.Second
	svidTTL     = time.Minute
	tokenTTL    = 30 * time.Second
	audience    = "soak"
	backdate    = 30 * time.Second // of an SVID's NotBefore
)

// Run runs it. The error is of what could not be set up, or says that something did
// not hold: the report says what.
func Run(ctx context.Context, o Options) (*Report, error) {
	def(&o.Duration, 10*time.Minute)
	def(&o.Agents, 50)
	def(&o.Module, ".")
	if o.Out == nil {
		o.Out = io.Discard
	}
	dir, err := os.MkdirTemp("", "soak") // sockets need short paths
	if err != nil {
		return nil, err
	}
	r := &run{Options: o, dir: dir, began: time.Now(), report: &Report{
		Seed: o.Seed, Duration: o.Duration, Events: map[string]int{}, Entries: map[string]uint64{}, Directory: dir,
	}, serials: map[string]bool{}, signers: map[string]bool{}, minters: map[string]bool{}, told: map[string]bool{}, condemned: map[string]time.Time{}}
	err = r.all(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.SVIDs, r.report.Signers, r.report.Minters = len(r.serials), len(r.signers), len(r.minters)
	if n := len(r.report.Violations); n > 0 && err == nil {
		err = fmt.Errorf("%d violations; seed %d", n, o.Seed)
	}
	if err == nil && !o.Keep {
		r.report.Directory = ""
		err = os.RemoveAll(dir)
	}
	return r.report, err
}

// run is one run.
type run struct {
	Options
	dir   string
	began time.Time

	database *database
	servers  [2]*server
	agents   []*enclave

	mu      sync.Mutex
	report  *Report
	serials map[string]bool
	signers map[string]bool
	told    map[string]bool // violations of a kind that were told already
	minters map[string]bool // key IDs of tokens
	bundles []snapshot      // what relying parties can hold, oldest first
	keys    []keySet        // likewise, of who takes tokens
	relaxed time.Time       // until when a taint by force excuses who has an older bundle
	// Since when authorities (by key identifier) were tainted by force: nothing that
	// was issued later may be of theirs.
	condemned map[string]time.Time
	revision  int // of the policy in force
}

func (r *run) path(name string) string { return filepath.Join(r.dir, name) }

// say prints what happens, with the time since the start.
func (r *run) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.Out, "%8.2fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// violated puts on record what did not hold. One kind is printed once a subject,
// and counted always.
func (r *run) violated(kind, format string, args ...any) {
	text := kind + ": " + fmt.Sprintf(format, args...)
	r.mu.Lock()
	first := !r.told[text]
	r.told[text] = true
	if len(r.report.Violations) < 1000 {
		r.report.Violations = append(r.report.Violations, fmt.Sprintf("%.2fs  %s", time.Since(r.began).Seconds(), text))
	}
	r.mu.Unlock()
	if first {
		r.say("VIOLATION  %s", text)
	}
}

func (r *run) count(event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Events[event]++
}

// all sets up, storms, and looks at what is left.
func (r *run) all(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { err = errors.Join(err, r.tearDown()) }()
	if err := r.setUp(ctx); err != nil {
		return fmt.Errorf("setting up: %w", err)
	}
	var watching sync.WaitGroup
	lookCtx, stopLooking := context.WithCancel(ctx)
	defer watching.Wait()
	defer stopLooking()
	watching.Go(func() { r.gatherBundles(lookCtx) })
	for _, s := range r.servers {
		watching.Go(func() { r.follow(lookCtx, s) })
	}
	if err := r.firstSVIDs(ctx); err != nil {
		return err
	}
	for _, a := range r.agents {
		watching.Go(func() { r.look(lookCtx, a) })
		watching.Go(func() { r.mint(lookCtx, a) })
	}
	if err := r.storm(ctx); err != nil {
		return err
	}
	if err := r.calm(ctx); err != nil {
		return err
	}
	if err := r.noBans(ctx); err != nil {
		return err
	}
	stopLooking()
	watching.Wait()
	for _, a := range r.agents {
		a.stop()
	}
	// The last checkpoints: the second server's names what the first one left.
	for _, s := range r.servers {
		if err := s.stop(syscall.SIGTERM); err != nil {
			r.violated("stop", "%v", err)
		} else if s.code != 0 {
			r.violated("stop", "server %s ended with %d", s.name, s.code)
		}
	}
	return r.audit(ctx)
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
