package issuer_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/issuer/ca"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
)

// house is the binary, serving several trust domains in one process.
type house struct {
	t       testing.TB
	dir     string
	binary  string
	names   []string
	address string
	metrics string
	log     *logBuffer
	cmd     *exec.Cmd
	ended   chan error
}

// newHouse makes the data and the configuration of each trust domain. databases
// has the URL of each, or is empty.
func newHouse(t testing.TB, names []string, databases ...string) *house {
	t.Helper()
	hw, err := hardware()
	must(t, err)
	h := &house{t: t, names: names}
	h.dir, err = os.MkdirTemp("", "assay-") // a socket's path has to be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(h.dir) })
	h.binary, err = binary()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(h.dir, "root.pem"), hw.RootPEM(), 0o600))
	h.address, h.metrics = freeAddress(t), freeAddress(t)
	for i, name := range names {
		database := ""
		if len(databases) > 0 {
			database = databases[i]
		}
		h.init(name, database)
	}
	h.tenants(names[1:]...)
	t.Cleanup(h.kill)
	return h
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (h *house) data(name string) string { return filepath.Join(h.dir, name) }
func (h *house) file(name string) string { return filepath.Join(h.data(name), "assayd.yaml") }

// init makes a trust domain whose policy grants payments.
func (h *house) init(name, database string) {
	h.t.Helper()
	args := []string{"init", "--trust-domain", name, "--data-dir", h.data(name), "--simulated-root", filepath.Join(h.dir, "root.pem"), "--tenant"}
	if database != "" {
		args = append(args, "--database", database)
	}
	if out, err := exec.Command(h.binary, args...).CombinedOutput(); err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	h.policy(name, 1)
	if name == h.names[0] {
		h.configure(name, fmt.Sprintf("listen: %q\nmetrics_listen: %q\nshutdown_timeout: 2s\n", h.address, h.metrics))
	}
}

// configure adds lines to a trust domain's file.
func (h *house) configure(name, lines string) { h.write(h.file(name), h.read(h.file(name))+lines) }

// tenants says which others the first one's file names.
func (h *house) tenants(names ...string) {
	h.t.Helper()
	var kept []string
	for line := range strings.Lines(h.read(h.file(h.names[0]))) {
		if !strings.HasPrefix(line, "tenants:") {
			kept = append(kept, line)
		}
	}
	var files []string
	for _, n := range names {
		files = append(files, h.file(n))
	}
	h.write(h.file(h.names[0]), strings.Join(kept, "")+"tenants: ["+strings.Join(files, ", ")+"]\n")
}

func (h *house) policy(name string, revision int) {
	h.t.Helper()
	path := filepath.Join(h.data(name), "policy.yaml")
	h.write(path+".new", policyOf(name, revision))
	must(h.t, os.Rename(path+".new", path))
}

func (h *house) read(path string) string {
	h.t.Helper()
	b, err := os.ReadFile(path)
	must(h.t, err)
	return string(b)
}

func (h *house) write(path, text string) {
	h.t.Helper()
	must(h.t, os.WriteFile(path, []byte(text), 0o600))
}

// start runs the process, and returns when the trust domains are ready.
func (h *house) start(ready ...string) {
	h.t.Helper()
	h.launch()
	for _, name := range ready {
		h.await(name)
	}
}

func (h *house) launch() {
	h.t.Helper()
	h.log, h.ended = &logBuffer{}, make(chan error, 1)
	h.cmd = exec.Command(h.binary, "run", "--config", h.file(h.names[0]))
	stderr, err := h.cmd.StderrPipe()
	must(h.t, err)
	must(h.t, h.cmd.Start())
	cmd, ended, log := h.cmd, h.ended, h.log
	go func() {
		for s := bufio.NewScanner(stderr); s.Scan(); {
			_, _ = log.Write(append(s.Bytes(), '\n'))
		}
		ended <- cmd.Wait()
	}()
}

