// Inventory is the demo's server, and a relying party: beside the name in the
// client's SVID it demands a measurement, the PCR0 of the image that it is
// willing to serve. A svidgrpc.Gate stands in front of its methods: it checks the
// client in the TLS handshake, and again for each call, so that nothing passes on the
// strength of an old handshake, and has clients open another connection in time.
//
//	assay bundle export --verifier-keys verifier-keys.cbor --out bundle.json
//	inventory --listen 127.0.0.1:9000 --client-domain attested.example.org --client-pcr0 9f3c… \
//	          --verifier-root verifier-root.pem --verifier-keys verifier-keys.cbor
//
// verifier-root.pem is what `assayd init` wrote. It finds the Workload API by
// SPIFFE_ENDPOINT_SOCKET, as the agent prints it; a simulated trust domain needs
// --accept-simulated.
package main

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	shopv1 "github.com/assay-project/assay/examples/shop/v1"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidgrpc"
)

func main() {
	if err := run(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "inventory:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		listen       = flag.String("listen", "127.0.0.1:0", "address to serve on")
		domain       = flag.String("client-domain", "", "trust domain that clients must belong to")
		pcr0         = flag.String("client-pcr0", "", "PCR0 of the image that clients must run, hex")
		verifierRoot = flag.String("verifier-root", "", "pinned verifier root, PEM")
		verifierKeys = flag.String("verifier-keys", "", "verifier-keys document signed by that root; read again every minute")
		denyList     = flag.String("deny-list", "", "deny-list signed under that root, if one is to be followed; read again every minute")
		simulated    = flag.Bool("accept-simulated", false, "accept results of simulated hardware")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))

	td, err := spiffeid.TrustDomainFromString(*domain)
	if err != nil {
		return fmt.Errorf("--client-domain: %w", err)
	}
	require, err := requirements(td, *pcr0, *simulated)
	if err != nil {
		return err
	}
	root, err := pinned(*verifierRoot)
	if err != nil {
		return err
	}
	keys, err := svid.NewKeyring(td, root)
	if err != nil {
		return err
	}
	if err := keys.UpdateFile(*verifierKeys, time.Now()); err != nil {
		return fmt.Errorf("--verifier-keys: %w", err)
	}
	go func() { _ = keys.Run(ctx, *verifierKeys, time.Minute, log) }()
	if *denyList != "" {
		list, err := svid.NewDenyList(td, root)
		if err != nil {
			return err
		}
		go func() { _ = list.Run(ctx, svid.DenyListFrom{File: *denyList, Log: log}) }()
		require = append(require, svid.NotDenied(list))
	}
	source, err := workloadapi.NewX509Source(ctx) // SPIFFE_ENDPOINT_SOCKET
	if err != nil {
		return fmt.Errorf("no SVID: %w", err)
	}
	defer func() { _ = source.Close() }()

	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: svid.NewLiveSource(source, keys), Require: require}, Log: log}
	server := serverOf(gate, source, os.Stdout)
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	go func() { <-ctx.Done(); server.GracefulStop() }()
	_, _ = fmt.Printf("inventory serves on %s\n", l.Addr())
	return server.Serve(l)
}

// serverOf is the shop's server behind the gate. It prints why a client is refused:
// TLS tells the client as little as it can, and the one who runs the server should not
// have to guess.
func serverOf(gate *svidgrpc.Gate, own x509svid.Source, out io.Writer) *grpc.Server {
	gate.Refused = func(_ string, err error) { _, _ = fmt.Fprintf(out, "refused a client: %v\n", err) }
	server := grpc.NewServer(gate.ServerOptions(own)...)
	shopv1.RegisterInventoryServiceServer(server, &shelves{left: map[string]uint32{"tea": 100}})
	return server
}

// requirements is what this server demands of a client, in one place.
func requirements(td spiffeid.TrustDomain, pcr0 string, simulated bool) ([]svid.Requirement, error) {
	image, err := hex.DecodeString(pcr0)
	if err != nil || len(image) != 48 {
		return nil, errors.New("--client-pcr0: want 96 hex digits (SHA-384)")
	}
	require := []svid.Requirement{
		svid.MemberOf(td),         // the name: any workload of the shop …
		svid.Tee(attest.AWSNitro), // … in an enclave: PCR0 of another TEE is something else …
		svid.PCR(0, image),        // … that runs this very image
		svid.Owned(),              // the policy named who may launch it
		svid.MaxAge(time.Hour),
	}
	if simulated {
		// Without this line, a simulated result is refused.
		require = append(require, svid.Simulated())
	}
	return require, nil
}

// pinned reads the verifier root, which is configuration. What it signed, keys and
// deny-lists, may come from anywhere.
func pinned(file string) (crypto.PublicKey, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--verifier-root: %w", err)
	}
	root, err := svid.ParseVerifierRoot(pem)
	if err != nil {
		return nil, fmt.Errorf("--verifier-root: %w", err)
	}
	return root, nil
}

// shelves implements the shop's InventoryService.
type shelves struct {
	shopv1.UnimplementedInventoryServiceServer

	mu   sync.Mutex
	left map[string]uint32
}

// Reserve takes items from the shelf, and tells the client what was seen of it: the
// gate has put that into the context.
func (s *shelves) Reserve(ctx context.Context, r *shopv1.ReserveRequest) (*shopv1.ReserveResponse, error) {
	who, ok := svid.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Internal, "no gate stands before this method")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left[r.Item] < r.Count {
		return nil, status.Errorf(codes.FailedPrecondition, "only %d %s left", s.left[r.Item], r.Item)
	}
	s.left[r.Item] -= r.Count
	seen := fmt.Sprintf("%s, %s, PCR0 %.12s…", who.ID, who.Result.Platform, who.Result.Measurements["pcr0"])
	return &shopv1.ReserveResponse{Left: s.left[r.Item], SeenAs: seen}, nil
}
