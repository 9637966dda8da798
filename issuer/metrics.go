package issuer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of one trust domain, which each has as a label. Every other
// label has few values that the code names: nothing a stranger sends becomes
// one. docs/reference/metrics.md explains each.
type Metrics struct {
	registry *prometheus.Registry
	labelled prometheus.Registerer

	attestations *prometheus.CounterVec   // tee, purpose, outcome
	refusals     *prometheus.CounterVec   // kind, check
	steps        *prometheus.HistogramVec // step
	svids        prometheus.Counter
	limited      *prometheus.CounterVec // what, limit
	panics       prometheus.Counter
	reloads      *prometheus.CounterVec // result
	unlogged     prometheus.Counter
	woken        prometheus.Counter
}

// NewMetrics makes the metrics of one trust domain in a registry of their own.
func NewMetrics(trustDomain string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.labelled = prometheus.WrapRegistererWith(prometheus.Labels{"trust_domain": trustDomain}, m.registry)
	m.attestations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_attestations_total", Help: "Attestations that ended, by platform, purpose and outcome.",
	}, []string{"tee", "purpose", "outcome"})
	m.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_refusals_total", Help: "Refused attestations, by kind and by the check that failed.",
	}, []string{"kind", "check"})
	m.steps = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "assay_attestation_step_seconds", Help: "Time spent in one step of an attestation.",
		Buckets: seconds(),
	}, []string{"step"})
	m.svids = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "assay_svids_issued_total", Help: "X.509-SVIDs issued.",
	})
	m.limited = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_admission_refused_total", Help: "Connections, handshakes and attestations turned away at a limit.",
	}, []string{"what", "limit"})
	m.panics = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "assay_panics_total", Help: "Panics of handlers that were answered with an internal error. Any is a bug.",
	})
	m.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_policy_reloads_total", Help: "Policies that came, from the file or pushed, by result.",
	}, []string{"result"})
	m.unlogged = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "assay_refusals_unlogged_total", Help: "Refusals that were counted and not logged, because too many came at once.",
	})
	m.woken = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "assay_reattest_policy_total", Help: "Agents that were asked to attest again because a policy change concerned them.",
	})
	m.labelled.MustRegister(m.woken, m.attestations, m.refusals, m.steps, m.svids, m.limited, m.panics, m.reloads, m.unlogged)
	return m
}

// Gauge adds a value that is read when it is asked for. The server's own are
// added by New; the binary adds those of the parts that only it knows.
func (m *Metrics) Gauge(name, help string, value func() float64) {
	m.labelled.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// Counter is Gauge for a value that only grows.
func (m *Metrics) Counter(name, help string, value func() float64) {
	m.labelled.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
}

// CounterVec adds a counter with labels, whose values the code names.
func (m *Metrics) CounterVec(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.labelled.MustRegister(c)
	return c
}

// HistogramVec adds a histogram with labels, of seconds from 0.25 ms to 2 s.
func (m *Metrics) HistogramVec(name, help string, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds()}, labels)
	m.labelled.MustRegister(h)
	return h
}

func seconds() []float64 { return prometheus.ExponentialBuckets(0.00025, 2, 14) }

// Registry returns the registry, for tests and other exporters.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// step returns a function that records the time since now for the step.
func (m *Metrics) step(name string) func() {
	start := time.Now()
	return func() { m.took(name, time.Since(start)) }
}

// took records the time of a step.
func (m *Metrics) took(name string, d time.Duration) {
	m.steps.WithLabelValues(name).Observe(d.Seconds())
}
