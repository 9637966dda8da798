// Rest is an API that takes JWT-SVIDs, and its client. The server shows an X.509-SVID
// and asks for no certificate: its clients may sit behind a load balancer that ends
// their TLS, or be programs that can set a header and nothing more. Beside the name
// in the token it demands what the policy and the hardware said of the client.
//
//	rest serve --domain attested.example.org --audience https://reports.example.org
//	rest get   --server 127.0.0.1:8443 --server-id spiffe://attested.example.org/reports \
//	           --audience https://reports.example.org /reports
//
// Both get what they need from the Workload API (SPIFFE_ENDPOINT_SOCKET).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp): // it was printed
	case err != nil:
		_, _ = fmt.Fprintln(os.Stderr, "rest:", err)
		os.Exit(1)
	}
}

const usage = "usage: rest serve … | rest get … PATH; each has --help"

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "serve":
			return serve(ctx, args[1:])
		case "get":
			return get(ctx, args[1:])
		case "help", "-h", "-help", "--help":
			_, _ = fmt.Fprintln(os.Stderr, usage)
			return flag.ErrHelp
		}
	}
	return errors.New(usage)
}
