package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/lru"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/replay"
	"github.com/assay-project/assay/policy/signed"
)

// replaySource is where a replay reads: a running server, a database, or files.
type replaySource interface {
	name() string
	// trustDomain is whose records they are; empty for files.
	trustDomain(ctx context.Context) (string, error)
	// records yields those of a time, and tells the meter how many there are.
	records(ctx context.Context, since, until time.Time, m *meter) replay.Source
	// record finds one by its reference; errNotFound.
	record(ctx context.Context, reference string) (replay.Record, error)
	// document returns a policy of the past by its digest; errNotFound.
	document(ctx context.Context, digest [32]byte) ([]byte, error)
	// inForce returns the policy that the server has, and its name.
	inForce(ctx context.Context) (document []byte, name string, err error)
	io.Closer
}

// replaySourceFlags are --admin, --db and --dir, and how evidence in files is
// verified.
type replaySourceFlags struct {
	ledger   sourceFlags
	dir      string
	platform func() (tee, error)
	roots    string
	verifyAt timeValue
}

func (f *replaySourceFlags) add(c *cobra.Command) {
	f.ledger = ledgerSourceFlags(c)
	c.Flags().StringVar(&f.dir, "dir", "", "read the files of this `DIRECTORY` instead, without a server: records, claims, evidence")
	f.platform = teeFlag(c)
	c.Flags().StringVar(&f.roots, "roots", "", "with --dir: PEM `FILE` with roots that replace the vendor's, for evidence")
	c.Flags().Var(&f.verifyAt, "verify-at", "with --dir: verify evidence at this time, not at the one that it names, or now")
	c.MarkFlagsMutuallyExclusive("dir", "db")
	c.MarkFlagsMutuallyExclusive("dir", "admin")
}

func (f *replaySourceFlags) open(c *cobra.Command, now time.Time) (replaySource, error) {
	if f.dir != "" {
		return f.openDir(c, now)
	}
	if f.roots != "" || c.Flags().Changed("tee") || !f.verifyAt.IsZero() {
		return nil, cli.Usagef("a server's records hold claims: there is nothing to verify", "--tee, --roots and --verify-at go with --dir")
	}
	src, err := f.ledger.open(c.Context())
	if err != nil {
		return nil, err
	}
	switch s := src.(type) {
	case dbSource:
		return dbRecords{s}, nil
	case adminSource:
		return &adminRecords{adminSource: s}, nil
	}
	return nil, errors.Join(errors.New("no such source"), src.Close())
}

// dbRecords reads a database file.
type dbRecords struct{ dbSource }

func (s dbRecords) name() string { return s.path }

func (s dbRecords) records(ctx context.Context, since, until time.Time, m *meter) replay.Source {
	return func(yield func(replay.Item, error) bool) {
		chains, err := s.reader.Chains(ctx)
		if err != nil {
			yield(replay.Item{}, err)
			return
		}
		var before uint64 // entries of the chains that were read
		span := ledger.Span{Outcome: ledger.Granted, Since: since, Until: until}
		each := func(r *ledger.Reader) bool {
			for i, err := range r.Records(ctx, span) {
				if err != nil {
					yield(replay.Item{}, err)
					return false
				}
				m.at(span.Outcome, before+i.Sequence)
				if !yield(replayItem(s.td, span.Outcome, i), nil) {
					return false
				}
			}
			return true
		}
		for _, name := range chains {
			head, err := s.Head(ctx, s.td, name)
			if err != nil {
				yield(replay.Item{}, err)
				return
			}
			m.to(before + head.Sequence)
			if !each(s.reader.In(name)) {
				return
			}
			before += head.Sequence
		}
		span.Outcome = ledger.Denied
		each(s.reader)
	}
}

func (s dbRecords) record(ctx context.Context, reference string) (replay.Record, error) {
	return getRecord(ctx, s, s.td, reference)
}

func (s dbRecords) document(ctx context.Context, digest [32]byte) ([]byte, error) {
	return s.change(ctx, store.FindPolicy{Outcome: store.PolicyInForce, Digest: &digest, Documents: true, Limit: 1})
}

func (s dbRecords) inForce(ctx context.Context) ([]byte, string, error) {
	raw, err := s.change(ctx, store.FindPolicy{Outcome: store.PolicyInForce, Documents: true, Limit: 1})
	if errors.Is(err, errNotFound) {
		err = cli.Usagef("name its file with --against FILE", "%s holds no policy that was in force", s.path)
	}
	return raw, "the policy in force", err
}

func (s dbRecords) change(ctx context.Context, f store.FindPolicy) ([]byte, error) {
	found, err := s.PolicyChanges(ctx, s.td, f)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0 || found[0].Document == nil:
		return nil, errNotFound
	}
	return found[0].Document, nil
}

