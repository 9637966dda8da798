package issuer_test

import (
	"crypto/sha256"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	_ "modernc.org/sqlite"

	"github.com/assay-project/assay/issuer"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// write is somebody with the database and nothing else.
func (o *office) write(statement string, args ...any) {
	o.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(o.cfg.DataDir, "assay.db")+"?_pragma=busy_timeout(5000)")
	must(o.t, err)
	defer func() { must(o.t, db.Close()) }()
	_, err = db.Exec(statement, args...)
	must(o.t, err)
}

func (o *office) forge(name string, revision int, document string) {
	digest := sha256.Sum256([]byte(document))
	o.write(`INSERT INTO policy_changes (trust_domain, at, source, actor, note, name, revision, digest, signers, refused, detail, size, document)
		VALUES (?,?,'push','uid 0','',?,?,?,'',0,'',?,?)`, trustDomain, time.Now().UnixMicro(), name, revision, digest[:], len(document), []byte(document))
}

func (o *office) getRevision(revision uint64) (*assayv1.GetPolicyResponse, error) {
	return o.admin().GetPolicy(o.t.Context(), &assayv1.GetPolicyRequest{Key: &assayv1.GetPolicyRequest_Revision{Revision: revision}})
}

// `assay policy revert` publishes what it is given, and signers sign it.
func TestARowThatSomebodyWroteIsNotHandedOutAsAPolicyThatWasInForce(t *testing.T) {
	o := open(t)
	o.replacePolicy(policyText(2))
	evil := edited(t, policyText(1), "30m", "24h")
	o.forge("test", 1, evil)
	got, err := o.getRevision(1)
	must(t, err)
	if string(got.GetDocument()) != policyText(1) {
		t.Errorf("beside the true one, the other is handed out:\n%s", got.GetDocument())
	}
	o.forge("test", 7, edited(t, evil, "revision: 1", "revision: 7"))
	if got, err := o.getRevision(7); status.Code(err) != codes.FailedPrecondition || !contains(err.Error(), "does not remember") {
		t.Errorf("a revision that never was: %v, %v", got, err)
	}
	// Instead of the true one: it is not found.
	o.write(`DROP TRIGGER policy_changes_no_delete`)
	o.write(`DELETE FROM policy_changes WHERE revision = 1`)
	o.forge("test", 1, evil)
	if got, err := o.getRevision(1); status.Code(err) != codes.NotFound {
		t.Errorf("in the place of the true one: %v, %v", got, err)
	}
	o.restart()
	if got, err := o.getRevision(1); status.Code(err) != codes.NotFound {
		t.Errorf("after a restart: %v, %v", got, err)
	}
	if got, err := o.getRevision(2); err != nil || string(got.GetDocument()) != policyText(2) {
		t.Errorf("what was in force, after a restart: %v, %v", got, err)
	}
}

func (o *office) restart() {
	o.t.Helper()
	must(o.t, o.stop())
	o.start()
}

// forget removes what the database has of a policy's newest revisions.
func (o *office) forget(from int) {
	o.write(`DROP TRIGGER policies_no_delete`)
	o.write(`DROP TRIGGER policy_changes_no_delete`)
	o.write(`DELETE FROM policies WHERE revision >= ?`, from)
	o.write(`DELETE FROM policy_changes WHERE revision >= ?`, from)
}

func TestWhoRemovesRowsOfTheDatabaseBringsNoOlderPolicyBack(t *testing.T) {
	o := open(t)
	_, err := o.push(edited(t, policyText(2), "mode: enforce", "mode: audit"))
	must(t, err)
	must(t, o.stop())
	o.forget(2)
	o.start()
	if o.policy.Current().Revision() != 2 || o.policy.Outrun() == "" {
		t.Errorf("revision %d is in force, want 2; %q", o.policy.Current().Revision(), o.policy.Outrun())
	}
	if !contains(o.log.String(), "rows were removed") {
		t.Error("the log does not say that rows are missing")
	}
	if c := o.changes()[0]; c.GetRevision() != 2 || c.GetActor() != "assayd" || c.GetRefused() {
		t.Errorf("on record: %v", c)
	}
	if got, err := o.getRevision(2); err != nil || got.GetChange().GetRevision() != 2 {
		t.Errorf("its content: %v", err)
	}
	o.restart()
	if o.policy.Current().Revision() != 2 {
		t.Errorf("and again: revision %d", o.policy.Current().Revision())
	}
}

