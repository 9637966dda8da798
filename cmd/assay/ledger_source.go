package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// ledgerSource is where the ledger commands read: a running server's admin
// socket, or a database file.
type ledgerSource interface {
	// trustDomain is the trust domain whose ledger it is.
	trustDomain(ctx context.Context) (string, error)
	// list yields the records that match, in the order that the filter asks for.
	list(ctx context.Context, f listFilter) iter.Seq2[ledger.Item, error]
	// get finds one record by reference or sequence number; errNotFound.
	get(ctx context.Context, key string) (ledger.Item, error)
	// entries yields the whole chain of issuances, for verification.
	entries(ctx context.Context) iter.Seq2[ledger.Item, error]
	// checkpoints returns the stored notes, and the text of the key that the
	// source says has signed them: "" if it says none.
	checkpoints(ctx context.Context) (notes [][]byte, key string, err error)
	// evidence returns recorded evidence by its digest; errNotFound.
	evidence(ctx context.Context, digest [32]byte) (attest.Evidence, time.Time, error)
	io.Closer
}

type listFilter struct {
	outcome, spiffeID, instance string
	limit                       int // 0 is all
	newestFirst                 bool
}

// sourceFlags are --admin and --db.
type sourceFlags struct {
	admin *string
	db    *string
}

func ledgerSourceFlags(c *cobra.Command) sourceFlags {
	f := sourceFlags{admin: adminFlag(c), db: c.Flags().String("db", "", "read this database `FILE` instead, without a server; only its owner may")}
	c.MarkFlagsMutuallyExclusive("admin", "db")
	return f
}

func (f sourceFlags) open(ctx context.Context) (ledgerSource, error) {
	if *f.db != "" {
		return openDB(ctx, *f.db)
	}
	a, err := openAdmin(*f.admin, "name the socket with --admin SOCKET, or read the database with --db FILE")
	if err != nil {
		return nil, err
	}
	return adminSource{a}, nil
}

// adminSource reads through the admin socket.
type adminSource struct{ *admin }

func (s adminSource) trustDomain(ctx context.Context) (string, error) {
	r, err := s.Status(ctx, &assayv1.StatusRequest{})
	if err != nil {
		return "", s.explain(err)
	}
	return r.GetTrustDomain(), nil
}

func (s adminSource) list(ctx context.Context, f listFilter) iter.Seq2[ledger.Item, error] {
	req := &assayv1.ListLedgerRequest{
		SpiffeId: f.spiffeID, Instance: f.instance, NewestFirst: f.newestFirst,
		Limit: uint32(max(f.limit, 0)), // the flag is checked
	}
	switch f.outcome {
	case ledger.Granted:
		req.Outcome = assayv1.Outcome_OUTCOME_GRANTED
	case ledger.Denied:
		req.Outcome = assayv1.Outcome_OUTCOME_DENIED
	}
	return s.stream(ctx, req, itemOf)
}

func (s adminSource) entries(ctx context.Context) iter.Seq2[ledger.Item, error] {
	// A payload that does not parse is for the verification to report.
	return s.stream(ctx, &assayv1.ListLedgerRequest{Outcome: assayv1.Outcome_OUTCOME_GRANTED}, func(e *assayv1.LedgerEntry) (ledger.Item, error) {
		return rawItem(e), nil
	})
}

func (s adminSource) stream(ctx context.Context, req *assayv1.ListLedgerRequest, item func(*assayv1.LedgerEntry) (ledger.Item, error)) iter.Seq2[ledger.Item, error] {
	return func(yield func(ledger.Item, error) bool) {
		ctx, cancel := context.WithCancel(ctx) // so that leaving the loop ends the stream
		defer cancel()
		stream, err := s.ListLedger(ctx, req)
		if err != nil {
			yield(ledger.Item{}, s.explain(err))
			return
		}
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(ledger.Item{}, s.explain(err))
				return
			}
			if !yield(item(e)) {
				return
			}
		}
	}
}