// adminRecords asks a running server.
type adminRecords struct {
	adminSource
	td string
}

func (s *adminRecords) name() string { return "server" }

func (s *adminRecords) trustDomain(ctx context.Context) (string, error) {
	var err error
	s.td, err = s.adminSource.trustDomain(ctx)
	return s.td, err
}

func (s *adminRecords) records(ctx context.Context, since, until time.Time, m *meter) replay.Source {
	return func(yield func(replay.Item, error) bool) {
		st, err := s.Status(ctx, &assayv1.StatusRequest{})
		if err != nil {
			yield(replay.Item{}, s.explain(err))
			return
		}
		m.to(st.GetLedgerSize())
		chains, err := s.chains(ctx, true)
		if err != nil {
			yield(replay.Item{}, err)
			return
		}
		chains = append(chains, chainOf{}) // the denials, which are in none
		for _, x := range chains {
			o, outcome := assayv1.Outcome_OUTCOME_GRANTED, ledger.Granted
			if x.name == "" {
				o, outcome = assayv1.Outcome_OUTCOME_DENIED, ledger.Denied
			}
			req := &assayv1.ListRecordsRequest{Outcome: o, Chain: x.name, SinceUnixMs: unixMs(since), UntilUnixMs: unixMs(until)}
			for more := true; more; {
				more = false
				for e, err := range s.page(ctx, req) {
					if err != nil {
						yield(replay.Item{}, err)
						return
					}
					more, req.After = true, e.GetSequence()
					m.at(outcome, e.GetSequence())
					if !yield(replayItem(s.td, outcome, rawItem(e)), nil) {
						return
					}
				}
			}
		}
	}
}

