package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
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
	"github.com/assay-project/assay/issuer/store/postgres"
)

// ledgerSource is where the ledger commands read: a running server's admin
// socket, or a database file.
type ledgerSource interface {
	// trustDomain is the trust domain whose ledger it is.
	trustDomain(ctx context.Context) (string, error)
	// list yields the records that match, in the order that the filter asks for.
	list(ctx context.Context, f listFilter) iter.Seq2[ledger.Item, error]
	// get finds one record by its reference, its number in the chain of the server
	// that is asked ("17") or in another one ("CHAIN/17"); errNotFound.
	get(ctx context.Context, key string) (ledger.Item, error)
	// chains lists the chains of the trust domain, with their checkpoints: all, or
	// only the newest of each.
	chains(ctx context.Context, newest bool) ([]chainOf, error)
	// entries yields one chain, whole, for verification.
	entries(ctx context.Context, chain string) iter.Seq2[ledger.Item, error]
	// evidence returns recorded evidence by its digest; errNotFound.
	evidence(ctx context.Context, digest [32]byte) (attest.Evidence, time.Time, error)
	io.Closer
}

// chainOf is one chain, as a source has it.
type chainOf struct {
	name  string
	notes [][]byte
	key   string // the text of the key that has signed them, by the source's word; "" if it says none
}

type listFilter struct {
	outcome, spiffeID, instance string
	limit                       int    // 0 is all
	chain                       string // "" is all
	newestFirst                 bool
}

// sourceFlags are --admin and --db.
type sourceFlags struct {
	admin       *string
	db          *string
	trustDomain *string
}

func ledgerSourceFlags(c *cobra.Command) sourceFlags {
	f := sourceFlags{
		admin:       adminFlag(c),
		db:          c.Flags().String("db", "", "read this database instead, without a server: a `FILE`, which only its owner may, or postgres://USER@HOST/NAME"),
		trustDomain: c.Flags().String("trust-domain", "", "with --db, the trust domain that is meant, where the database holds several"),
	}
	c.MarkFlagsMutuallyExclusive("admin", "db")
	return f
}

func (f sourceFlags) open(ctx context.Context) (ledgerSource, error) {
	if *f.db != "" {
		return openDB(ctx, *f.db, *f.trustDomain)
	}
	if *f.trustDomain != "" {
		return nil, cli.Usagef("a server's socket is that of one trust domain", "--trust-domain goes with --db")
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
		SpiffeId: f.spiffeID, Instance: f.instance, NewestFirst: f.newestFirst, Chain: f.chain,
		Limit: uint32(max(f.limit, 0)), // the flag is checked
	}
	switch f.outcome {
	case ledger.Granted:
		req.Outcome = assayv1.Outcome_OUTCOME_GRANTED
	case ledger.Denied:
		req.Outcome = assayv1.Outcome_OUTCOME_DENIED
	case ledger.Minted:
		req.Outcome = assayv1.Outcome_OUTCOME_TOKEN
	case ledger.Admin:
		req.Outcome = assayv1.Outcome_OUTCOME_ADMIN
	}
	return s.stream(ctx, req, itemOf)
}

func (s adminSource) entries(ctx context.Context, chain string) iter.Seq2[ledger.Item, error] {
	// A payload that does not parse is for the verification to report.
	return s.stream(ctx, &assayv1.ListLedgerRequest{Chain: chain}, func(e *assayv1.LedgerEntry) (ledger.Item, error) {
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
	return ledger.Item{Chain: e.GetChain(), Sequence: e.GetSequence(), Previous: e.GetPreviousHash(), Hash: e.GetHash(), Payload: e.GetPayload()}
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
	chain, number, ok := strings.Cut(key, "/")
	if !ok {
		chain, number = "", key
	}
	if n, err := strconv.ParseUint(number, 10, 64); err == nil {
		req.Key, req.Chain = &assayv1.GetLedgerEntryRequest_Sequence{Sequence: n}, chain
	}
	e, err := s.GetLedgerEntry(ctx, req)
	if err != nil {
		return ledger.Item{}, s.explain(err)
	}
	return itemOf(e)
}

func (s adminSource) chains(ctx context.Context, newest bool) ([]chainOf, error) {
	stream, err := s.ListCheckpoints(ctx, &assayv1.ListCheckpointsRequest{Newest: newest})
	if err != nil {
		return nil, s.explain(err)
	}
	var out []chainOf
	for {
		c, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, s.explain(err)
		}
		if len(out) == 0 || out[len(out)-1].name != c.GetChain() {
			out = append(out, chainOf{name: c.GetChain(), key: c.GetVerifierKey()})
		}
		if len(c.GetNote()) > 0 {
			last := &out[len(out)-1]
			last.notes = append(last.notes, c.GetNote())
		}
	}
}

func (s adminSource) evidence(ctx context.Context, digest [32]byte) (attest.Evidence, time.Time, error) {
	r, err := s.GetEvidence(ctx, &assayv1.GetEvidenceRequest{Digest: digest[:]})
	if err != nil {
		return attest.Evidence{}, time.Time{}, s.explain(err)
	}
	return attest.Evidence{Platform: attest.Platform(r.GetTee()), Body: r.GetBody(), Endorsements: r.GetEndorsements(), EventLog: r.GetEventLog()}, unixMilli(r.GetTimeUnixMs()), nil
}

// dbSource reads a database.
type dbSource struct {
	store.Store
	reader *ledger.Reader
	td     string
	path   string // for messages: no password in it
	dir    string // the data directory of a file; "" of a database that is elsewhere
}

// openDB opens a database read-only. A file has to belong to who asks: SQLite keeps
// files beside a database that is in use, and those that another user made, root
// among them, would lock the server out of its own data.
func openDB(ctx context.Context, path, trustDomain string) (ledgerSource, error) {
	if u, err := url.Parse(path); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		db, err := postgres.OpenReadOnly(ctx, postgres.Config{ConnString: path})
		if err != nil {
			return nil, withHint(cli.Hint(err), "--db %s: %w", u.Redacted(), err)
		}
		return sourceOf(ctx, dbSource{Store: db, path: u.Redacted()}, trustDomain)
	}
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
	return sourceOf(ctx, dbSource{Store: db, path: path, dir: filepath.Dir(path)}, trustDomain)
}

