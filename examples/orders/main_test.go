package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	shopv1 "github.com/assay-project/assay/examples/shop/v1"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidgrpc"
	"github.com/assay-project/assay/svid/svidtest"
)

// shop serves everybody who passes its gate.
type shop struct {
	shopv1.UnimplementedInventoryServiceServer
}

func (shop) Reserve(ctx context.Context, _ *shopv1.ReserveRequest) (*shopv1.ReserveResponse, error) {
	who, ok := svid.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Internal, "no gate")
	}
	return &shopv1.ReserveResponse{Left: 97, SeenAs: who.ID.String()}, nil
}

// source is what the Workload API would yield.
type source struct {
	*x509svid.SVID
	*x509bundle.Bundle
}

func TestOrdersSpeaksToAServerThatAsksForMoreThanAName(t *testing.T) {
	a := svidtest.New(t, "example.test")
	own := a.Mint(t, "/shop/inventory")
	gate := svidgrpc.Gate{Gate: svid.Gate{Source: a.Source(), Require: []svid.Requirement{svid.MemberOf(a.TrustDomain), svid.PCR(0, svidtest.Digest("image"))}}}
	server := grpc.NewServer(gate.ServerOptions(own)...)
	shopv1.RegisterInventoryServiceServer(server, shop{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)

	var out bytes.Buffer
	order := func(id spiffeid.ID, options ...svidtest.Option) error {
		return reserve(t.Context(), &out, l.Addr().String(), id, source{a.Mint(t, "/shop/orders", options...), a.Bundle()}, "tea", 3)
	}
	if err := order(own.ID); err != nil || out.String() != "reserved 3 tea, 97 left; inventory saw us as spiffe://example.test/shop/orders\n" {
		t.Errorf("%q %v", out.String(), err)
	}
	if err := order(own.ID, svidtest.PCR(0, svidtest.Digest("another"))); status.Code(err) != codes.Unavailable {
		t.Errorf("another image: %v", err)
	}
	if err := order(spiffeid.RequireFromString("spiffe://example.test/shop/other")); err == nil || !strings.Contains(err.Error(), "unexpected ID") {
		t.Errorf("a server of another name: %v", err)
	}
}
