// Orders is the demo's client. It knows nothing of Assay: it gets its SVID from
// the Workload API like any SPIFFE program, and checks its server's name with
// go-spiffe's own TLS configuration. Its server, inventory, asks for more than a
// name, and orders need not know. One that wants as much of its server, for as long
// as it speaks to it, takes svidgrpc.ClientCredentials in the place of go-spiffe's.
//
//	orders --server 127.0.0.1:9000 --server-id spiffe://attested.example.org/shop/inventory --item tea --count 3
//
// It finds the Workload API by SPIFFE_ENDPOINT_SOCKET, as the agent prints it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"

	shopv1 "github.com/assay-project/assay/examples/shop/v1"
)

func main() {
	if err := run(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		server = flag.String("server", "", "address of inventory")
		name   = flag.String("server-id", "", "SPIFFE ID that inventory must have")
		item   = flag.String("item", "tea", "what to reserve")
		count  = flag.Uint("count", 1, "how many")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()

	id, err := spiffeid.FromString(*name)
	if err != nil {
		return fmt.Errorf("--server-id: %w", err)
	}
	source, err := workloadapi.NewX509Source(ctx) // SPIFFE_ENDPOINT_SOCKET
	if err != nil {
		return fmt.Errorf("no SVID: %w", err)
	}
	defer func() { _ = source.Close() }()

	if *count > 1<<20 {
		return fmt.Errorf("--count %d: nobody has that many", *count)
	}
	return reserve(ctx, os.Stdout, *server, id, source, *item, uint32(*count))
}

// credentials are what a SPIFFE program has: its own SVID, and whom it trusts.
type credentials interface {
	x509svid.Source
	x509bundle.Source
}

// reserve makes the one call.
func reserve(ctx context.Context, out io.Writer, server string, id spiffeid.ID, source credentials, item string, count uint32) error {
	creds := grpccredentials.MTLSClientCredentials(source, source, tlsconfig.AuthorizeID(id))
	conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	res, err := shopv1.NewInventoryServiceClient(conn).Reserve(ctx, &shopv1.ReserveRequest{Item: item, Count: count})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "reserved %d %s, %d left; inventory saw us as %s\n", count, item, res.Left, res.SeenAs)
	return err
}
