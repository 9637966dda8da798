package ledger

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// MainChain is the name of the chain of the only server of a trust domain.
const MainChain = "main"

// Options are the settings of a ledger. Now is required; every other zero field
// takes its default.
type Options struct {
	// Chain is the name of this server's chain: "main". Several servers on one
	// database have one each.
	Chain string
	// Now is the clock.
	Now func() time.Time
	// Log receives what an operator should see; nil discards it.
	Log *slog.Logger
	// Sink is a file to which every checkpoint is appended, best on another
	// machine's disk: who holds it can tell when the ledger is cut. Empty: none.
	Sink string
	// A checkpoint is made after CheckpointEntries entries (1024), or
	// CheckpointInterval (1 minute) after an entry, whatever comes first.
	CheckpointEntries  int
	CheckpointInterval time.Duration
	// Quotas bound what attesters can make the server store.
	Quotas Quotas
	// Retain is how long evidence, certificates and denials are kept (30 days).
	Retain time.Duration
}

// Ledger is one chain of a trust domain, with its writer.
type Ledger struct {
	*Reader
	simulated bool
	signer    crypto.Signer
	key       VerifierKey
	opt       Options
	log       *slog.Logger

	records      chan *request
	denials      chan *denialRequest
	certificates chan store.Certificate
	wanted       chan chan checkpointResult
	stopping     chan struct{} // closed when Run begins to stop: nothing new is taken
	stopped      chan struct{} // closed when Run has ended: nothing queued will be written
	running      atomic.Bool
	sink         *sink

	// Only the writer touches these once Run has begun.
	head        store.Head
	unsure      *store.Head // after a failed commit: what the head may be instead
	covered     uint64      // entries that the last checkpoint covers
	uncoveredAt time.Time   // when the first entry after it was committed

	latest atomic.Pointer[signedCheckpoint]

	peerKeys PeerKeys
	peers    []Peer // as they were seen last, by name; only the writer touches them

	serials       *serials
	eventLogs     known
	rejected      rejections
	perEvidence   window
	perDenial     window
	quotas        atomic.Pointer[Quotas] // in force
	evidence      budget
	deniedBytes   budget // evidence of denials
	denialPayload budget
	counters      counters
}

type signedCheckpoint struct {
	note []byte
	Checkpoint
}

// Open reads the end of the chain and checks it: every entry since the last
// stored checkpoint is hashed again, and checkpoint and sink must agree with it.
// It starts nothing; see [Ledger.Run]. The checks:
//
//	ledger_trust_domain   the database serves this trust domain
//	ledger_key            the checkpoint key is Ed25519
//	chain_… checkpoint_…  as in [VerifyChain], from the last checkpoint on
//	sink_ahead            the sink's last checkpoint is not in this database
func Open(ctx context.Context, st store.Store, trustDomain string, signer crypto.Signer, o Options) (*Ledger, error) {
	l, err := prepare(ctx, st, trustDomain, signer, o)
	if err != nil {
		return nil, err
	}
	if err := l.checkTail(ctx); err != nil {
		return nil, err
	}
	if l.opt.Sink != "" {
		if l.sink, err = l.openSink(ctx, l.opt.Sink); err != nil {
			return nil, err
		}
	}
	return l, l.measure(ctx)
}

// Check makes the checks of Open and changes nothing, also while a server runs
// (open the store read-only).
func Check(ctx context.Context, st store.Store, trustDomain string, signer crypto.Signer, o Options) error {
	l, err := prepare(ctx, st, trustDomain, signer, o)
	if err != nil {
		return err
	}
	if err := l.checkTail(ctx); err != nil {
		return err
	}
	if l.opt.Sink != "" {
		return l.checkSink(ctx, l.opt.Sink)
	}
	return nil
}

// prepare makes a ledger that has read nothing of the chain yet.
func prepare(ctx context.Context, st store.Store, trustDomain string, signer crypto.Signer, o Options) (*Ledger, error) {
	if o.Now == nil {
		return nil, errors.New("ledger: Options.Now is required")
	}
	def(&o.Chain, MainChain)
	def(&o.CheckpointEntries, 1024)
	def(&o.CheckpointInterval, time.Minute)
	def(&o.Retain, 30*24*time.Hour)
	o.Quotas = o.Quotas.withDefaults()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !validChain(o.Chain) {
		return nil, fmt.Errorf("ledger: %.70q is not the name of a chain: want 1 to 64 of a-z, 0-9 and '-'", o.Chain)
	}
	td, err := st.TrustDomain(ctx, trustDomain)
	if err != nil {
		return nil, &attest.Error{
			Kind: attest.Internal, Check: "ledger_trust_domain",
			Err:  fmt.Errorf("the database does not serve %s: %w", trustDomain, err),
			Hint: "check trust_domain and the data directory in the configuration; 'assayd init' creates a trust domain",
		}
	}
	key, err := NewVerifierKey(ChainName(trustDomain, o.Chain), signer.Public())
	if err != nil {
		return nil, &attest.Error{Kind: attest.Internal, Check: "ledger_key", Err: err, Hint: "restore checkpoint.key from a backup"}
	}
	l := &Ledger{
		Reader: NewReader(st, trustDomain, o.Chain), simulated: td.Simulated, signer: signer, key: key, opt: o, log: o.Log,
		records: make(chan *request, maxBatch), denials: make(chan *denialRequest, maxDenialQueue),
		certificates: make(chan store.Certificate, maxCertificateQueue), wanted: make(chan chan checkpointResult),
		stopping: make(chan struct{}), stopped: make(chan struct{}), serials: newSerials(rememberedSerials),
	}
	l.SetQuotas(o.Quotas)
	return l, nil
}

