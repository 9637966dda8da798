package issuer

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/assay-project/assay/issuer/config"
)

// What a collector that is away may cost: so many spans wait for it, in memory,
// and the next ones are dropped. An attestation never waits for it.
const (
	traceQueue    = 2048             // spans
	traceBatch    = 512              // spans of one request
	traceInterval = 2 * time.Second  // how long a span waits for others
	traceTimeout  = 10 * time.Second // of one request to the collector
	traceStop     = 2 * time.Second  // of the last one, when the server stops
)

// Tracing sends one span for each attestation, with a child for each step, to an
// OpenTelemetry collector. It is the process's, for all of its trust domains.
//
// A span says which trust domain, TEE, purpose and step, how it ended and which
// check failed; never a claim, an identity, an address or a reference. It is
// always the root of its trace: what a stranger sends along (traceparent) counts
// for nothing, neither for the trace's number nor for whether it is taken.
//
// A nil *Tracing traces nothing, and costs nothing.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	exporter *quietExporter
}

// OpenTracing makes the tracing that the configuration asks for: nil where it
// asks for none. It does not wait for the collector, which may come later.
func OpenTracing(ctx context.Context, c config.Tracing, version string, log *slog.Logger) (*Tracing, error) {
	if c.Endpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("tracing.endpoint: %q is not the URL of a collector, such as https://otel.example.org:4317", c.Endpoint)
	}
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpointURL(c.Endpoint),
		otlptracegrpc.WithTimeout(traceTimeout),
		// A batch that the collector does not take is lost: while it was repeated,
		// the next ones would be.
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false}),
	}
	if u.Scheme == "http" {
		options = append(options, otlptracegrpc.WithInsecure())
	}
	otlp, err := otlptrace.New(ctx, otlptracegrpc.NewClient(options...))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	exporter := &quietExporter{SpanExporter: otlp, log: log, sometimes: rate.NewLimiter(rate.Every(time.Minute), 1)}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.TraceIDRatioBased(float64(c.SamplePercent)/100)),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "assayd"),
			attribute.String("service.version", version),
		)),
		sdktrace.WithBatcher(exporter,
			sdktrace.WithMaxQueueSize(traceQueue), sdktrace.WithMaxExportBatchSize(traceBatch),
			sdktrace.WithBatchTimeout(traceInterval), sdktrace.WithExportTimeout(traceTimeout)),
	)
	return &Tracing{provider: provider, tracer: provider.Tracer("github.com/assay-project/assay/issuer"), exporter: exporter}, nil
}

// Failures counts the batches that the collector did not take.
func (t *Tracing) Failures() uint64 {
	if t == nil {
		return 0
	}
	return t.exporter.failures.Load()
}

// Close sends what is left, for two seconds at most. That a collector is away is
// no fault of the server's: it is logged.
func (t *Tracing) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceStop)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.exporter.log.WarnContext(ctx, "the last traces could not be sent", "error", err)
	}
}

// quietExporter counts what the collector does not take, and says so once in a
// while. The SDK would give the error to a logger of the whole process.
type quietExporter struct {
	sdktrace.SpanExporter
	log       *slog.Logger
	sometimes *rate.Limiter
	failures  atomic.Uint64
}

// ExportSpans implements [sdktrace.SpanExporter].
func (e *quietExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	e.failures.Add(1)
	if e.sometimes.Allow() {
		e.log.WarnContext(ctx, "the collector does not take traces; they are dropped", "error", err)
	}
	return nil
}

// span is the trace of one attestation. A nil one does nothing.
type span struct {
	tracer trace.Tracer
	ctx    context.Context // holds the root span, and nothing of the request's
	root   trace.Span
}

// attestation begins the trace of an attestation in the trust domain, or
// returns nil where it is not one of those that are traced.
func (t *Tracing) attestation(trustDomain string) *span {
	if t == nil {
		return nil
	}
	ctx, root := t.tracer.Start(context.Background(), "attestation", trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("assay.trust_domain", trustDomain)))
	if !root.IsRecording() {
		return nil
	}
	return &span{tracer: t.tracer, ctx: ctx, root: root}
}

// step begins a step, and returns what ends it.
func (s *span) step(name string) (end func()) {
	if s == nil {
		return func() {}
	}
	_, child := s.tracer.Start(s.ctx, name)
	return func() { child.End() }
}

// took adds a step that ends now and began that long ago.
func (s *span) took(name string, d time.Duration) {
	if s == nil {
		return
	}
	now := time.Now()
	_, child := s.tracer.Start(s.ctx, name, trace.WithTimestamp(now.Add(-d)))
	child.End(trace.WithTimestamp(now))
}

// end ends the trace. outcome is "issued", "aborted" or a kind of refusal, and
// check the check that failed: words of the program, as in the metrics. Only a
// fault of ours makes the span an error: a refusal is the service doing its
// work.
func (s *span) end(tee, purpose, outcome, check string) {
	if s == nil {
		return
	}
	s.root.SetAttributes(attribute.String("assay.tee", tee), attribute.String("assay.purpose", purpose), attribute.String("assay.outcome", outcome))
	if check != "" {
		s.root.SetAttributes(attribute.String("assay.check", check))
	}
	if outcome == "internal" || outcome == "unavailable" {
		s.root.SetStatus(codes.Error, outcome)
	}
	s.root.End()
}

// step begins a step of the attestation; what it returns records its time in
// the metrics, and in the trace.
func (a *attestation) step(name string) (done func()) {
	measured, traced := a.metrics.step(name), a.span.step(name)
	return func() {
		measured()
		traced()
	}
}

// took records the time of a step that ends now.
func (a *attestation) took(name string, d time.Duration) {
	a.metrics.took(name, d)
	a.span.took(name, d)
}
