// Command run is the soak: `make soak` runs it.
//
//	go run ./internal/soak/run -seed 7 -duration 10m -agents 50
//
// It exits with 1 when something did not hold, and prints what.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/assay-project/assay/internal/soak"
)

func main() {
	o := soak.Options{Out: os.Stdout}
	flag.Uint64Var(&o.Seed, "seed", uint64(time.Now().UnixNano()), "from which everything that happens is drawn")
	flag.DurationVar(&o.Duration, "duration", 10*time.Minute, "how long the storm lasts")
	flag.IntVar(&o.Agents, "agents", 50, "how many agents there are")
	flag.StringVar(&o.Binaries, "binaries", "", "a `directory` with assayd and assay; otherwise they are built")
	flag.BoolVar(&o.Keep, "keep", false, "leave the logs behind, also when all is well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := soak.Run(ctx, o)
	if report != nil {
		fmt.Println(report)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}
