package issuer_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid/svidtest"
)

const adminDomain = "admins.example.org"

func adminID(name string) string { return "spiffe://" + adminDomain + "/" + name }

// headquarters is a server that administrators reach over TLS.
type headquarters struct {
	*office
	admins *svidtest.Authority
	bundle string // file
}

func writeBundle(t testing.TB, path string, authorities ...*svidtest.Authority) {
	t.Helper()
	var out []byte
	for _, a := range authorities {
		for _, c := range a.Bundle().X509Authorities() {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	must(t, os.WriteFile(path+".new", out, 0o600))
	must(t, os.Rename(path+".new", path))
}

func openHeadquarters(t testing.TB, options ...option) *headquarters {
	t.Helper()
	h := &headquarters{admins: svidtest.New(t, adminDomain), bundle: filepath.Join(t.TempDir(), "admins.pem")}
	writeBundle(t, h.bundle, h.admins)
	h.office = open(t, append([]option{func(c *config.Config) {
		c.Administration = config.Administration{
			Listen: "127.0.0.1:0", TrustDomain: adminDomain, Bundle: h.bundle,
			Roles: config.Roles{Viewer: []string{adminID("vera")}, PolicyAuthor: []string{adminID("paul")}, Operator: []string{adminID("olga")}},
		}
	}}, options...)...)
	return h
}

// client is a TLS certificate of an administrator.
func certificateOf(s *x509svid.SVID) tls.Certificate {
	out := tls.Certificate{PrivateKey: s.PrivateKey, Leaf: s.Certificates[0]}
	for _, c := range s.Certificates {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

func (h *headquarters) as(t testing.TB, own ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+h.adminAt, grpc.WithTransportCredentials(credentials.NewTLS(h.tlsClient(own...))))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (h *headquarters) administrator(t testing.TB, name string) *grpc.ClientConn {
	t.Helper()
	return h.as(t, certificateOf(h.admins.Mint(t, "/"+name)))
}

// call calls a method with an empty request, whatever its kind.
func call(t testing.TB, conn *grpc.ClientConn, m issuer.MethodForTest) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: m.ClientStreams, ServerStreams: m.ServerStreams}, m.Name)
	if err != nil {
		return err
	}
	if !m.ClientStreams {
		if err := s.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		if err := s.RecvMsg(&emptypb.Empty{}); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		} else if !m.ServerStreams {
			return nil
		}
	}
}

func TestEveryMethodHasARoleAndEveryRoleAMethod(t *testing.T) {
	rules := issuer.RolesForTest()
	seen := map[string]bool{}
	for _, m := range issuer.AdminMethodsForTest(open(t).server) {
		seen[m.Name] = true
		if _, ok := rules[m.Name]; !ok {
			t.Errorf("%s has no role", m.Name)
		}
	}
	for name, role := range rules {
		if !seen[name] {
			t.Errorf("%s has a role, and is no method", name)
		}
		// What only looks is for everybody, and nothing else is.
		verb := name[strings.LastIndexByte(name, '/')+1:]
		looks := strings.HasPrefix(verb, "List") || strings.HasPrefix(verb, "Get") && verb != "GetAuthorityCSR" || strings.HasSuffix(verb, "Status")
		if looks != (role == issuer.Viewer) {
			t.Errorf("%s is for %s", name, role)
		}
	}
}

func TestEachRoleCanCallItsOwnMethodsAndNoOther(t *testing.T) {
	h := openHeadquarters(t)
	rules := issuer.RolesForTest()
	for name, role := range map[string]issuer.Role{"vera": issuer.Viewer, "paul": issuer.PolicyAuthor, "olga": issuer.Operator, "nobody": issuer.NoRole} {
		conn := h.administrator(t, name)
		for _, m := range issuer.AdminMethodsForTest(h.server) {
			err := call(t, conn, m)
			// Who may call hears what is wrong with an empty request, or the answer.
			if refused := status.Code(err) == codes.PermissionDenied; refused != (role < rules[m.Name]) {
				t.Errorf("%s calls %s, which is for %s: %v", name, m.Name, rules[m.Name], err)
			}
		}
	}
	// At the socket everything is allowed.
	conn := h.adminConnection()
	for _, m := range issuer.AdminMethodsForTest(h.server) {
		if err := call(t, conn, m); status.Code(err) == codes.PermissionDenied {
			t.Errorf("at the socket %s is refused: %v", m.Name, err)
		}
	}
}