func rawItem(e *assayv1.LedgerEntry) ledger.Item {
	return ledger.Item{Sequence: e.GetSequence(), Previous: e.GetPreviousHash(), Hash: e.GetHash(), Payload: e.GetPayload()}
}

func itemOf(e *assayv1.LedgerEntry) (ledger.Item, error) {
	item := rawItem(e)
	var err error
	if item.Entry, err = ledger.ParseEntry(item.Payload); err != nil {
		return ledger.Item{}, &attest.Error{
			Kind: attest.Untrusted, Check: "chain_payload", Err: fmt.Errorf("record %d: %w", item.Sequence, err),
			Hint: "`assay ledger verify` finds what was changed",
		}
	}
	return item, nil
}

func (s adminSource) get(ctx context.Context, key string) (ledger.Item, error) {
	req := &assayv1.GetLedgerEntryRequest{Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: key}}
	if n, err := strconv.ParseUint(key, 10, 64); err == nil {
		req.Key = &assayv1.GetLedgerEntryRequest_Sequence{Sequence: n}
	}
	e, err := s.GetLedgerEntry(ctx, req)
	if err != nil {
		return ledger.Item{}, s.explain(err)
	}
	return itemOf(e)
}

func (s adminSource) checkpoints(ctx context.Context) (notes [][]byte, key string, err error) {
	stream, err := s.ListCheckpoints(ctx, &assayv1.ListCheckpointsRequest{})
	if err != nil {
		return nil, "", s.explain(err)
	}
	for {
		c, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return notes, key, nil
		}
		if err != nil {
			return nil, "", s.explain(err)
		}
		notes, key = append(notes, c.GetNote()), c.GetVerifierKey()
	}
}

func (s adminSource) evidence(ctx context.Context, digest [32]byte) (attest.Evidence, time.Time, error) {
	r, err := s.GetEvidence(ctx, &assayv1.GetEvidenceRequest{Digest: digest[:]})
	if err != nil {
		return attest.Evidence{}, time.Time{}, s.explain(err)
	}
	return attest.Evidence{Platform: attest.Platform(r.GetTee()), Body: r.GetBody(), Endorsements: r.GetEndorsements(), EventLog: r.GetEventLog()}, unixMilli(r.GetTimeUnixMs()), nil
}

// dbSource reads a database file.
type dbSource struct {
	*store.SQLite
	reader *ledger.Reader
	td     string
	path   string
}

// openDB opens a database read-only. It has to belong to who asks: SQLite keeps
// files beside a database that is in use, and those that another user made,
// root among them, would lock the server out of its own data.
func openDB(ctx context.Context, path string) (ledgerSource, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, cli.Usagef(fileHint(err), "--db %s", clean(err))
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return nil, cli.Usagef(fmt.Sprintf("run this as its owner (`sudo -u '#%d' assay …`), or ask the server with --admin", sys.Uid),
			"--db %s belongs to user %d, and you are user %d", path, sys.Uid, os.Geteuid())
	}
	db, err := store.OpenSQLiteReadOnly(ctx, path)
	if err != nil {
		return nil, cli.Usagef(cli.Hint(err), "--db %s: %w", path, err)
	}
	tds, err := db.TrustDomains(ctx)
	if err != nil {
		_ = db.Close() // the error that matters is returned
		return nil, cli.Usagef(cli.Hint(err), "--db %s: %w", path, err)
	}
	if len(tds) != 1 {
		_ = db.Close() // the error that matters is returned
		return nil, cli.Usagef("", "--db %s holds %s, want one", path, cli.Count(len(tds), "trust domain"))
	}
	return dbSource{SQLite: db, reader: ledger.NewReader(db, tds[0].Name, ""), td: tds[0].Name, path: path}, nil
}

func (s dbSource) trustDomain(context.Context) (string, error) { return s.td, nil }

// maxPage is how many records one query reads.
const maxPage = 500

