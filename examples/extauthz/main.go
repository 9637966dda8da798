// Extauthz answers Envoy's ext_authz filter (gRPC, v3) by attested claims: programs
// behind an Envoy are reached only by peers whose SVID holds and meets the
// requirements of the route, and need no line of code for it.
//
//	extauthz --socket /run/extauthz/extauthz.sock --domain attested.example.org \
//	         --verifier-root verifier-root.pem --verifier-keys verifier-keys.cbor
//
// It gets its bundles from the Workload API (SPIFFE_ENDPOINT_SOCKET). envoy.yaml
// beside this file is a whole configuration. What makes the answer worth something
// is there, and is not to be left out:
//
//   - include_peer_certificate: true. Envoy then fills source.certificate from the
//     TLS session, where the client has proven that it holds the key. A request's
//     headers cannot change it. That of a session which is resumed is the one that it
//     was opened with; it is checked for each request all the same.
//   - require_client_certificate: true and TLSv1_3 in the listener's TLS context.
//     Where tokens are taken as well, the first is false.
//   - forward_client_cert_details: SANITIZE_SET. The header
//     x-forwarded-client-cert is then Envoy's own. Only intermediate certificates
//     are taken from it, which are verified like any: a header that a client forged
//     all the same gains nothing.
//   - normalize_path and merge_slashes, and path_with_escaped_slashes_action:
//     REJECT_REQUEST. Else the route of "/" is asked about "/x/../admin", and the
//     program behind serves "/admin".
//   - headers_with_underscores_action: REJECT_REQUEST. Programs of CGI's kind read
//     x_assay_id as x-assay-id.
//   - max_connection_duration and max_stream_duration: a connection shows the
//     certificate that it was opened with, and this server is asked once for a request,
//     however long it takes.
//   - failure_mode_allow: false, its default: where this server is away, nobody
//     passes. No route disables the filter.
//   - the socket: whoever can write to it can ask about certificates that they do
//     not hold. Envoy's user alone may.
//   - the programs behind Envoy listen where only Envoy reaches them, and read the
//     headers x-assay-id, -tee, -status and -policy, which this server overwrites,
//     whatever the client sent. Other names that begin so are a client's own.
package main

import (
	"context"
	"crypto"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"

	"github.com/assay-project/assay/svid"
)

func main() {
	if err := run(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "extauthz:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		socket       = flag.String("socket", "", "unix socket to serve on; its directory says who may ask")
		domain       = flag.String("domain", "", "trust domain that peers must belong to")
		audience     = flag.String("audience", "", "whom JWT-SVIDs must be for; empty takes none")
		verifierRoot = flag.String("verifier-root", "", "pinned verifier root, PEM")
		verifierKeys = flag.String("verifier-keys", "", "verifier-keys document signed by that root; read again every minute")
		denyList     = flag.String("deny-list", "", "deny-list signed under that root, if one is to be followed; read again every minute")
		simulated    = flag.Bool("accept-simulated", false, "accept results of simulated hardware")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if *socket == "" {
		return errors.New("--socket must be given")
	}
	td, err := spiffeid.TrustDomainFromString(*domain)
	if err != nil {
		return fmt.Errorf("--domain: %w", err)
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

	a := &Authorizer{Require: []svid.Requirement{svid.MemberOf(td)}, Log: log}
	if *denyList != "" {
		list, err := svid.NewDenyList(td, root)
		if err != nil {
			return err
		}
		go func() { _ = list.Run(ctx, svid.DenyListFrom{File: *denyList, Log: log}) }()
		a.Require = append(a.Require, svid.NotDenied(list))
	}
	if *simulated {
		a.Require = append(a.Require, svid.Simulated())
	}
	bundles, err := workloadapi.NewBundleSource(ctx)
	if err != nil {
		return fmt.Errorf("no bundles: %w", err)
	}
	defer func() { _ = bundles.Close() }()
	a.Source = svid.NewLiveSource(bundles, keys)
	if *audience != "" {
		a.Tokens, a.Audience = bundles, *audience
	}

	l, err := listen(*socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, a)
	go func() { <-ctx.Done(); server.GracefulStop() }()
	_, _ = fmt.Printf("extauthz serves on %s\n", *socket)
	return server.Serve(l)
}

// listen makes the socket, for its owner and its group, in the place of one that
// nobody serves any more.
func listen(path string) (net.Listener, error) {
	if i, err := os.Lstat(path); err == nil && i.Mode()&os.ModeSocket != 0 {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("%s is served by another process", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil { //nolint:gosec // Envoy's group
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// pinned reads the verifier root, which is configuration.
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