func (h *house) await(name string) {
	h.t.Helper()
	o := h.office(name)
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", h.metrics)
		if err != nil {
			continue
		}
		_ = c.Close()
		if o.get("/ready/"+name) == "ok\n" {
			return
		}
	}
	h.t.Fatalf("%s is not ready:\n%s", name, h.log.String())
}

func (h *house) hangup() {
	h.t.Helper()
	must(h.t, h.cmd.Process.Signal(syscall.SIGHUP))
}

// said waits until the log has a line with all of the words.
func (h *house) said(words ...string) {
	h.t.Helper()
	eventually(h.t, strings.Join(words, " … ")+" in the log", func() bool {
		for line := range strings.Lines(h.log.String()) {
			found := true
			for _, w := range words {
				found = found && strings.Contains(line, w)
			}
			if found {
				return true
			}
		}
		return false
	})
}

func (h *house) kill() {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Signal(syscall.SIGKILL)
	<-h.ended
	h.cmd = nil
	if h.t.Failed() {
		h.t.Logf("the log:\n%s", clipped(h.log.String()))
	}
}

// stop is SIGTERM; the process must end well.
func (h *house) stop() {
	h.t.Helper()
	must(h.t, h.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-h.ended:
		must(h.t, err)
	case <-time.After(15 * time.Second):
		h.t.Fatal("it does not stop")
	}
	h.cmd = nil
}

// office is a client of one trust domain.
func (h *house) office(name string) *office {
	h.t.Helper()
	hw, err := hardware()
	must(h.t, err)
	o := &office{t: h.t, hardware: hw, clock: &clock{}, addr: h.address, metricsAt: h.metrics, sni: name}
	o.cfg.TrustDomain = name
	o.cfg.AdminSocket = filepath.Join(h.data(name), "admin.sock")
	o.bootstrap = []byte(h.read(filepath.Join(h.data(name), "bootstrap-root.pem")))
	return o
}