func unixMs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// page yields one page of records.
func (s *adminRecords) page(ctx context.Context, req *assayv1.ListRecordsRequest) iter.Seq2[*assayv1.LedgerEntry, error] {
	return func(yield func(*assayv1.LedgerEntry, error) bool) {
		ctx, cancel := context.WithCancel(ctx) // so that leaving the loop ends the stream
		defer cancel()
		stream, err := s.ListRecords(ctx, req)
		if err != nil {
			yield(nil, s.explain(err))
			return
		}
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, s.explain(err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (s *adminRecords) record(ctx context.Context, reference string) (replay.Record, error) {
	return getRecord(ctx, s, s.td, reference)
}

func (s *adminRecords) document(ctx context.Context, digest [32]byte) ([]byte, error) {
	r, err := s.GetPolicy(ctx, &assayv1.GetPolicyRequest{Key: &assayv1.GetPolicyRequest_Digest{Digest: digest[:]}}, grpc.MaxCallRecvMsgSize(signed.MaxSize+64<<10))
	if err != nil {
		return nil, s.explainPolicy(err)
	}
	return r.GetDocument(), nil
}

func (s *adminRecords) inForce(ctx context.Context) ([]byte, string, error) {
	st, err := s.PolicyStatus(ctx, &assayv1.PolicyStatusRequest{})
	if err != nil {
		return nil, "", s.explainPolicy(err)
	}
	in := st.GetInForce()
	name := fmt.Sprintf("%s@%d", in.GetName(), in.GetRevision())
	if len(in.GetDigest()) != sha256.Size {
		return nil, "", errors.New("the server does not say which policy is in force")
	}
	raw, err := s.document(ctx, [32]byte(in.GetDigest()))
	return raw, name, err
}

// getRecord finds one record as `ledger show` does.
func getRecord(ctx context.Context, src ledgerSource, td, reference string) (replay.Record, error) {
	item, err := src.get(ctx, reference)
	if err != nil {
		return replay.Record{}, err
	}
	outcome := ledger.Granted
	if len(item.Hash) == 0 {
		outcome = ledger.Denied
	}
	return replayItem(td, outcome, item).Decode()
}

// replayItem is a record of the ledger, still to be decoded.
func replayItem(td, outcome string, i ledger.Item) replay.Item {
	name := fmt.Sprintf("entry %d", i.Sequence)
	if outcome == ledger.Denied {
		name = fmt.Sprintf("denial %d", i.Sequence)
	}
	return replay.Item{Name: name, Decode: func() (replay.Record, error) {
		if outcome == ledger.Granted && len(i.Hash) == 0 {
			return replay.Record{}, errors.New("an entry of the chain without a hash")
		}
		if err := i.Check(td, i.Chain); err != nil {
			return replay.Record{}, err
		}
		r, g, err := recordOfPayload(i.Payload)
		switch {
		case err != nil:
			return replay.Record{}, err
		case g.TrustDomain != td:
			return replay.Record{}, fmt.Errorf("it is of trust domain %.255q", g.TrustDomain)
		case g.Outcome != outcome:
			return replay.Record{}, fmt.Errorf("it says %s, and is among what was %s", g.Outcome, outcome)
		}
		return r, nil
	}}
}

// recordOfPayload reads an entry of the ledger.
func recordOfPayload(payload []byte) (replay.Record, ledger.Gist, error) {
	g, err := ledger.ParseGist(payload)
	if err != nil {
		return replay.Record{}, g, err
	}
	then := &replay.Then{
		Policy: replay.Version{Name: g.Policy.Name, Revision: g.Policy.Revision, Digest: [32]byte(g.Policy.Digest)},
		At:     g.Decision.At, Outcome: g.Decision.Outcome, Reason: g.Decision.Reason, Workload: g.Decision.Workload,
		Decision: func() (policy.Decision, error) {
			e, err := ledger.ParseEntry(payload)
			return e.Decision, err
		},
	}
	for _, id := range g.Identities {
		then.SPIFFEIDs = append(then.SPIFFEIDs, id.SPIFFEID)
	}
	slices.Sort(then.SPIFFEIDs)
	return replay.Record{Reference: g.Reference, Time: g.Time, Instance: g.Instance, Claims: g.Claims, Then: then}, g, nil
}

// policiesOfThen finds the policies that records name, each once, and keeps the
// few that were used last: a large one takes much memory.
type policiesOfThen struct {
	ctx    context.Context // of the one run that it serves
	source replaySource

	mu   sync.Mutex
	kept *lru.Cache[[32]byte, *policyOfThen]
	gone map[[32]byte]string // "name@revision" of those that are not kept, and why
}

type policyOfThen struct {
	once   sync.Once
	bundle *policy.Bundle
}

const maxPoliciesOfThen = 16

func (p *policiesOfThen) find(v replay.Version) *policy.Bundle {
	p.mu.Lock()
	if p.kept == nil {
		p.kept, p.gone = lru.New[[32]byte, *policyOfThen](maxPoliciesOfThen), map[[32]byte]string{}
	}
	if _, gone := p.gone[v.Digest]; gone {
		p.mu.Unlock()
		return nil
	}
	x, ok := p.kept.Get(v.Digest)
	if !ok {
		x = &policyOfThen{}
		p.kept.Put(v.Digest, x)
	}
	p.mu.Unlock()
	x.once.Do(func() {
		b, err := p.compile(v)
		x.bundle = b
		if err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.gone[v.Digest] = v.String() + ": " + err.Error()
		}
	})
	return x.bundle
}

func (p *policiesOfThen) compile(v replay.Version) (*policy.Bundle, error) {
	raw, err := p.source.document(p.ctx, v.Digest)
	if errors.Is(err, errNotFound) {
		return nil, errors.New("is not kept")
	}
	if err != nil {
		return nil, err
	}
	b, err := compileDocument(v.String(), raw)
	if err != nil {
		return nil, errors.New("does not compile any more")
	}
	if b.Digest() != v.Digest {
		return nil, errors.New("was altered in the database")
	}
	return b, nil
}

// missing says which policies are not at hand, at most three of them.
func (p *policiesOfThen) missing() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, why := range p.gone {
		out = append(out, why)
	}
	slices.Sort(out)
	if n := len(out) - 3; n > 0 {
		out = append(out[:3], fmt.Sprintf("%d more", n))
	}
	return strings.Join(out, "; ")
}

// explainedRecord is the JSON output of `policy replay --explain`.
type explainedRecord struct {
	Reference  string            `json:"reference"`
	Time       time.Time         `json:"time"`
	Instance   attest.Instance   `json:"instance"`
	Transition replay.Transition `json:"transition"`
	Decision   policy.Decision   `json:"decision"`
}

// explainOne prints all that the draft says of one record.
func (o *replayFlags) explainOne(c *cobra.Command, src replaySource, opt replay.Options, output cli.Format) error {
	r, err := src.record(c.Context(), o.explain)
	if errors.Is(err, errNotFound) {
		return cli.Usagef("`assay ledger list` shows what there is; denials are kept for a limited time", "there is no record %q", o.explain)
	}
	if err != nil {
		return err
	}
	if err := policy.CheckClaims(r.Claims); err != nil {
		return &attest.Error{Kind: attest.Malformed, Check: "claims", Err: err}
	}
	t := opt.Compare(&r)
	e := explainedRecord{Reference: r.Reference, Time: r.Time, Instance: r.Claims.Instance(), Transition: t, Decision: opt.Draft.Explain(r.Claims, t.After.At)}
	if output == cli.JSON {
		return cli.PrintJSON(c.OutOrStdout(), e)
	}
	return printExplainedRecord(cli.NewPage(c.OutOrStdout()), e)
}