func (s dbSource) list(ctx context.Context, f listFilter) iter.Seq2[ledger.Item, error] {
	if !f.newestFirst {
		return s.oldestFirst(ctx, f)
	}
	return func(yield func(ledger.Item, error) bool) {
		left := f.limit
		for i, err := range s.back(ctx, f) {
			if !yield(i, err) || err != nil {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// back walks back in time from the newest record.
func (s dbSource) back(ctx context.Context, f listFilter) iter.Seq2[ledger.Item, error] {
	return func(yield func(ledger.Item, error) bool) {
		q := ledger.Filter{Outcome: f.outcome, SPIFFEID: f.spiffeID, Instance: f.instance, Limit: maxPage}
		for {
			items, err := s.reader.List(ctx, q)
			if err != nil {
				yield(ledger.Item{}, err)
				return
			}
			for _, i := range items {
				if !yield(i, nil) {
					return
				}
			}
			if len(items) < maxPage {
				return
			}
			q.Before = items[len(items)-1].Entry.Time
		}
	}
}

// oldestFirst walks the chain, however long it is, and merges the denials in by
// time: those are few, since their store has quotas.
func (s dbSource) oldestFirst(ctx context.Context, f listFilter) iter.Seq2[ledger.Item, error] {
	return func(yield func(ledger.Item, error) bool) {
		var denials []ledger.Item
		if f.outcome != ledger.Granted {
			g := f
			g.outcome = ledger.Denied
			for i, err := range s.back(ctx, g) {
				if err != nil {
					yield(ledger.Item{}, err)
					return
				}
				denials = append(denials, i)
			}
			slices.Reverse(denials)
		}
		if f.outcome != ledger.Denied {
			for i, err := range s.entries(ctx) {
				if err != nil {
					yield(ledger.Item{}, err)
					return
				}
				if !f.wants(i.Entry) {
					continue
				}
				for len(denials) > 0 && denials[0].Entry.Time.Before(i.Entry.Time) {
					if !yield(denials[0], nil) {
						return
					}
					denials = denials[1:]
				}
				if !yield(i, nil) {
					return
				}
			}
		}
		for _, i := range denials {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// wants reports whether an issuance matches the filter.
func (f listFilter) wants(e ledger.Entry) bool {
	if f.instance != "" && string(e.Instance) != f.instance {
		return false
	}
	return f.spiffeID == "" || slices.ContainsFunc(e.Identities, func(i ledger.Identity) bool { return i.SPIFFEID == f.spiffeID })
}

func (s dbSource) get(ctx context.Context, key string) (ledger.Item, error) {
	item, err := s.reader.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return ledger.Item{}, fmt.Errorf("%w: there is no such entry", errNotFound)
	}
	return item, err
}

func (s dbSource) entries(ctx context.Context) iter.Seq2[ledger.Item, error] {
	return s.reader.Entries(ctx, 0)
}

// checkpointKeyFile is where `assayd init` puts the checkpoint key, beside the
// database.
const checkpointKeyFile = "checkpoint.pub"

func (s dbSource) checkpoints(ctx context.Context) (notes [][]byte, key string, err error) {
	if notes, err = s.reader.Checkpoints(ctx); err != nil {
		return nil, "", err
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(s.path), checkpointKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return notes, "", nil
	}
	if err != nil {
		return nil, "", cli.Usagef("name the key with --key", "%s", clean(err))
	}
	return notes, strings.TrimSpace(string(b)), nil
}

func (s dbSource) evidence(ctx context.Context, digest [32]byte) (attest.Evidence, time.Time, error) {
	e, err := s.reader.Evidence(ctx, digest)
	if errors.Is(err, store.ErrNotFound) {
		return attest.Evidence{}, time.Time{}, fmt.Errorf("%w: it was never kept, or no longer is", errNotFound)
	}
	if err != nil {
		return attest.Evidence{}, time.Time{}, err
	}
	return attest.Evidence{Platform: attest.Platform(e.Platform), Body: e.Body, Endorsements: e.Endorsements, EventLog: e.EventLog}, e.At, nil
}