// socket is a connection to a trust domain's admin socket.
func (h *house) socket(name string) *grpc.ClientConn {
	h.t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(h.data(name), "admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// verify checks a trust domain's ledger, while nobody runs.
func (h *house) verify(name string) uint64 {
	h.t.Helper()
	st, err := store.OpenSQLiteReadOnly(context.Background(), ca.DatabasePath(h.data(name)))
	must(h.t, err)
	defer func() { must(h.t, st.Close()) }()
	text, err := ca.CheckpointKeyText(h.data(name))
	must(h.t, err)
	key, err := ledger.ParseVerifierKey(text)
	must(h.t, err)
	report, err := ledger.NewReader(st, name, "").In("main").Verify(context.Background(), key, nil)
	must(h.t, err)
	return report.Entries
}

func TestOneProcessServesSeveralTrustDomainsAndStopsWell(t *testing.T) {
	h := newHouse(t, []string{first, second})
	h.start(first, second)
	var wg sync.WaitGroup
	for _, name := range h.names {
		o := h.office(name)
		conn := o.connect()
		for range 3 {
			wg.Go(func() {
				if _, err := o.attempt(conn).run(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	wg.Wait()
	if got := h.office(first).get("/ready"); got != "ok\n"+first+": ok\n"+second+": ok\n" {
		t.Errorf("/ready: %q", got)
	}
	for _, name := range h.names {
		h.said("msg=serving", "trust_domain="+name, "attestation="+h.address)
	}
	h.stop()
	for _, name := range h.names {
		if n := h.verify(name); n < 3 {
			t.Errorf("%s: %d entries", name, n)
		}
	}
	out, err := exec.Command(h.binary, "check", "--config", h.file(first)).CombinedOutput()
	if err != nil || strings.Count(string(out), "ok: trust domain ") != 2 {
		t.Errorf("check: %v\n%s", err, out)
	}
}

func TestWhatIsBrokenInOneTrustDomainDoesNotStopTheOthers(t *testing.T) {
	for _, broken := range []string{first, second} {
		t.Run(broken, func(t *testing.T) {
			h := newHouse(t, []string{first, second})
			well := second
			if broken == second {
				well = first
			}
			policy := filepath.Join(h.data(broken), "policy.yaml")
			good := h.read(policy)
			h.write(policy, "not: a policy\n")
			h.start(well)
			o := h.office(well)
			if _, err := o.attempt(o.connect()).run(); err != nil {
				t.Errorf("the other: %v", err)
			}
			if got := o.get("/ready/" + broken); !strings.HasPrefix(got, "503") || !strings.Contains(got, "policy.yaml") {
				t.Errorf("/ready/%s: %q", broken, got)
			}
			if got := o.get("/ready"); !strings.HasPrefix(got, "ok\n") {
				t.Errorf("/ready: %q", got)
			}
			h.said("level=ERROR", "the trust domain is not served", "trust_domain="+broken)
			// Nobody answers in its place, and who names nobody meets the first or no one.
			x := h.office(broken)
			if _, err := x.attempt(x.connect()).run(); status.Code(err) != codes.Unavailable {
				t.Errorf("the broken one: %v", err)
			}
			out, err := exec.Command(h.binary, "check", "--config", h.file(first)).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "trust domain "+broken+":\n") || !strings.Contains(string(out), policy+":1:1") || !strings.Contains(string(out), "ok: trust domain "+well) {
				t.Errorf("check: %v\n%s", err, out)
			}
			h.write(policy, good)
			h.hangup()
			h.await(broken)
			if _, err := x.attempt(x.connect()).run(); err != nil {
				t.Errorf("mended: %v", err)
			}
			h.stop()
		})
	}
}

func TestWhereNoTrustDomainCanBeServedTheStartIsRefused(t *testing.T) {
	h := newHouse(t, []string{first, second})
	for _, name := range h.names {
		h.write(filepath.Join(h.data(name), "policy.yaml"), "not: a policy\n")
	}
	h.launch()
	select {
	case err := <-h.ended:
		h.cmd = nil
		var ee *exec.ExitError
		if !errors.As(err, &ee) || ee.ExitCode() != 2 || !strings.Contains(h.log.String(), "none of 2 trust domains can be served") {
			t.Errorf("got %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("it runs")
	}
	for _, name := range h.names {
		if !strings.Contains(h.log.String(), filepath.Join(h.data(name), "policy.yaml")+":1:1") {
			t.Errorf("the error does not name %s:\n%s", name, h.log.String())
		}
	}
}

func TestAReloadChangesWhatIsSafeWhileEverybodyIsServed(t *testing.T) {
	third := "simulated.c.example"
	h := newHouse(t, []string{first, second})
	h.start(first, second)
	a, b := h.office(first), h.office(second)
	connA, connB := a.connect(), b.connect()
	watching := a.boot(connA)
	if _, err := a.watch(watching.certificate()); err != nil {
		t.Fatal(err)
	}
	_ = b.boot(connB)

	// A tenant comes, a limit becomes less, the log says more; and what needs a
	// restart is named, and not in force.
	h.init(third, "")
	h.tenants(second, third)
	h.configure(first, "limits: {attestations_per_instance: 1}\nquotas: {denials_per_hour: 1}\nlog: {level: debug}\nreflection: true\n")
	h.configure(second, "retain_evidence: 2h\n")
	h.hangup()
	h.await(third)
	h.said("the configuration was read again", third)
	h.said("level=WARN", "needs a restart", "trust_domain="+first, "key=reflection")
	h.said("level=WARN", "needs a restart", "trust_domain="+second, "key=retain_evidence")
	if n := a.counter("assay_config_restart_needed"); n != 2 {
		t.Errorf("%v keys need a restart", n)
	}
	c := h.office(third)
	if _, err := c.attempt(c.connect()).run(); err != nil {
		t.Errorf("the new one: %v", err)
	}
	again := func(o *office, conn *grpc.ClientConn) error {
		x := o.attempt(conn)
		x.document.ModuleID = "i-0123456789abcdef0-enc0123456789abcde"
		_, err := x.run()
		return err
	}
	must(t, again(a, connA))
	if err := again(a, connA); err == nil || denied(t, err).GetCheck() != "instance_rate" {
		t.Errorf("the new limit is not in force: %v", err)
	}
	for range 2 {
		if err := again(b, connB); err != nil {
			t.Errorf("the limit of another trust domain: %v", err)
		}
	}
	if n := a.gauge("assay_watches"); n != 1 {
		t.Errorf("%v watches: a reload cost one", n)
	}
	for _, o := range []*office{a, b} { // a quota, too, is that of one
		for i := range 2 {
			x := o.attempt(o.connect())
			x.launch.Debug = true
			x.document.ModuleID = fmt.Sprintf("i-0123456789abcdef%d-enc0123456789abcde", i+1)
			if _, err := x.run(); status.Code(err) != codes.PermissionDenied {
				t.Errorf("a debug enclave: %v", err)
			}
		}
	}
	eventually(t, "the denials to be counted", func() bool {
		return a.gauge("assay_ledger_denials_total") == 1 && a.gauge("assay_ledger_denials_dropped_total") == 1 && b.gauge("assay_ledger_denials_total") == 2
	})
	if _, err := c.watch(c.boot(c.connect()).certificate()); err != nil {
		t.Fatal(err)
	}
	h.said("level=DEBUG", "watching", third)

	// A file with a mistake changes nothing, in no trust domain.
	good := h.read(h.file(first))
	h.configure(second, "nope: 1\n")
	h.write(h.file(first), strings.Replace(good, "attestations_per_instance: 1", "attestations_per_instance: 100", 1))
	h.hangup()
	h.said("level=ERROR", "the configuration is refused", "nope")
	if err := again(a, connA); err == nil {
		t.Error("half of a refused configuration is in force")
	}
	h.write(h.file(second), strings.Replace(h.read(h.file(second)), "nope: 1\n", "", 1))

	// One goes: its own end and nobody else's.
	h.tenants(third)
	h.hangup()
	h.said("the trust domain is not configured any more", second)
	eventually(t, "the limit to be raised", func() bool { return again(a, connA) == nil })
	if err := again(c, c.connect()); err != nil {
		t.Errorf("who stays: %v", err)
	}
	if err := again(b, b.connect()); err == nil {
		t.Error("who went is served")
	}
	if _, err := os.Stat(filepath.Join(h.data(second), "admin.sock")); !os.IsNotExist(err) {
		t.Errorf("the admin socket of who went is there: %v", err)
	}
	h.stop()
	for _, name := range []string{first, second, third} {
		h.verify(name)
	}
}

// facts are what there is to know of a trust domain, from its own side.
type facts struct {
	reference, serial, instance, spiffeID, authority, ban, federated string
	evidence, policy                                                 []byte
}

func (h *house) facts(name string) facts {
	h.t.Helper()
	ctx, conn := h.t.Context(), h.socket(name)
	o := h.office(name)
	issued, err := o.attempt(o.connect()).run()
	must(h.t, err)
	f := facts{reference: issued.GetReference(), serial: serialOf(h.t, issued.GetSvids()[0].GetChain()[0]), spiffeID: issued.GetSvids()[0].GetSpiffeId()}
	admin, agents := assayv1.NewAdminClient(conn), assayv1.NewAgentsClient(conn)
	e, err := admin.GetLedgerEntry(ctx, &assayv1.GetLedgerEntryRequest{Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: f.reference}})
	must(h.t, err)
	entry, err := ledger.ParseEntry(e.GetPayload())
	must(h.t, err)
	f.evidence = entry.EvidenceDigest
	st, err := admin.Status(ctx, &assayv1.StatusRequest{})
	must(h.t, err)
	f.policy = st.GetPolicyDigest()
	list, err := agents.ListAgents(ctx, &assayv1.ListAgentsRequest{})
	must(h.t, err)
	agent, err := list.Recv()
	must(h.t, err)
	f.instance = agent.GetInstance()
	ban, err := agents.Ban(ctx, &assayv1.BanRequest{Who: &assayv1.BanRequest_SpiffeId{SpiffeId: "spiffe://" + name + "/nobody"}, Reason: "a secret of " + name})
	must(h.t, err)
	f.ban = ban.GetBan().GetId()
	authorities, err := assayv1.NewAuthoritiesClient(conn).ListAuthorities(ctx, &assayv1.ListAuthoritiesRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509})
	must(h.t, err)
	f.authority = authorities.GetAuthorities()[0].GetId()
	return f
}

// hexOf is another string of the same form: digits that nobody has.
func hexOf(n int) string { return strings.Repeat("5e", n) }

// everything is what an administrator can read of a trust domain.
func (h *house) everything(name string) string {
	h.t.Helper()
	ctx, conn := h.t.Context(), h.socket(name)
	var b bytes.Buffer
	add := func(m any, err error) error {
		if err == nil {
			fmt.Fprintln(&b, m)
		}
		return err
	}
	admin, agents := assayv1.NewAdminClient(conn), assayv1.NewAgentsClient(conn)
	entries, err := admin.ListLedger(ctx, &assayv1.ListLedgerRequest{})
	must(h.t, err)
	for add(entries.Recv()) == nil {
	}
	records, err := admin.ListRecords(ctx, &assayv1.ListRecordsRequest{})
	must(h.t, err)
	for add(records.Recv()) == nil {
	}
	who, err := agents.ListAgents(ctx, &assayv1.ListAgentsRequest{})
	must(h.t, err)
	for add(who.Recv()) == nil {
	}
	svids, err := agents.ListSVIDs(ctx, &assayv1.ListSVIDsRequest{})
	must(h.t, err)
	for add(svids.Recv()) == nil {
	}
	notes, err := admin.ListCheckpoints(ctx, &assayv1.ListCheckpointsRequest{})
	must(h.t, err)
	for add(notes.Recv()) == nil {
	}
	changes, err := admin.ListPolicyChanges(ctx, &assayv1.ListPolicyChangesRequest{})
	must(h.t, err)
	for add(changes.Recv()) == nil {
	}
	must(h.t, add(admin.Status(ctx, &assayv1.StatusRequest{})))
	must(h.t, add(admin.GetBundle(ctx, &assayv1.GetBundleRequest{})))
	must(h.t, add(agents.ListBans(ctx, &assayv1.ListBansRequest{})))
	must(h.t, add(assayv1.NewAuthoritiesClient(conn).ListAuthorities(ctx, &assayv1.ListAuthoritiesRequest{})))
	must(h.t, add(assayv1.NewFederationsClient(conn).ListFederations(ctx, &assayv1.ListFederationsRequest{})))
	return b.String()
}

// isolation is every attempt of one tenant's administrator on another's.
func isolation(t *testing.T, h *house) {
	t.Helper()
	mine, theirs := h.facts(first), h.facts(second)
	ctx, conn := t.Context(), h.socket(first)
	admin, agents := assayv1.NewAdminClient(conn), assayv1.NewAgentsClient(conn)
	authorities, federations := assayv1.NewAuthoritiesClient(conn), assayv1.NewFederationsClient(conn)

	// What one can read holds nothing of the other, by no list and by no probing.
	all := h.everything(first)
	for what, secret := range map[string]string{
		"trust domain": second, "reference": theirs.reference, "serial": theirs.serial, "authority": theirs.authority, "ban": theirs.ban,
		"policy": string(theirs.policy), "evidence": string(theirs.evidence),
	} {
		if strings.Contains(all, secret) {
			t.Errorf("the %s of the other is in what one can read", what)
		}
	}
	for what, own := range map[string]string{"reference": mine.reference, "serial": mine.serial, "authority": mine.authority, "ban": mine.ban} {
		if !strings.Contains(all, own) {
			t.Errorf("one's own %s is not: the test shows nothing", what)
		}
	}
	before := h.everything(second)

	raw := func(s string) []byte { b, err := hex.DecodeString(s); must(t, err); return b }
	drain := func(recv func() (any, error)) error {
		n := 0
		for {
			if _, err := recv(); errors.Is(err, io.EOF) {
				if n == 0 {
					return status.Error(codes.NotFound, "nothing")
				}
				return nil
			} else if err != nil {
				return err
			}
			n++
		}
	}
	// Each guess is made with the other's value, and with one that nobody has: it
	// must fail, and in the very same way.
	for name, g := range map[string]struct {
		real, none string
		try        func(value string) error
	}{
		"ledger entry": {theirs.reference, "as-aaaaaaaaaa", func(v string) error {
			_, err := admin.GetLedgerEntry(ctx, &assayv1.GetLedgerEntryRequest{Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: v}})
			return err
		}},
		"evidence": {hex.EncodeToString(theirs.evidence), hexOf(32), func(v string) error {
			_, err := admin.GetEvidence(ctx, &assayv1.GetEvidenceRequest{Digest: raw(v)})
			return err
		}},
		"policy": {hex.EncodeToString(theirs.policy), hexOf(32), func(v string) error {
			_, err := admin.GetPolicy(ctx, &assayv1.GetPolicyRequest{Key: &assayv1.GetPolicyRequest_Digest{Digest: raw(v)}})
			return err
		}},
		"SVIDs of an identity": {theirs.spiffeID, "spiffe://" + second + "/nobody/at/all", func(v string) error {
			s, err := agents.ListSVIDs(ctx, &assayv1.ListSVIDsRequest{SpiffeId: v})
			must(t, err)
			return drain(func() (any, error) { return s.Recv() })
		}},
		"agents of an identity": {theirs.spiffeID, "spiffe://" + second + "/nobody/at/all", func(v string) error {
			s, err := agents.ListAgents(ctx, &assayv1.ListAgentsRequest{SpiffeId: v})
			must(t, err)
			return drain(func() (any, error) { return s.Recv() })
		}},
		"ledger of an identity": {theirs.spiffeID, "spiffe://" + second + "/nobody/at/all", func(v string) error {
			s, err := admin.ListLedger(ctx, &assayv1.ListLedgerRequest{SpiffeId: v})
			must(t, err)
			return drain(func() (any, error) { return s.Recv() })
		}},
		"ban": {theirs.ban, "ban-" + hexOf(8), func(v string) error {
			_, err := agents.Unban(ctx, &assayv1.UnbanRequest{Id: v, Reason: "try"})
			return err
		}},
		"activating an authority": {theirs.authority, hexOf(8), func(v string) error {
			_, err := authorities.ActivateAuthority(ctx, &assayv1.ActivateAuthorityRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509, Id: v})
			return err
		}},
		"tainting an authority": {theirs.authority, hexOf(8), func(v string) error {
			_, err := authorities.TaintAuthority(ctx, &assayv1.TaintAuthorityRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509, Id: v, Reason: "try", Force: true})
			return err
		}},
		"revoking an authority": {theirs.authority, hexOf(8), func(v string) error {
			_, err := authorities.RevokeAuthority(ctx, &assayv1.RevokeAuthorityRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509, Id: v, Reason: "try"})
			return err
		}},
		"request of an authority": {theirs.authority, hexOf(8), func(v string) error {
			_, err := authorities.GetAuthorityCSR(ctx, &assayv1.GetAuthorityCSRRequest{Id: v})
			return err
		}},
		"federation": {second, "simulated.nobody.example", func(v string) error {
			_, err := federations.DeleteFederation(ctx, &assayv1.DeleteFederationRequest{TrustDomain: v})
			return err
		}},
		"policy for another trust domain": {policyOf(second, 99), policyOf("simulated.nobody.example", 99), func(v string) error {
			_, err := admin.PushPolicy(ctx, &assayv1.PushPolicyRequest{Document: []byte(v)})
			if err == nil {
				return nil
			}
			m := regexp.MustCompile(`simulated\.[a-z]+\.example`).ReplaceAllString(err.Error(), "TD") // one's own, and what was sent
			return status.Error(status.Code(err), m)
		}},
	} {
		got, none := g.try(g.real), g.try(g.none)
		if got == nil {
			t.Errorf("%s: the other's was found", name)
			continue
		}
		if none == nil {
			t.Errorf("%s: nobody's was found: the test shows nothing", name)
			continue
		}
		x, y := strings.ReplaceAll(got.Error(), g.real, "…"), strings.ReplaceAll(none.Error(), g.none, "…")
		if status.Code(got) != status.Code(none) || x != y {
			t.Errorf("%s: the answers tell whether it is the other's:\n%s\n%s", name, x, y)
		}
	}
	// A serial of another's can be revoked only on one's own list, as any number can.
	a, errA := agents.RevokeSVIDs(ctx, &assayv1.RevokeSVIDsRequest{Serials: []string{theirs.serial}, Reason: "try"})
	b, errB := agents.RevokeSVIDs(ctx, &assayv1.RevokeSVIDsRequest{Serials: []string{hexOf(16)}, Reason: "try"})
	if status.Code(errA) != status.Code(errB) || a.GetRevoked() != b.GetRevoked() {
		t.Errorf("revoking tells: %v %v, %v %v", a, errA, b, errB)
	}
	// A ban of the machine they share is each one's own.
	if _, err := agents.Ban(ctx, &assayv1.BanRequest{Who: &assayv1.BanRequest_Instance{Instance: theirs.instance}, Reason: "try"}); err != nil {
		t.Errorf("a ban in one's own trust domain: %v", err)
	}
	if _, err := authorities.PrepareAuthority(ctx, &assayv1.PrepareAuthorityRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509}); err != nil {
		t.Errorf("an authority of one's own: %v", err)
	}

	// Nothing of it changed anything of the other's …
	o := h.office(second)
	if _, err := o.attempt(o.connect()).run(); err != nil {
		t.Errorf("the other's agents: %v", err)
	}
	same := func(s string) string { // what one's own reading and the attestation just now add
		var kept []string
		for line := range strings.Lines(s) {
			if strings.Contains(line, "serial") || strings.Contains(line, "ban-") || strings.Contains(line, "authorities:") {
				kept = append(kept, regexp.MustCompile(`\s+`).ReplaceAllString(line, " "))
			}
		}
		return strings.Join(kept, "\n")
	}
	after := same(h.everything(second))
	for line := range strings.Lines(same(before)) {
		if strings.Contains(line, "ban-") && !strings.Contains(after, strings.TrimSpace(line)) {
			t.Errorf("changed in the other: %s", line)
		}
	}
	list, err := assayv1.NewAuthoritiesClient(h.socket(second)).ListAuthorities(ctx, &assayv1.ListAuthoritiesRequest{Use: assayv1.AuthorityUse_AUTHORITY_USE_X509})
	must(t, err)
	for _, x := range list.GetAuthorities() {
		if x.GetState() != assayv1.AuthorityState_AUTHORITY_STATE_ACTIVE {
			t.Errorf("an authority of the other: %v", x)
		}
	}
	if len(list.GetAuthorities()) != 1 {
		t.Errorf("the other has %d authorities", len(list.GetAuthorities()))
	}
	// … but what was done is in one's own.
	x := h.office(first)
	_, err = x.attempt(x.connect()).run()
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("who banned itself attests: %v", err)
	}
}

