package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	shopv1 "github.com/assay-project/assay/examples/shop/v1"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidgrpc"
	"github.com/assay-project/assay/svid/svidtest"
)

// output is what the server prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) { o.mu.Lock(); defer o.mu.Unlock(); return o.b.Write(b) }

func (o *output) String() string { o.mu.Lock(); defer o.mu.Unlock(); return o.b.String() }

// shop is inventory, with what a test of it needs.
type shop struct {
	authority *svidtest.Authority
	own       *x509svid.SVID
	out       output
	address   string
}

func open(t *testing.T, trustDomain string, simulated bool) *shop {
	t.Helper()
	s := &shop{authority: svidtest.New(t, trustDomain)}
	s.own = s.authority.Mint(t, "/shop/inventory")
	require, err := requirements(s.authority.TrustDomain, hex.EncodeToString(svidtest.Digest("image")), simulated)
	if err != nil {
		t.Fatal(err)
	}
	server := serverOf(&svidgrpc.Gate{Gate: svid.Gate{Source: s.authority.Source(), Require: require}, Log: slog.New(slog.DiscardHandler)}, s.own, &s.out)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	s.address = l.Addr().String()
	return s
}

// reserve is what orders does, which uses go-spiffe alone.
func (s *shop) reserve(t *testing.T, as *x509svid.SVID, count uint32) (*shopv1.ReserveResponse, error) {
	t.Helper()
	creds := grpccredentials.MTLSClientCredentials(as, s.authority.Bundle(), tlsconfig.AuthorizeID(s.own.ID))
	conn, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return shopv1.NewInventoryServiceClient(conn).Reserve(t.Context(), &shopv1.ReserveRequest{Item: "tea", Count: count})
}

func TestInventoryServesTheImageThatItExpects(t *testing.T) {
	s := open(t, "example.test", false)
	res, err := s.reserve(t, s.authority.Mint(t, "/shop/orders"), 3)
	if err != nil {
		t.Fatal(err)
	}
	want := "spiffe://example.test/shop/orders, aws-nitro, PCR0 " + hex.EncodeToString(svidtest.Digest("image"))[:12] + "…"
	if res.Left != 97 || res.SeenAs != want {
		t.Errorf("%d left, seen as %q, want %q", res.Left, res.SeenAs, want)
	}
	if _, err := s.reserve(t, s.authority.Mint(t, "/shop/orders"), 98); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("more than there is: %v", err)
	}
	if s.out.String() != "" {
		t.Errorf("it printed %q", s.out.String())
	}
}

func TestInventoryRefusesAndSaysWhy(t *testing.T) {
	s := open(t, "example.test", false)
	for check, option := range map[string]svidtest.Option{
		"pcr0":              svidtest.PCR(0, svidtest.Digest("another")),
		"instance-identity": svidtest.Unowned(),
		"result_missing":    svidtest.Unattested(),
	} {
		if _, err := s.reserve(t, s.authority.Mint(t, "/shop/orders", option), 3); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", check, err)
		}
		if !strings.Contains(s.out.String(), "refused a client: "+check+": ") {
			t.Errorf("%s: it printed %q", check, s.out.String())
		}
	}
}

func TestInventoryAcceptsSimulatedHardwareOnlyWhenTold(t *testing.T) {
	for _, accept := range []bool{false, true} {
		s := open(t, "simulated.example.test", accept)
		if _, err := s.reserve(t, s.authority.Mint(t, "/shop/orders"), 3); (err == nil) != accept {
			t.Errorf("accept %t: %v", accept, err)
		}
	}
}

func TestAMethodWithoutAGateAnswersNobody(t *testing.T) {
	if _, err := new(shelves).Reserve(context.Background(), &shopv1.ReserveRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("%v", err)
	}
}