// validChain accepts names that are safe in a checkpoint's origin: a server's, or
// one of [RestoredChain].
func validChain(name string) bool {
	server, since, restored := strings.Cut(name, ".")
	if restored {
		if _, err := time.Parse(restoredFormat, since); err != nil {
			return false
		}
	}
	ok := server != "" && len(server) <= 64
	for _, c := range []byte(server) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	return ok
}

// checkTail verifies the chain from the last stored checkpoint to its end, and
// sets head and covered.
func (l *Ledger) checkTail(ctx context.Context) error {
	last, err := l.st.LastCheckpoint(ctx, l.trustDomain, l.chain)
	var from Checkpoint
	switch {
	case errors.Is(err, store.ErrNotFound):
		from = Checkpoint{TrustDomain: l.trustDomain, Chain: l.chain}
	case err != nil:
		return unavailable(err)
	default:
		if from, err = l.openCheckpoint(last.Note, l.key); err != nil {
			return err
		}
		if err := l.checkAgainst(ctx, from); err != nil {
			return err
		}
		l.latest.Store(&signedCheckpoint{last.Note, from})
		l.peers = slices.Clone(from.Peers)
	}
	// The last commit of this server's process of before may still be under way in the
	// database. Head waits for it, by the lock that appending takes.
	if _, err := l.st.Head(ctx, l.trustDomain, l.chain); err != nil {
		return unavailable(err)
	}
	v := newChainVerifier(l.trustDomain, l.chain)
	v.at = store.Head{Sequence: from.Size, Hash: from.Head}
	for item, err := range l.Entries(ctx, from.Size) {
		if err != nil {
			return unavailable(err)
		}
		if err := v.next(item); err != nil {
			return err
		}
		if l.uncoveredAt.IsZero() { // since then, however often the server was killed
			l.uncoveredAt = item.Entry.Time
		}
	}
	l.head, l.covered = v.at, from.Size
	l.counters.size.Store(l.head.Sequence)
	return nil
}

// checkAgainst compares a checkpoint of ours with what the store holds at its
// size.
func (l *Ledger) checkAgainst(ctx context.Context, c Checkpoint) error {
	if c.Size == 0 {
		return nil
	}
	e, err := l.st.Entry(ctx, l.trustDomain, l.chain, c.Size)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return truncated(c, 0)
	case err != nil:
		return unavailable(err)
	case e.Hash != c.Head:
		return mismatch(c, e.Hash)
	}
	return nil
}

// measure reads what the bounded tables hold.
func (l *Ledger) measure(ctx context.Context) error {
	u, err := l.st.Usage(ctx, l.trustDomain)
	if err != nil {
		return unavailable(err)
	}
	l.evidence.set(u.Evidence)
	l.deniedBytes.set(u.DeniedEvidence)
	l.denialPayload.set(u.DenialBytes)
	return nil
}

// Key is the public key of the checkpoints.
func (l *Ledger) Key() VerifierKey { return l.key }

// LatestCheckpoint returns the newest signed checkpoint, or nil before the
// first. It reads no database.
func (l *Ledger) LatestCheckpoint() []byte {
	if c := l.latest.Load(); c != nil {
		return c.note
	}
	return nil
}

// Stats is what a ledger counts, for metrics. Counters begin at 0 with the
// process.
type Stats struct {
	Size            uint64 // entries in the chain
	Queue           int    // records that wait for the writer
	Records         uint64 // entries committed
	Commits         uint64 // transactions with entries
	Failures        uint64 // transactions that failed, with all in them
	Denials         uint64 // denials stored
	DenialsDropped  uint64 // denials not stored: quota, or the queue was full
	EvidenceDropped uint64 // evidence not stored: quota or budget
	ResultsDropped  uint64 // certificates not stored: the queue was full, or the commit failed
	SinkFailures    uint64 // checkpoints that could not be appended to the sink
	PeerFaults      uint64 // times that another server's chain was found cut or written anew

	CheckpointSize uint64    // entries that the newest checkpoint covers
	CheckpointTime time.Time // its time; zero before the first
}

type counters struct {
	size, records, commits, failures, denials, denialsDropped, evidenceDropped, resultsDropped, sinkFailures, peerFaults atomic.Uint64
}

// Stats returns the counters.
func (l *Ledger) Stats() Stats {
	c := &l.counters
	s := Stats{
		Size: c.size.Load(), Queue: len(l.records), Records: c.records.Load(), Commits: c.commits.Load(), Failures: c.failures.Load(),
		Denials: c.denials.Load(), DenialsDropped: c.denialsDropped.Load(), EvidenceDropped: c.evidenceDropped.Load(),
		ResultsDropped: c.resultsDropped.Load(), SinkFailures: c.sinkFailures.Load(), PeerFaults: c.peerFaults.Load(),
	}
	if cp := l.latest.Load(); cp != nil {
		s.CheckpointSize, s.CheckpointTime = cp.Size, cp.Time
	}
	return s
}

// unavailable wraps what the store or the writer refused.
func unavailable(err error) error {
	return &attest.Error{Kind: attest.Unavailable, Check: "ledger", Err: err, Hint: "look at the server's log; check the disk's free space and health"}
}

// errStopped answers those who come while the ledger stops.
var errStopped = errors.New("the ledger is stopping")
