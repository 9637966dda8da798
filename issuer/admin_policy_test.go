package issuer_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy/signed"
)

func (o *office) push(text string) (*assayv1.PushPolicyResponse, error) {
	o.t.Helper()
	return o.admin().PushPolicy(o.t.Context(), &assayv1.PushPolicyRequest{Document: []byte(text), Note: "because"}, grpc.MaxCallSendMsgSize(32<<20))
}

// changes are the history, newest first.
func (o *office) changes() []*assayv1.PolicyChange {
	o.t.Helper()
	stream, err := o.admin().ListPolicyChanges(o.t.Context(), &assayv1.ListPolicyChangesRequest{})
	must(o.t, err)
	var out []*assayv1.PolicyChange
	for {
		c, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(o.t, err)
		out = append(out, c)
	}
}

func TestAPushedPolicyDecidesWakesAndIsOnRecordWithWhoPushedIt(t *testing.T) {
	o := open(t)
	l := o.listen(o.agentOf(payments(), "i-1-enc1"))
	text := edited(t, policyText(2), "mode: enforce", "mode: audit")
	done, err := o.push(text)
	must(t, err)
	if done.GetPolicy() != "test@2" || done.GetPrevious() != "test@1" || done.GetUnchanged() {
		t.Errorf("got %v", done)
	}
	_, err = o.attempt(o.connect()).run()
	wantRefusal(t, err, codes.PermissionDenied, attest.Denied, "policy")
	if got := o.settled(l); got[0] != 1 {
		t.Errorf("the agent was asked %d times, want 1", got[0])
	}
	c := o.changes()[0]
	if want := fmt.Sprintf("uid %d", os.Getuid()); !strings.HasPrefix(c.GetActor(), want) || !strings.HasSuffix(c.GetActor(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("actor %q, want %s and this process", c.GetActor(), want)
	}
	if c.GetSource() != "push" || c.GetNote() != "because" || c.GetRevision() != 2 || c.GetRefused() || !c.GetKept() || c.GetSize() != int64(len(text)) {
		t.Errorf("got %v", c)
	}
	again, err := o.push(text)
	must(t, err)
	if !again.GetUnchanged() || len(o.changes()) != 2 {
		t.Errorf("the same again: %v, %d changes on record", again, len(o.changes()))
	}
}

// What decided is on record by its digest, and can be had by it.
func TestThePolicyOfADecisionIsFoundByItsDigest(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect())
	issued, err := a.run()
	must(t, err)
	_, err = o.push(policyText(2))
	must(t, err)
	item, err := o.ledger.Get(t.Context(), issued.GetReference())
	must(t, err)
	got, err := o.admin().GetPolicy(t.Context(), &assayv1.GetPolicyRequest{Key: &assayv1.GetPolicyRequest_Digest{Digest: item.Entry.Policy.Digest}})
	must(t, err)
	if string(got.GetDocument()) != policyText(1) || got.GetChange().GetRevision() != 1 {
		t.Errorf("got %v", got)
	}
	for name, c := range map[string]struct {
		req  *assayv1.GetPolicyRequest
		code codes.Code
	}{
		"never in force": {&assayv1.GetPolicyRequest{Key: &assayv1.GetPolicyRequest_Revision{Revision: 9}}, codes.NotFound},
		"a short digest": {&assayv1.GetPolicyRequest{Key: &assayv1.GetPolicyRequest_Digest{Digest: []byte{1}}}, codes.InvalidArgument},
		"no key":         {&assayv1.GetPolicyRequest{}, codes.InvalidArgument},
	} {
		if _, err := o.admin().GetPolicy(t.Context(), c.req); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
	}
}

