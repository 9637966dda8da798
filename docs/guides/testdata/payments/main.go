// Payments is the program of the guide's enclave. It knows SPIFFE, and nothing of
// Assay: it fetches its SVID from the Workload API, says whose it is, and waits.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	svid, err := workloadapi.FetchX509SVID(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("payments is %s, as user %d\n", svid.ID, os.Getuid())
	<-ctx.Done()
}
