package issuer

import (
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/config"
)

func TestTracingThatIsOffAllocatesNothing(t *testing.T) {
	none, err := OpenTracing(t.Context(), config.Tracing{SamplePercent: 100}, "test", slog.New(slog.DiscardHandler))
	if err != nil || none != nil {
		t.Fatalf("tracing without an endpoint: %v, %v", none, err)
	}
	n := testing.AllocsPerRun(100, func() {
		s := none.attestation("example.org")
		s.step("record")()
		s.took("verify", time.Millisecond)
		s.end("tpm2", "boot", "issued", "")
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	none.Close()
}

// Who floods a server whose collector hangs fills a queue of fixed length, and
// nothing more.
func TestACollectorThatHangsMakesNothingGrow(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	tr, err := OpenTracing(t.Context(), config.Tracing{Endpoint: "http://" + silent.Addr().String(), SamplePercent: 100}, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	flood := func(n int) {
		for range n {
			s := tr.attestation("example.org")
			s.step("record")()
			s.end("tpm2", "boot", "issued", "")
		}
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	flood(2 * traceQueue) // it is full
	before, begin := heap(), time.Now()
	flood(50_000)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("50,000 attestations spent %v on tracing", took)
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("100,000 spans for a collector that hangs took %d KiB", grown>>10)
	}
	begin = time.Now()
	tr.Close() // it cannot send what is left
	if took := time.Since(begin); took > 2*traceStop {
		t.Errorf("it took %v to give up", took)
	}
}

func TestAnEndpointThatIsNoURLIsRefused(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"collector:4317", "unix:///run/otel.sock", "https://", "::"} {
		if tr, err := OpenTracing(t.Context(), config.Tracing{Endpoint: endpoint}, "test", slog.New(slog.DiscardHandler)); err == nil {
			tr.Close()
			t.Errorf("%q was taken", endpoint)
		}
	}
}