func TestARefusedPushChangesNothingAndIsOnRecord(t *testing.T) {
	o := open(t)
	before := o.policy.Current()
	for i, c := range []struct {
		name, text string
		code       codes.Code
		want       string
	}{
		{"not a policy", "version: 1\nnonsense: true\n", codes.InvalidArgument, "nonsense"},
		{"nothing", "", codes.InvalidArgument, ""},
		{"too large", strings.Repeat("#", signed.MaxSize+1<<20), codes.ResourceExhausted, ""},
		{"the same revision with other content", edited(t, policyText(1), "30m", "31m"), codes.Aborted, "has not grown"},
		{"another trust domain", edited(t, policyText(2), "trust_domain: "+trustDomain, "trust_domain: simulated.elsewhere.example"), codes.FailedPrecondition, "simulated.elsewhere.example"},
		{"another name", edited(t, policyText(2), "bundle: test", "bundle: other"), codes.FailedPrecondition, "another policy"},
		{"a signed policy that is none", "\xd2\x84", codes.InvalidArgument, "signed_structure"},
	} {
		_, err := o.push(c.text)
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %v with %q", c.name, err, c.code, c.want)
		}
		if o.policy.Current() != before {
			t.Fatalf("%s: in force now", c.name)
		}
		if c.code == codes.ResourceExhausted {
			continue // it never arrived
		}
		if last := o.changes()[0]; !last.GetRefused() || last.GetDetail() == "" || last.GetKept() {
			t.Errorf("%s: on record as %v (%d)", c.name, last, i)
		}
	}
	s, err := o.admin().PolicyStatus(t.Context(), &assayv1.PolicyStatusRequest{})
	must(t, err)
	if s.GetInForce().GetRevision() != 1 || s.GetLastRefused() == nil {
		t.Errorf("got %v", s)
	}
	if _, err := o.admin().PushPolicy(t.Context(), &assayv1.PushPolicyRequest{Document: []byte(policyText(2)), Note: strings.Repeat("x", 513)}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a note that is too long: %v", err)
	}
	// A dry run leaves no trace, whatever comes of it.
	n := len(o.changes())
	for _, text := range []string{policyText(2), "nonsense"} {
		_, err := o.admin().PushPolicy(t.Context(), &assayv1.PushPolicyRequest{Document: []byte(text), DryRun: true})
		if (err == nil) != (text == policyText(2)) || len(o.changes()) != n || o.policy.Current() != before {
			t.Errorf("a dry run of %.20q: %v, %d changes", text, err, len(o.changes())-n)
		}
	}
}

// A large policy arrives whole.
func TestAPolicyOfManyMegabytesIsPushed(t *testing.T) {
	o := open(t)
	text := policyText(2) + strings.Repeat("# padding, padding, padding, padding, padding\n", 150_000)
	_, err := o.push(text)
	must(t, err)
	if o.policy.Current().Revision() != 2 {
		t.Error("it is not in force")
	}
}

func TestOfTwoPoliciesOfOneRevisionOneIsInForce(t *testing.T) {
	o := open(t)
	texts := make([]string, 6)
	errs := make([]error, len(texts))
	var wg sync.WaitGroup
	for i := range texts {
		texts[i] = edited(t, policyText(2), "30m", fmt.Sprintf("%dm", 31+i))
		wg.Go(func() { _, errs[i] = o.push(texts[i]) })
	}
	wg.Wait()
	won := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err != nil })
	if len(won) != 1 {
		t.Errorf("%d pushes of revision 2 won, want 1: %v", len(won), errs)
	}
	files, err := filepath.Glob(filepath.Join(o.cfg.DataDir, "pushed", "*.policy"))
	must(t, err)
	if len(files) != 1 {
		t.Errorf("pushed policies are left: %v", files)
	}
}

// What cannot be recorded is not in force.
func TestAPushThatCannotBeRecordedLeavesTheOneBeforeInForce(t *testing.T) {
	o := open(t)
	must(t, o.store.Close())
	defer func() { o.stop = func() error { return nil } }()
	_, err := o.push(policyText(2))
	if err == nil {
		t.Fatal("it was recorded in a closed database")
	}
	if o.policy.Current().Revision() != 1 {
		t.Error("it is in force without a record")
	}
}

