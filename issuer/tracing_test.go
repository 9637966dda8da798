package issuer_test

import (
	"context"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/config"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// otlp is a collector: the receiving side of OTLP over gRPC.
type otlp struct {
	collector.UnimplementedTraceServiceServer
	addr string

	mu   sync.Mutex
	all  []*collector.ExportTraceServiceRequest
	hang chan struct{} // when not nil, Export waits for it
}

func (c *otlp) Export(ctx context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	if c.hang != nil {
		select {
		case <-c.hang:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, r)
	return &collector.ExportTraceServiceResponse{}, nil
}

func (c *otlp) requests() []*collector.ExportTraceServiceRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

func (c *otlp) spans() []*tracepb.Span {
	var out []*tracepb.Span
	for _, r := range c.requests() {
		for _, rs := range r.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				out = append(out, ss.GetSpans()...)
			}
		}
	}
	return out
}

func newCollector(t *testing.T, hang chan struct{}) *otlp {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c := &otlp{addr: l.Addr().String(), hang: hang}
	g := grpc.NewServer()
	collector.RegisterTraceServiceServer(g, c)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return c
}

func traced(addr string) option {
	return func(c *config.Config) { c.Tracing = config.Tracing{Endpoint: "http://" + addr, SamplePercent: 100} }
}

// words is what a span says of itself: its name and its attributes.
func words(s *tracepb.Span) map[string]string {
	out := map[string]string{"": s.GetName()}
	for _, a := range s.GetAttributes() {
		out[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return out
}

func TestAnAttestationIsOneTraceOfItsStepsAndNamesNobody(t *testing.T) {
	c := newCollector(t, nil)
	o := open(t, traced(c.addr))
	conn := o.connect()
	o.boot(conn)
	stranger := o.attempt(conn, newKey(t, ""))
	must(t, stranger.challenge())
	stranger.bound.Purpose = attest.Renew // bound to something else
	stranger.attest()
	_, _ = stranger.answer()
	a := o.attempt(conn, newKey(t, ""))
	must(t, a.challenge())
	a.launch = simnitro.Launch{Image: simnitro.ImageFromSeed("stranger"), Role: role}
	a.attest()
	_, err := a.answer()
	denied(t, err)
	must(t, o.stop()) // which sends what is left

	roots := map[string]*tracepb.Span{}
	children := map[string][]string{}
	for _, s := range c.spans() {
		if len(s.GetParentSpanId()) == 0 {
			roots[hex.EncodeToString(s.GetTraceId())] = s
			continue
		}
		if len(s.GetAttributes()) != 0 {
			t.Errorf("the step %s has attributes: %v", s.GetName(), s.GetAttributes())
		}
		id := hex.EncodeToString(s.GetTraceId())
		children[id] = append(children[id], s.GetName())
	}
	var got []string
	for id, s := range roots {
		w := words(s)
		slices.Sort(children[id])
		got = append(got, strings.Join([]string{w[""], w["assay.trust_domain"], w["assay.tee"], w["assay.purpose"], w["assay.outcome"], w["assay.check"], strings.Join(children[id], "+")}, " "))
		delete(w, "")
		for k := range w {
			if !slices.Contains([]string{"assay.trust_domain", "assay.tee", "assay.purpose", "assay.outcome", "assay.check"}, k) {
				t.Errorf("a trace says %s=%q", k, w[k])
			}
		}
	}
	slices.Sort(got)
	want := []string{
		"attestation simulated.example.org aws-nitro boot denied policy authorize+verify",
		"attestation simulated.example.org aws-nitro boot issued  authorize+issue+record+verify",
		"attestation simulated.example.org aws-nitro boot untrusted binding_user_data verify",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("traces (-want +got):\n%s", diff)
	}
	// Whatever was sent, in any field of any message: no name, address or claim.
	for _, r := range c.requests() {
		wire, err := proto.Marshal(r)
		must(t, err)
		for _, secret := range []string{"spiffe://", "payments", "127.0.0.1", "i-0", "module", "as-"} {
			if strings.Contains(string(wire), secret) {
				t.Errorf("what the collector was sent has %q in it", secret)
			}
		}
	}
}

func TestAStrangersTraceparentCountsForNothing(t *testing.T) {
	c := newCollector(t, nil)
	o := open(t, traced(c.addr), func(cfg *config.Config) { cfg.Tracing.SamplePercent = 100 })
	const theirs = "4bf92f3577b34da6a3ce929d0e0e4736"
	conn, err := grpc.NewClient("passthrough:///"+o.addr, grpc.WithTransportCredentials(credentials.NewTLS(o.tlsClient())),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return next(metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+theirs+"-00f067aa0ba902b7-01"), d, cc, method, opts...)
		}))
	must(t, err)
	defer func() { _ = conn.Close() }()
	o.boot(conn)
	must(t, o.stop())
	spans := c.spans()
	if len(spans) == 0 {
		t.Fatal("nothing was traced")
	}
	for _, s := range spans {
		if hex.EncodeToString(s.GetTraceId()) == theirs {
			t.Error("the trace has the number that a stranger gave")
		}
	}
}

func TestWhereTracingIsOffNothingIsSent(t *testing.T) {
	c := newCollector(t, nil)
	o := open(t, traced(c.addr), func(cfg *config.Config) { cfg.Tracing.SamplePercent = 0 })
	o.boot(o.connect())
	must(t, o.stop())
	if n := len(c.spans()); n != 0 {
		t.Errorf("%d spans were sent of 0 %%", n)
	}
}

func TestAttestationsDoNotWaitForACollectorThatIsAwayOrHangs(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	must(t, err)
	defer func() { _ = silent.Close() }()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, gone.Close())
	for name, addr := range map[string]string{
		"hangs": newCollector(t, hang).addr, "is silent": silent.Addr().String(), "is gone": gone.Addr().String(),
	} {
		t.Run("the collector "+name, func(t *testing.T) {
			o := open(t, traced(addr))
			conn := o.connect()
			begin := time.Now()
			for range 20 {
				o.boot(conn)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("20 attestations took %v", took)
			}
			begin = time.Now()
			must(t, o.stop())
			if took := time.Since(begin); took > 6*time.Second {
				t.Errorf("the server took %v to stop", took)
			}
		})
	}
}
