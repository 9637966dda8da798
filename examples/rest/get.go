package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/svid/svidhttp"
)

func get(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("get", flag.ContinueOnError)
	var (
		server   = f.String("server", "127.0.0.1:8443", "address of the API")
		name     = f.String("server-id", "", "SPIFFE ID that the API must have")
		audience = f.String("audience", "", "whom the token is for")
	)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("usage: rest get … PATH")
	}
	id, err := spiffeid.FromString(*name)
	if err != nil {
		return fmt.Errorf("--server-id: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	bundles, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return fmt.Errorf("no SVID: %w", err)
	}
	defer func() { _ = bundles.Close() }()
	tokens, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return fmt.Errorf("no JWT-SVID: %w", err)
	}
	defer func() { _ = tokens.Close() }()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+*server+f.Arg(0), nil)
	if err != nil {
		return err
	}
	resp, err := newClient(bundles, id, tokens, *audience).Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the API answers %s", resp.Status)
	}
	_, err = io.Copy(os.Stdout, io.LimitReader(resp.Body, 1<<20))
	return err
}

// newClient shows a JWT-SVID with every request, and sends it to nobody but the
// server of that SPIFFE ID: whoever reads a token can use it. Of the server it asks
// for the name alone, as any SPIFFE program would; svidhttp.Transport(nil, …) asks
// for an attested one.
func newClient(bundles x509bundle.Source, server spiffeid.ID, tokens jwtsvid.Source, audience string) *http.Client {
	// Not http.DefaultTransport's clone: another part of a program may have set how
	// that dials, and then nobody asks for the server's SVID.
	t := &http.Transport{
		TLSClientConfig:     tlsconfig.TLSClientConfig(bundles, tlsconfig.AuthorizeID(server)),
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
	}
	return &http.Client{Transport: &svidhttp.Bearer{Source: tokens, Audience: audience, Base: t}}
}