func signers(t *testing.T, threshold int, bundle string) (issuer.PolicyOption, []crypto.Signer) {
	t.Helper()
	var keys []crypto.Signer
	var pub []crypto.PublicKey
	for range 3 {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		keys, pub = append(keys, k), append(pub, k.Public())
	}
	s, err := signed.NewSigners(threshold, pub...)
	must(t, err)
	return issuer.WithPolicySigners(s, bundle), keys
}

// Where signatures are required, each of the ways in requires them.
func TestNoWayInTakesAPolicyThatIsNotSigned(t *testing.T) {
	o := open(t)
	must(t, o.stop())
	option, keys := signers(t, 2, "")
	sign := func(text string, keys ...crypto.Signer) string {
		doc, err := signed.SignJoint("p", []byte(text), keys...)
		must(t, err)
		return string(doc)
	}
	must(t, os.WriteFile(o.cfg.Policy, []byte(sign(policyText(2), keys[0], keys[1])), 0o600))
	o.policyOptions = []issuer.PolicyOption{option}
	o.start()
	stranger := ed25519.NewKeyFromSeed(make([]byte, 32))
	for name, text := range map[string]string{
		"unsigned":                   policyText(3),
		"one of two":                 sign(policyText(3), keys[0]),
		"one and a stranger":         sign(policyText(3), keys[0], stranger),
		"two, of an older one":       sign(policyText(1), keys[0], keys[1]),
		"two, of the same revision":  sign(edited(t, policyText(2), "30m", "31m"), keys[0], keys[1]),
		"two, of another policy":     sign(edited(t, policyText(9), "bundle: test", "bundle: other"), keys[0], keys[1]),
		"two, for another authority": sign(edited(t, policyText(3), "trust_domain: "+trustDomain, "trust_domain: simulated.elsewhere.example"), keys[0], keys[1]),
	} {
		if _, err := o.push(text); err == nil || o.policy.Current().Revision() != 2 {
			t.Errorf("%s, pushed: %v, in force %d", name, err, o.policy.Current().Revision())
		}
		o.replacePolicy(text)
		if o.policy.Current().Revision() != 2 || o.policy.Refused() == "" {
			t.Errorf("%s, in the file: in force %d, refused %q", name, o.policy.Current().Revision(), o.policy.Refused())
		}
		if _, err := issuer.LoadPolicyFile(o.cfg.Policy, trustDomain, discard(), option); err != nil {
			continue
		}
		p, err := issuer.LoadPolicyFile(o.cfg.Policy, trustDomain, discard(), option)
		must(t, err)
		if err := p.Resume(t.Context(), o.store); err == nil {
			t.Errorf("%s: a server would start with it", name)
		}
	}
	done, err := o.push(sign(policyText(3), keys[2], keys[1]))
	must(t, err)
	if len(done.GetSigners()) != 2 || o.policy.Current().Revision() != 3 {
		t.Errorf("a good one: %v", done)
	}
	if c := o.changes()[0]; len(c.GetSigners()) != 2 {
		t.Errorf("who signed is not on record: %v", c)
	}
	s, err := o.admin().PolicyStatus(t.Context(), &assayv1.PolicyStatusRequest{})
	must(t, err)
	if s.GetSigners().GetThreshold() != 2 || len(s.GetSigners().GetKeyIds()) != 3 || s.GetFileRefused() == "" {
		t.Errorf("got %v", s)
	}
	if _, err := o.attempt(o.connect()).run(); err != nil {
		t.Errorf("after all of it: %v", err)
	}
}

// The name may change only by the configuration.
func TestASignedPolicyOfAnotherNameNeedsTheConfigurationsWord(t *testing.T) {
	o := open(t)
	must(t, o.stop())
	other := edited(t, policyText(1), "bundle: test", "bundle: other")
	for bundle, good := range map[string]bool{"": false, "test": false, "other": true} {
		option, keys := signers(t, 1, bundle)
		doc, err := signed.Sign("p", []byte(other), keys[0])
		must(t, err)
		must(t, os.WriteFile(o.cfg.Policy, doc, 0o600))
		st := o.reopenStore()
		p, err := issuer.LoadPolicyFile(o.cfg.Policy, trustDomain, discard(), option)
		if err == nil {
			err = p.Resume(t.Context(), st)
		}
		if (err == nil) != good {
			t.Errorf("policy_signers.bundle %q: %v", bundle, err)
		}
		must(t, st.Close())
	}
}

