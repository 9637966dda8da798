package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

const (
	maxBatch            = 512              // entries of one commit
	maxDenialBatch      = 16               // denials that ride along
	maxCertificateQueue = 4096             // certificates that wait for a commit
	commitTimeout       = 30 * time.Second // of one transaction
	flushInterval       = time.Second      // how long a certificate waits when nothing else is written
	pruneInterval       = time.Hour
)

// request is one entry on its way to the writer.
type request struct {
	ctx      context.Context // of who waits for this request, and may give up
	entry    store.Entry     // without sequence and hash
	evidence *store.Evidence
	done     chan outcome // receives once, buffered
}

type outcome struct {
	sequence uint64
	hash     [32]byte
	err      error
}

type checkpointResult struct {
	note []byte
	err  error
}

// submit hands a request to the writer and waits for its outcome.
func (l *Ledger) submit(ctx context.Context, req *request) (outcome, error) {
	select {
	case <-l.stopping:
		return outcome{}, errStopped
	default:
	}
	select {
	case l.records <- req:
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	case <-l.stopping:
		return outcome{}, errStopped
	}
	select {
	case o := <-req.done:
		return o, o.err
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	case <-l.stopped:
		// The last batch may have answered at the same moment.
		select {
		case o := <-req.done:
			return o, o.err
		default:
			return outcome{}, errStopped
		}
	}
}

// Run is the chain's one writer. It returns nil when ctx ends, after writing
// what was queued and a last checkpoint, and an error when somebody else writes
// this chain. Stop it after everything that records: what comes later is refused.
func (l *Ledger) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return errors.New("ledger: Run was called twice")
	}
	defer close(l.stopped)
	if l.sink != nil {
		l.sink.start(l)
		defer l.sink.stop(l)
	}
	defer l.pruneEvery(ctx, pruneInterval)()
	flush := time.NewTicker(flushInterval)
	defer flush.Stop()
	for {
		var b batch
		select {
		case req := <-l.records:
			b.requests = append(b.requests, req)
		case d := <-l.denials:
			b.denials = append(b.denials, d)
		case reply := <-l.wanted:
			note, err := l.checkpoint()
			reply <- checkpointResult{note, err}
		case <-flush.C:
		case <-ctx.Done():
			return l.drain()
		}
		if err := l.write(&b); err != nil {
			close(l.stopping)
			return err
		}
		l.checkpointWhenDue()
	}
}

// drain writes what was queued when the ledger was told to stop.
func (l *Ledger) drain() error {
	close(l.stopping)
	for {
		var b batch
		l.fill(&b)
		if b.empty() {
			break
		}
		if err := l.writeFilled(&b); err != nil {
			return err
		}
	}
	if l.head.Sequence > l.covered {
		if _, err := l.checkpoint(); err != nil {
			return fmt.Errorf("ledger: the last checkpoint: %w", err)
		}
	}
	return nil
}

// batch is what one transaction will hold.
type batch struct {
	requests     []*request
	denials      []*denialRequest
	certificates []store.Certificate
}

func (b *batch) empty() bool { return len(b.requests)+len(b.denials)+len(b.certificates) == 0 }

// fill adds what has queued up, without waiting. Denials are few a batch, so
// that a flood of them costs an issuance little.
func (l *Ledger) fill(b *batch) {
	fillFrom(&b.requests, l.records, maxBatch)
	fillFrom(&b.denials, l.denials, maxDenialBatch)
	fillFrom(&b.certificates, l.certificates, maxBatch)
	// Who has given up by now is not recorded.
	live := b.requests[:0]
	for _, req := range b.requests {
		if err := req.ctx.Err(); err != nil {
			req.done <- outcome{err: err}
			continue
		}
		live = append(live, req)
	}
	b.requests = live
}

func fillFrom[T any](to *[]T, from <-chan T, limit int) {
	for len(*to) < limit {
		select {
		case v := <-from:
			*to = append(*to, v)
		default:
			return
		}
	}
}

func (l *Ledger) write(b *batch) error {
	l.fill(b)
	if b.empty() {
		return nil
	}
	return l.writeFilled(b)
}

// writeFilled commits a batch and answers everybody in it. Denials have a
// transaction of their own: whatever is wrong with one, it fails no issuance.
// The error is of a chain that somebody else writes: the writer cannot go on.
func (l *Ledger) writeFilled(b *batch) error {
	if len(b.requests)+len(b.certificates) > 0 {
		if fatal := l.writeEntries(b); fatal != nil {
			return fatal
		}
	}
	if len(b.denials) > 0 {
		l.writeDenials(b.denials)
	}
	return nil
}

