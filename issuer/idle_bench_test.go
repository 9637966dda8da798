package issuer_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// BenchmarkIdleAgents is what an agent costs that is connected and waits: resident
// memory of an assayd process of its own, before and after that many have attested
// and watch, each with two connections as agents have them.
func BenchmarkIdleAgents(b *testing.B) {
	const agents = 400
	p := assayd(b)
	p.start()
	resident := func() int64 {
		b.Helper()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		must(b, err)
		for line := range strings.Lines(string(text)) {
			if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
				must(b, err)
				return n << 10
			}
		}
		b.Fatal("no VmRSS")
		return 0
	}
	count := 0
	boot := func() identity { // an instance of its own: each has a rate
		count++
		return p.agentOf(payments(), fmt.Sprintf("i-%017x-enc%016x", count, count))
	}
	for range 50 { // what the server makes once, for whoever comes first
		boot()
	}
	for range b.N {
		before := resident()
		ctx, cancel := context.WithCancel(context.Background())
		for range agents {
			own := boot()
			w, err := assayv1.NewAttestationClient(p.connect(own.certificate())).Watch(ctx, &assayv1.WatchRequest{})
			must(b, err)
			_, err = w.Recv()
			must(b, err)
		}
		time.Sleep(3 * time.Second) // and a collection or two
		b.ReportMetric(float64(resident()-before)/agents/1024, "KiB/agent")
		b.ReportMetric(float64(before)/(1<<20), "MiB-before")
		cancel()
	}
}