// withHint keeps what kind of error it is: a database that does not answer is no
// mistake of the user's.
func withHint(hint, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if attest.KindOf(err) == attest.Unavailable {
		return err
	}
	return &cli.UsageError{Err: err, Hint: hint}
}

// sourceOf finds the trust domain that is meant. On an error the database is closed.
func sourceOf(ctx context.Context, s dbSource, trustDomain string) (ledgerSource, error) {
	fail := func(hint, format string, args ...any) (ledgerSource, error) {
		_ = s.Close() // the error that matters is returned
		return nil, withHint(hint, format, args...)
	}
	tds, err := s.TrustDomains(ctx)
	if err != nil {
		return fail(cli.Hint(err), "--db %s: %w", s.path, err)
	}
	var names []string
	for _, td := range tds {
		names = append(names, td.Name)
	}
	switch {
	case trustDomain != "" && !slices.Contains(names, trustDomain):
		return fail("", "--db %s does not hold trust domain %s; it holds %s", s.path, trustDomain, strings.Join(names, ", "))
	case trustDomain == "" && len(names) != 1:
		return fail("say which one is meant with --trust-domain", "--db %s holds %s, want one", s.path, cli.Count(len(names), "trust domain"))
	case trustDomain == "":
		trustDomain = names[0]
	}
	s.td = trustDomain
	chain := ledger.MainChain
	if k, err := s.ownKey(); err == nil && k != "" {
		if key, err := ledger.ParseVerifierKey(k); err == nil {
			chain = chainNamed(key, s.td)
		}
	}
	s.reader = ledger.NewReader(s.Store, s.td, chain)
	return s, nil
}

func (s dbSource) trustDomain(context.Context) (string, error) { return s.td, nil }

func (s dbSource) list(ctx context.Context, f listFilter) iter.Seq2[ledger.Item, error] {
	all := s.reader.Walk(ctx, ledger.Filter{Outcome: f.outcome, Chain: f.chain, SPIFFEID: f.spiffeID, Instance: f.instance, Oldest: !f.newestFirst})
	if f.limit == 0 {
		return all
	}
	return func(yield func(ledger.Item, error) bool) {
		left := f.limit
		for i, err := range all {
			if !yield(i, err) || err != nil {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

func (s dbSource) get(ctx context.Context, key string) (ledger.Item, error) {
	item, err := s.reader.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return ledger.Item{}, fmt.Errorf("%w: there is no such entry", errNotFound)
	}
	return item, err
}

func (s dbSource) entries(ctx context.Context, chain string) iter.Seq2[ledger.Item, error] {
	return s.reader.In(chain).Entries(ctx, 0)
}

// checkpointKeyFile is where `assayd init` puts the checkpoint key, beside the
// database.
const checkpointKeyFile = "checkpoint.pub"

// ownKey is the text of the key of the server whose data directory it is; "" where
// there is none.
func (s dbSource) ownKey() (string, error) {
	if s.dir == "" {
		return "", nil
	}
	b, err := os.ReadFile(filepath.Join(s.dir, checkpointKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", cli.Usagef("name the key with --key", "%s", clean(err))
	}
	return strings.TrimSpace(string(b)), nil
}

func (s dbSource) chains(ctx context.Context, newest bool) ([]chainOf, error) {
	names, err := s.Chains(ctx, s.td)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 { // nothing was ever written: the chain of the server that will
		names = []string{s.reader.Chain()}
	}
	own, err := s.ownKey()
	if err != nil {
		return nil, err
	}
	keys := map[string]string{ledger.ChainOwner(s.reader.Chain()): own}
	var members []store.Member
	if s.dir == "" { // a file is one server's, whose key is beside it or must be given
		if members, err = s.Members(ctx, s.td); err != nil {
			return nil, err
		}
	}
	for _, m := range members {
		if keys[m.Server] == "" {
			keys[m.Server] = endorsedKey(m.Endorsement, ledger.ChainName(s.td, m.Server))
		}
	}
	var out []chainOf
	for _, name := range names {
		c := chainOf{name: name, key: keyFor(keys[ledger.ChainOwner(name)], ledger.ChainName(s.td, name))}
		r := s.reader.In(name)
		if newest {
			note, err := r.NewestCheckpoint(ctx)
			if err == nil {
				c.notes = [][]byte{note}
			} else if !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
		} else if c.notes, err = r.Checkpoints(ctx); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// endorsedKey is the checkpoint key in a server's endorsement, by the database's
// word alone: the endorsement is not verified here, and --key pins keys.
func endorsedKey(der []byte, name string) string {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return ""
	}
	k, err := ledger.NewVerifierKey(name, c.PublicKey)
	if err != nil {
		return ""
	}
	return k.String()
}

// keyFor is a key under the name of one of its server's chains; "" for none.
func keyFor(text, name string) string {
	k, err := ledger.ParseVerifierKey(text)
	if err != nil {
		return text // what is wrong with it is said where it is used
	}
	if k, err = k.For(name); err != nil {
		return ""
	}
	return k.String()
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