// writeEntries commits the entries of a batch. A server elsewhere can put a key on
// record between the look at what is there and the commit: the database then
// refuses the whole batch, and it is made again without that key. Where that is not
// what is there twice, each entry is committed by itself, so that one fails alone.
func (l *Ledger) writeEntries(b *batch) (fatal error) {
	for attempt := 1; ; attempt++ {
		fatal, err := l.tryEntries(b)
		if !errors.Is(err, store.ErrDuplicate) || len(b.requests) == 0 {
			l.answer(b, err)
			return fatal
		}
		if attempt == duplicateAttempts || len(b.requests) == 1 {
			break
		}
	}
	l.log.Warn("ledger: something in a batch is on record already; committing each entry alone", slog.Int("entries", len(b.requests)))
	for i, req := range b.requests {
		alone := &batch{requests: []*request{req}}
		if i == 0 {
			alone.certificates = b.certificates
		}
		fatal, err := l.tryEntries(alone)
		if errors.Is(err, store.ErrDuplicate) {
			err = onRecord(req)
		}
		l.answer(alone, err)
		if fatal != nil {
			l.answer(&batch{requests: b.requests[i+1:]}, fatal)
			return fatal
		}
	}
	return nil
}

// duplicateAttempts is how often a batch is made again because of what other
// servers put on record meanwhile.
const duplicateAttempts = 3

// onRecord answers a request that can never be recorded.
func onRecord(req *request) error {
	if len(req.entry.Identities) > 0 {
		return duplicateKey()
	}
	return internal("ledger_duplicate", fmt.Errorf("%s is on record already", req.entry.Reference))
}

func (l *Ledger) tryEntries(b *batch) (fatal, err error) {
	if err := l.refuseUsedKeys(b); err != nil {
		return nil, err
	}
	return l.commit(b)
}

// answer tells everybody in a batch what became of it.
func (l *Ledger) answer(b *batch, err error) {
	// Counted before anybody is answered: who holds a Recorded sees it counted.
	if n := len(b.requests); err == nil && n > 0 {
		l.counters.commits.Add(1)
		l.counters.records.Add(uint64(n))
		l.counters.size.Store(l.head.Sequence)
		for _, req := range b.requests {
			l.serials.add(req.entry.Identities)
		}
		if l.uncoveredAt.IsZero() {
			l.uncoveredAt = l.opt.Now()
		}
	}
	if err != nil {
		l.counters.failures.Add(1)
		l.counters.resultsDropped.Add(uint64(len(b.certificates)))
		l.log.Error("ledger: a commit failed; nothing in it will be signed", slog.Int("entries", len(b.requests)), slog.Any("error", err))
	}
	for _, req := range b.requests {
		o := outcome{err: err}
		if err == nil {
			o = outcome{sequence: req.entry.Sequence, hash: req.entry.Hash}
		}
		req.done <- o
	}
}