// Of the file's revisions there is no copy in the data directory.
func TestAnOlderFileDoesNotStartThoughTheDatabaseForgotTheNewerOne(t *testing.T) {
	o := open(t)
	o.replacePolicy(policyText(2))
	o.replacePolicy(policyText(3))
	must(t, o.stop())
	o.forget(2)
	o.movePolicy(policyText(2))
	start := func() error {
		p, err := issuer.LoadPolicyFile(o.cfg.Policy, trustDomain, discard(), issuer.WithPushedPolicies(filepath.Join(o.cfg.DataDir, "pushed")))
		must(t, err)
		st := o.reopenStore()
		defer func() { must(t, st.Close()) }()
		return p.Resume(t.Context(), st)
	}
	if err := start(); err == nil || !contains(err.Error(), "test@3 was in force") {
		t.Errorf("revision 2 after 3: %v", err)
	}
	o.movePolicy(edited(t, policyText(3), "30m", "31m"))
	if err := start(); err == nil {
		t.Error("other content as revision 3 starts")
	}
	o.movePolicy(policyText(3))
	if err := start(); err != nil {
		t.Errorf("revision 3 itself: %v", err)
	}
	o.start()
	if o.policy.Current().Revision() != 3 {
		t.Errorf("revision %d is in force", o.policy.Current().Revision())
	}
}

// A server that is killed while it writes a line has not acknowledged it.
func TestAListOfAcceptedPoliciesThatWasCutOffIsGoneOnWith(t *testing.T) {
	o := open(t)
	must(t, o.stop())
	list := filepath.Join(o.cfg.DataDir, "pushed", "accepted.jsonl")
	f, err := os.OpenFile(list, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(`{"name":"test","revision":99,"dig`)
	must(t, err)
	must(t, f.Close())
	o.start()
	o.replacePolicy(policyText(2))
	o.restart()
	raw, err := os.ReadFile(list)
	must(t, err)
	if n := strings.Count(string(raw), "\n"); n != 2 || contains(string(raw), "99") || o.policy.Current().Revision() != 2 {
		t.Errorf("%d lines:\n%s", n, raw)
	}
	// What is broken elsewhere is no reason to go on.
	must(t, o.stop())
	for name, text := range map[string]string{"no JSON": "x\n" + string(raw), "no digest": `{"name":"test","revision":1,"digest":"00"}` + "\n"} {
		must(t, os.WriteFile(list, []byte(text), 0o600))
		p, err := issuer.LoadPolicyFile(o.cfg.Policy, trustDomain, discard(), issuer.WithPushedPolicies(filepath.Dir(list)))
		must(t, err)
		st := o.reopenStore()
		if err := p.Resume(t.Context(), st); err == nil || !contains(err.Error(), "accepted.jsonl:1") {
			t.Errorf("%s: %v", name, err)
		}
		must(t, st.Close())
	}
	must(t, os.WriteFile(list, raw, 0o600))
	must(t, os.Chmod(list, 0o666))
	p, err := issuer.LoadPolicyFile(o.cfg.Policy, trustDomain, discard(), issuer.WithPushedPolicies(filepath.Dir(list)))
	must(t, err)
	st := o.reopenStore()
	if err := p.Resume(t.Context(), st); err == nil {
		t.Error("a list that others may write is believed")
	}
	must(t, st.Close())
}

// The history says "revert" of what is one.
func TestARevertIsTheOlderRevisionWithAnotherNumber(t *testing.T) {
	o := open(t)
	o.replacePolicy(edited(t, policyText(2), "30m", "31m"))
	revert := func(text string, to uint64) error {
		_, err := o.admin().PushPolicy(t.Context(), &assayv1.PushPolicyRequest{Document: []byte(text), RevertsTo: to})
		return err
	}
	for name, c := range map[string]struct {
		text string
		to   uint64
	}{
		"other content":                {edited(t, policyText(3), "30m", "33m"), 1},
		"a revision that is not known": {policyText(3), 9},
		"another revision's":           {policyText(3), 2},
		"a digit elsewhere":            {edited(t, policyText(3), "version: 1", "version: 1 # 1"), 1},
	} {
		if err := revert(c.text, c.to); status.Code(err) != codes.FailedPrecondition || o.policy.Current().Revision() != 2 {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, revert(policyText(11), 1))
	if c := o.changes()[0]; c.GetSource() != "revert" || c.GetRevision() != 11 {
		t.Errorf("on record: %v", c)
	}
}