// A restart takes up what was pushed only from the server's own directory.
func TestAPushedPolicyWhoseContentIsGoneIsNotReplacedByAnOlderOne(t *testing.T) {
	o := open(t)
	_, err := o.push(policyText(2))
	must(t, err)
	must(t, o.stop())
	files, err := filepath.Glob(filepath.Join(o.cfg.DataDir, "pushed", "*.policy"))
	must(t, err)
	if len(files) != 1 {
		t.Fatal(files)
	}
	content, err := os.ReadFile(files[0])
	must(t, err)
	for name, change := range map[string]func(){
		"gone":    func() { must(t, os.Remove(files[0])) },
		"changed": func() { must(t, os.WriteFile(files[0], append(content, '\n'), 0o600)) },
	} {
		change()
		st := o.reopenStore()
		p, err := issuer.LoadPolicyFile(o.cfg.Policy, trustDomain, discard(), issuer.WithPushedPolicies(filepath.Dir(files[0])))
		must(t, err)
		if err := p.Resume(t.Context(), st); err == nil || !strings.Contains(err.Error(), "pushed at") {
			t.Errorf("%s: %v; in force would be %s", name, err, p.Current().Version())
		}
		must(t, st.Close())
		must(t, os.WriteFile(files[0], content, 0o600))
	}
	o.start()
	if o.policy.Current().Revision() != 2 {
		t.Errorf("put back, revision %d is in force", o.policy.Current().Revision())
	}
}

// Whenever the server is killed, what it acknowledged is in force afterwards,
// and what is in force grows.
func TestAKilledServerHasEveryPolicyThatItAcknowledged(t *testing.T) {
	p := assayd(t)
	socket := filepath.Join(p.data(), "admin.sock")
	p.cfg.AdminSocket = socket
	var acknowledged uint64 = 1
	const rounds = 5
	for round := range rounds {
		p.start()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			a := p.admin()
			for rev := acknowledged + 1; ; rev++ {
				s, err := a.PolicyStatus(ctx, &assayv1.PolicyStatusRequest{})
				if err != nil {
					return // it was killed
				}
				if s.GetInForce().GetRevision() < acknowledged {
					t.Errorf("round %d: %d is in force, %d was acknowledged", round, s.GetInForce().GetRevision(), acknowledged)
					return
				}
				rev = max(rev, s.GetInForce().GetRevision()+1)
				if _, err := a.PushPolicy(ctx, &assayv1.PushPolicyRequest{Document: []byte(policyText(int(rev)))}); err != nil {
					return
				}
				acknowledged = rev
			}
		})
		time.Sleep(time.Duration(50+30*round) * time.Millisecond) // at any moment
		p.kill()
		cancel()
		wg.Wait()
	}
	p.start()
	s, err := p.admin().PolicyStatus(t.Context(), &assayv1.PolicyStatusRequest{})
	must(t, err)
	if got := s.GetInForce().GetRevision(); got < acknowledged || s.GetFileOutrun() == "" {
		t.Errorf("after %d kills %d is in force, %d was acknowledged; %q", rounds, got, acknowledged, s.GetFileOutrun())
	}
	if acknowledged < 5 {
		t.Errorf("%d pushes between the kills: the test shows little", acknowledged)
	}
	t.Logf("%d pushes acknowledged over %d kills", acknowledged-1, rounds)
	p.stop()
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// reopenStore opens the database of a server that has stopped.
func (o *office) reopenStore() *store.SQLite {
	o.t.Helper()
	st, err := store.OpenSQLite(o.t.Context(), filepath.Join(o.cfg.DataDir, "assay.db"))
	must(o.t, err)
	return st
}