// refuseUsedKeys answers the requests for a key that has been certified before,
// or is being by another request of the batch, and takes them out: no two SVIDs
// share a key. Only the writer can tell, and one that is refused must not fail
// those beside it. (The database has the same rule, and would.)
func (l *Ledger) refuseUsedKeys(b *batch) error {
	var thumbs [][32]byte
	for _, req := range b.requests {
		for _, id := range req.entry.Identities {
			thumbs = append(thumbs, id.KeyThumbprint)
		}
	}
	if len(thumbs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	used, err := l.st.KeysOnRecord(ctx, l.trustDomain, thumbs)
	if err != nil {
		return err
	}
	fresh := b.requests[:0]
	for _, req := range b.requests {
		taken := slices.ContainsFunc(req.entry.Identities, func(id store.Identity) bool { return used[id.KeyThumbprint] })
		if taken {
			req.done <- outcome{err: duplicateKey()}
			continue
		}
		for _, id := range req.entry.Identities {
			used[id.KeyThumbprint] = true
		}
		fresh = append(fresh, req)
	}
	b.requests = fresh
	return nil
}

func duplicateKey() error {
	return &attest.Error{
		Kind: attest.Malformed, Check: "duplicate_key", Err: errors.New("one of the keys is that of another SVID"),
		Hint: "make new keys for every attestation",
	}
}

func (l *Ledger) writeDenials(denials []*denialRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	sb := store.Batch{TrustDomain: l.trustDomain, Chain: l.chain}
	for _, d := range denials {
		sb.Denials = append(sb.Denials, d.denial)
		if d.evidence != nil {
			sb.Evidence = append(sb.Evidence, *d.evidence)
		}
	}
	err := l.st.Append(ctx, sb)
	if err == nil {
		l.counters.denials.Add(uint64(len(denials)))
	} else {
		l.counters.denialsDropped.Add(uint64(len(denials)))
		l.log.Error("ledger: denials could not be stored", slog.Int("denials", len(denials)), slog.Any("error", err))
	}
	for _, d := range denials {
		d.done <- err
	}
}

// commit chains the batch's entries and appends it. Requests get their place in
// the chain, which counts only if err is nil. fatal is an err after which the
// writer cannot go on.
func (l *Ledger) commit(b *batch) (fatal, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if l.unsure != nil {
		if fatal, err := l.settle(ctx); err != nil {
			return fatal, err
		}
	}
	sb := store.Batch{TrustDomain: l.trustDomain, Chain: l.chain, Previous: l.head, Certificates: b.certificates}
	head := l.head
	for _, req := range b.requests {
		e := &req.entry
		e.Sequence = head.Sequence + 1
		e.Hash = entryHash(l.trustDomain, l.chain, e.Sequence, head.Hash, e.Payload)
		head = store.Head{Sequence: e.Sequence, Hash: e.Hash}
		sb.Entries = append(sb.Entries, *e)
		if req.evidence != nil {
			sb.Evidence = append(sb.Evidence, *req.evidence)
		}
	}
	switch err := l.st.Append(ctx, sb); {
	case errors.Is(err, store.ErrDuplicate):
		return nil, err // nothing was written
	case err != nil:
		// Whether the commit reached the disk is not known: ask before the next.
		l.unsure = &head
		if fatal, serr := l.settle(ctx); fatal != nil {
			return fatal, errors.Join(err, serr)
		}
		return nil, err
	}
	l.head = head
	return nil, nil
}

// settle finds out, after a failed commit, where the chain ends: where it did,
// or after the batch that was reported as failed (its entries are then recorded
// issuances without SVIDs). Any other end is somebody else's, and fatal.
func (l *Ledger) settle(ctx context.Context) (fatal, err error) {
	head, err := l.st.Head(ctx, l.trustDomain, l.chain)
	if err != nil {
		return nil, err
	}
	if head != l.head && head != *l.unsure {
		err := fmt.Errorf("ledger: somebody else writes chain %s of %s: it ends at entry %d, not %d", l.chain, l.trustDomain, head.Sequence, l.head.Sequence)
		if head.Sequence < l.head.Sequence {
			err = fmt.Errorf("ledger: the database has lost entries that were durable: chain %s of %s ends at entry %d, not %d; was an older copy restored, or did a standby take over that was behind?",
				l.chain, l.trustDomain, head.Sequence, l.head.Sequence)
		}
		return err, err
	}
	if head != l.head && l.uncoveredAt.IsZero() {
		l.uncoveredAt = l.opt.Now()
	}
	l.head, l.unsure = head, nil
	l.counters.size.Store(head.Sequence)
	return nil, nil
}

// checkpointWhenDue makes the periodic checkpoints. A failure is no reason to
// stop issuing: the next one covers what this one would have.
func (l *Ledger) checkpointWhenDue() {
	if l.head.Sequence <= l.covered {
		return
	}
	if l.head.Sequence-l.covered < uint64(l.opt.CheckpointEntries) &&
		l.opt.Now().Sub(l.uncoveredAt) < l.opt.CheckpointInterval {
		return
	}
	if _, err := l.checkpoint(); err != nil {
		l.log.Error("ledger: a checkpoint failed", slog.Any("error", err))
		l.uncoveredAt = l.opt.Now() // not again at once
	}
}

// checkpoint signs the head, stores the note, publishes it and hands it to the
// sink. It signs only what is durable.
func (l *Ledger) checkpoint() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if l.unsure != nil {
		if _, err := l.settle(ctx); err != nil {
			return nil, err
		}
	}
	if cp := l.latest.Load(); cp != nil && cp.Size == l.head.Sequence {
		return cp.note, nil
	}
	cp := Checkpoint{TrustDomain: l.trustDomain, Chain: l.chain, Size: l.head.Sequence, Head: l.head.Hash, Time: l.opt.Now().UTC().Truncate(time.Second), Peers: l.lookAtPeers(ctx)}
	note, err := signNote(cp.text(), l.key, l.signer)
	if err != nil {
		return nil, err
	}
	b := store.Batch{TrustDomain: l.trustDomain, Chain: l.chain, Checkpoints: []store.Checkpoint{{Size: cp.Size, Note: note, At: cp.Time}}}
	if err := l.st.Append(ctx, b); err != nil {
		return nil, err
	}
	l.covered, l.uncoveredAt = cp.Size, time.Time{}
	l.latest.Store(&signedCheckpoint{note, cp})
	if l.sink != nil {
		l.sink.put(note)
	}
	return note, nil
}

// Checkpoint makes a checkpoint that covers everything durable now, and returns
// it.
func (l *Ledger) Checkpoint(ctx context.Context) ([]byte, error) {
	reply := make(chan checkpointResult, 1)
	select {
	case l.wanted <- reply:
	case <-ctx.Done():
		return nil, unavailable(ctx.Err())
	case <-l.stopping:
		return nil, unavailable(errStopped)
	}
	r := <-reply // the writer answers in bounded time
	if r.err != nil {
		return nil, unavailable(r.err)
	}
	return r.note, nil
}