func TestATenantsAdministratorReadsAndChangesNothingOfAnothers(t *testing.T) {
	h := newHouse(t, []string{first, second})
	h.start(first, second)
	isolation(t, h)
	h.stop()
	// What was tried is on record with who tried it.
	h.verify(first)
	h.verify(second)
}

// Two trust domains in one database are as far apart as in two.
func TestTenantsThatShareADatabaseAreAsFarApart(t *testing.T) {
	cluster := postgrestest.Start(t)
	url := cluster.Database(t)
	h := newHouse(t, []string{first, second}, url, url)
	h.start(first, second)
	isolation(t, h)
	h.stop()
}

// What one tenant's attesters and administrator can fill or keep busy is its own.
func TestATenantExhaustsOnlyItself(t *testing.T) {
	h := newHouse(t, []string{first, second})
	h.configure(first, "quotas: {denials: 2, denials_per_hour: 2, denials_per_instance: 2, evidence_per_instance: 1}\nlimits: {admin_calls: 30, attestations_per_instance: 1000}\n")
	h.start(first, second)
	a, b := h.office(first), h.office(second)

	// Denials and evidence: quotas are each one's own.
	deny := func(o *office) {
		x := o.attempt(o.connect())
		x.launch.Debug = true
		if _, err := x.run(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a debug enclave: %v", err)
		}
	}
	for range 6 {
		deny(a)
	}
	deny(b)
	eventually(t, "the denials to be counted", func() bool { return a.gauge("assay_ledger_denials_total") == 2 })
	if n := a.gauge("assay_ledger_denials_dropped_total"); n != 4 {
		t.Errorf("%v dropped in the one whose quota is used up, want 4", n)
	}
	if kept, dropped := b.gauge("assay_ledger_denials_total"), b.gauge("assay_ledger_denials_dropped_total"); kept != 1 || dropped != 0 {
		t.Errorf("in the other: %v kept, %v dropped", kept, dropped)
	}

	// Calls of an administrator.
	statusOf := func(name string) error {
		_, err := assayv1.NewAdminClient(h.socket(name)).Status(t.Context(), &assayv1.StatusRequest{})
		return err
	}
	var refused error
	for range 60 {
		if err := statusOf(first); err != nil {
			refused = err
		}
	}
	if status.Code(refused) != codes.Unavailable && status.Code(refused) != codes.ResourceExhausted {
		t.Errorf("sixty calls where thirty are allowed: %v", refused)
	}
	if err := statusOf(second); err != nil {
		t.Errorf("the administrator of the other: %v", err)
	}

	// A policy that takes long to compile, over and over.
	expensive := expensivePolicy(first)
	h.write(filepath.Join(h.data(first), "policy.yaml"), expensive)
	h.hangup()
	for range 20 {
		if _, err := b.attempt(b.connect()).run(); err != nil {
			t.Fatalf("the other's agents meanwhile: %v", err)
		}
	}
	h.stop()
}

// expensivePolicy has as many workloads with expressions as there is room for.
func expensivePolicy(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nbundle: test\nrevision: 2\ntrust_domain: %s\nworkloads:\n", name)
	for i := range 400 {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		fmt.Fprintf(&b, "  - name: w%d\n    tee: aws-nitro\n    mode: enforce\n    match:\n      pcr0: {eq: %q}\n      pcr3: {eq: %q}\n    expr: 'nitro.debug == false && nitro.module_id.matches(\"^i-[0-9a-f]{%d}.*$\")'\n    issue: [{spiffe_id: \"spiffe://{td}/w%d\", x509_ttl: 1h}]\n",
			i, hex.EncodeToString(append(sum[:], sum[:16]...)), hex.EncodeToString(append(sum[:], sum[:16]...)), i%50+1, i)
	}
	return b.String()
}