func TestWhoIsNoAdministratorIsRefused(t *testing.T) {
	h := openHeadquarters(t)
	workload := h.agentOf(payments(), moduleA)
	foreign := svidtest.New(t, adminDomain) // of the same name, by another authority
	other := svidtest.New(t, "elsewhere.example.org")
	expired := svidtest.NewAt(t, adminDomain, func() time.Time { return time.Now().Add(-time.Hour * 3) })
	both := svidtest.New(t, "elsewhere.example.org")
	writeBundle(t, h.bundle, h.admins, both) // its authority is in the file: its name is still another
	time.Sleep(1100 * time.Millisecond)
	for name, own := range map[string][]tls.Certificate{
		"nobody":                      {},
		"a workload that is served":   {workload.certificate()},
		"an authority of the name":    {certificateOf(foreign.Mint(t, "/olga"))},
		"another trust domain":        {certificateOf(other.Mint(t, "/olga"))},
		"another that is in the file": {certificateOf(both.Mint(t, "/olga"))},
		"an SVID that has ended":      {certificateOf(expired.Mint(t, "/olga"))},
		"the authority itself":        {{Certificate: [][]byte{h.admins.Bundle().X509Authorities()[0].Raw}, PrivateKey: svidtest.NewKey(t)}},
	} {
		conn := h.as(t, own...)
		_, err := assayv1.NewAdminClient(conn).Status(t.Context(), &assayv1.StatusRequest{})
		if c := status.Code(err); c != codes.Unavailable && c != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := assayv1.NewAdminClient(h.administrator(t, "vera")).Status(t.Context(), &assayv1.StatusRequest{}); err != nil {
		t.Errorf("an administrator: %v", err)
	}
}

// A handshake is not a lease.
func TestAnAdministratorsConnectionEndsWithWhatItStoodOn(t *testing.T) {
	h := openHeadquarters(t)
	conn := h.administrator(t, "olga")
	c := assayv1.NewAdminClient(conn)
	_, err := c.Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	// The authority is taken out of the file.
	next := svidtest.New(t, adminDomain)
	writeBundle(t, h.bundle, next)
	eventually(t, "the old authority counts no more", func() bool {
		_, err := c.Status(context.Background(), &assayv1.StatusRequest{})
		return status.Code(err) == codes.Unauthenticated || status.Code(err) == codes.Unavailable
	})
	again := assayv1.NewAdminClient(h.as(t, certificateOf(next.Mint(t, "/olga"))))
	_, err = again.Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	// A file that is no bundle changes nothing, and is told of.
	must(t, os.WriteFile(h.bundle, []byte("nonsense"), 0o600))
	time.Sleep(1100 * time.Millisecond)
	s, err := again.Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	if !contains(strings.Join(s.GetWarnings(), "\n"), "the administrators' bundle is not taken") {
		t.Errorf("warnings %v", s.GetWarnings())
	}
	// The clock runs on: the SVID of an hour has ended.
	h.clock.Advance(2 * time.Hour)
	if _, err = again.Status(t.Context(), &assayv1.StatusRequest{}); status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.Unavailable {
		t.Errorf("after its end: %v", err)
	}
}

func TestWhatAdministratorsDoIsInTheLedger(t *testing.T) {
	h := openHeadquarters(t)
	vera, olga := h.administrator(t, "vera"), h.administrator(t, "olga")
	for range 5 {
		_, err := assayv1.NewAdminClient(vera).Status(t.Context(), &assayv1.StatusRequest{})
		must(t, err)
	}
	ban := ofInstance(moduleA)
	ban.Reason = "stolen"
	for range 3 {
		if _, err := assayv1.NewAgentsClient(vera).Ban(t.Context(), ban); status.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
	_, err := assayv1.NewAgentsClient(olga).Ban(t.Context(), ban)
	must(t, err)
	_, err = assayv1.NewAgentsClient(olga).Unban(t.Context(), &assayv1.UnbanRequest{Id: "ban-none", Reason: "r"})
	if status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	for range 200 { // strangers
		_, _ = assayv1.NewAdminClient(h.as(t)).Status(t.Context(), &assayv1.StatusRequest{})
	}
	must(t, h.stop()) // what was counted is put on record
	got := map[string]int{}
	st, err := store.OpenSQLiteReadOnly(context.Background(), filepath.Join(h.cfg.DataDir, "assay.db"))
	must(t, err)
	defer func() { must(t, st.Close()) }()
	for item, err := range ledger.NewReader(st, trustDomain, "").Entries(t.Context(), 0) {
		must(t, err)
		a := item.Entry.Action
		if a == nil {
			continue
		}
		method := a.Method[strings.LastIndexByte(a.Method, '/')+1:]
		got[fmt.Sprintf("%s %s %s %s", strings.TrimPrefix(a.Actor, "spiffe://"+adminDomain+"/"), a.Role, method, a.Outcome)]++
		if method == "Ban" && !contains(a.Detail, "times more") && a.Target != "instance aws-nitro:"+moduleA {
			t.Errorf("target %q", a.Target)
		}
	}
	for what, want := range map[string]int{
		"vera viewer Status allowed":  2, // the first, and the four that came again
		"vera viewer Ban refused":     2,
		"olga operator Ban allowed":   1,
		"olga operator Unban allowed": 1, "olga operator Unban failed": 1,
	} {
		if got[what] != want {
			t.Errorf("%s: %d entries, want %d", what, got[what], want)
		}
	}
	if n := got["an unknown client  TLS handshake refused"]; n < 1 || n > 3 {
		t.Errorf("200 strangers left %d entries: %v", n, got)
	}
}

func TestAdministrationThatCouldNotBeMeantIsAnError(t *testing.T) {
	h := openHeadquarters(t)
	good := h.cfg
	served := filepath.Join(t.TempDir(), "served.pem")
	var pems []byte
	for _, c := range h.ca.Bundle().X509Authorities() {
		pems = append(pems, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	must(t, os.WriteFile(served, pems, 0o600))
	for name, c := range map[string]struct {
		change func(*config.Administration)
		want   string
	}{
		"the trust domain that is served": {func(a *config.Administration) { a.TrustDomain = trustDomain }, "which this server issues for"},
		"no trust domain":                 {func(a *config.Administration) { a.TrustDomain = "" }, "not the name"},
		"a trust domain with scheme":      {func(a *config.Administration) { a.TrustDomain = "spiffe://" + adminDomain }, "not the name"},
		"nobody":                          {func(a *config.Administration) { a.Roles = config.Roles{} }, "binds nobody"},
		"a role of the served domain":     {func(a *config.Administration) { a.Roles.Viewer = []string{paymentsID} }, "of another trust domain"},
		"no ID":                           {func(a *config.Administration) { a.Roles.Viewer = []string{"vera"} }, "no SPIFFE ID"},
		"the trust domain as an ID":       {func(a *config.Administration) { a.Roles.Viewer = []string{"spiffe://" + adminDomain} }, "no SPIFFE ID"},
		"two roles":                       {func(a *config.Administration) { a.Roles.Viewer = []string{adminID("olga")} }, "has the role"},
		"no bundle":                       {func(a *config.Administration) { a.Bundle = "/nonexistent" }, "administration.bundle"},
		"the served bundle":               {func(a *config.Administration) { a.Bundle = served }, "holds an authority of"},
	} {
		cfg := good
		c.change(&cfg.Administration)
		_, err := h.server.PrepareReload(cfg)
		var usage *cli.UsageError
		if err == nil || !errors.As(err, &usage) || !contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	apply, err := h.server.PrepareReload(good)
	must(t, err)
	apply()
}

func TestRolesChangeWithAReload(t *testing.T) {
	h := openHeadquarters(t)
	conn := h.administrator(t, "vera")
	ban := ofInstance(moduleA)
	ban.Reason = "r"
	if _, err := assayv1.NewAgentsClient(conn).Ban(t.Context(), ban); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	cfg := h.cfg
	cfg.Administration.Roles = config.Roles{Operator: []string{adminID("vera")}}
	apply, err := h.server.PrepareReload(cfg)
	must(t, err)
	apply()
	_, err = assayv1.NewAgentsClient(conn).Ban(t.Context(), ban)
	must(t, err)
	if _, err := assayv1.NewAdminClient(h.administrator(t, "olga")).Status(t.Context(), &assayv1.StatusRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("who lost a role: %v", err)
	}
}
