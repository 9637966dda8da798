// Inventory is the demo's server, and a relying party: beside the name in the
// client's SVID it demands a measurement, the PCR0 of the image that it is
// willing to serve. Package svid checks it in the TLS handshake.
package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	shopv1 "github.com/assay-project/assay/examples/shop/v1"
	"github.com/assay-project/assay/svid"
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
		verifierKeys = flag.String("verifier-keys", "", "verifier-keys document signed by that root")
		simulated    = flag.Bool("accept-simulated", false, "accept results of simulated hardware")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	require, err := requirements(*domain, *pcr0, *simulated)
	if err != nil {
		return err
	}
	keys, err := pinned(*verifierRoot, *verifierKeys)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx) // SPIFFE_ENDPOINT_SOCKET
	if err != nil {
		return fmt.Errorf("no SVID: %w", err)
	}
	defer func() { _ = source.Close() }()

	trust := svid.NewSource(source, keys)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(telling(svid.ServerTLS(source, trust, require...)))))
	shopv1.RegisterInventoryServiceServer(server, &shelves{trust: trust, require: require, left: map[string]uint32{"tea": 100}})
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	go func() { <-ctx.Done(); server.GracefulStop() }()
	_, _ = fmt.Printf("inventory serves on %s\n", l.Addr())
	return server.Serve(l)
}

// telling prints why a client is refused: TLS tells the client as little as it
// can, and the one who runs the server should not have to guess.
func telling(cfg *tls.Config) *tls.Config {
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		err := verify(cs)
		if err != nil {
			_, _ = fmt.Printf("refused a client: %v\n", err)
		}
		return err
	}
	return cfg
}

// requirements is what this server demands of a client, in one place.
func requirements(domain, pcr0 string, simulated bool) ([]svid.Requirement, error) {
	td, err := spiffeid.TrustDomainFromString(domain)
	if err != nil {
		return nil, fmt.Errorf("--client-domain: %w", err)
	}
	image, err := hex.DecodeString(pcr0)
	if err != nil || len(image) != 48 {
		return nil, errors.New("--client-pcr0: want 96 hex digits (SHA-384)")
	}
	require := []svid.Requirement{
		svid.MemberOf(td),  // the name: any workload of the shop …
		svid.PCR(0, image), // … that runs this very image
		svid.Owned(),       // the policy named who may launch it
		svid.MaxAge(time.Hour),
	}
	if simulated {
		// Without this line, a simulated result is refused.
		require = append(require, svid.Simulated())
	}
	return require, nil
}

// pinned reads the verifier root, which is configuration, and the keys that it
// signed, which may come from anywhere.
func pinned(rootFile, keysFile string) (*svid.VerifierKeys, error) {
	pem, err := os.ReadFile(rootFile)
	if err != nil {
		return nil, fmt.Errorf("--verifier-root: %w", err)
	}
	root, err := svid.ParseVerifierRoot(pem)
	if err != nil {
		return nil, fmt.Errorf("--verifier-root: %w", err)
	}
	doc, err := os.ReadFile(keysFile)
	if err != nil {
		return nil, fmt.Errorf("--verifier-keys: %w", err)
	}
	return svid.ParseVerifierKeys(doc, root, time.Now())
}

// shelves implements the shop's InventoryService.
type shelves struct {
	shopv1.UnimplementedInventoryServiceServer
	trust   svid.Source
	require []svid.Requirement

	mu   sync.Mutex
	left map[string]uint32
}

// Reserve takes items from the shelf, and tells the client what was seen of it.
func (s *shelves) Reserve(ctx context.Context, r *shopv1.ReserveRequest) (*shopv1.ReserveResponse, error) {
	who, err := s.who(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left[r.Item] < r.Count {
		return nil, status.Errorf(codes.FailedPrecondition, "only %d %s left", s.left[r.Item], r.Item)
	}
	s.left[r.Item] -= r.Count
	return &shopv1.ReserveResponse{Left: s.left[r.Item], SeenAs: who}, nil
}

// who verifies the connection's client again: an SVID that has expired since the
// handshake ends with the request, not with the connection.
func (s *shelves) who(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", errors.New("no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", errors.New("no TLS")
	}
	a, err := svid.FromConnectionState(info.State, s.trust, time.Now(), s.require...)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %s, PCR0 %.12s…", a.ID, a.Result.Platform, a.Result.Measurements["pcr0"]), nil
}
