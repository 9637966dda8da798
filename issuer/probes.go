package issuer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// httpHandler serves /metrics (of all trust domains), /live (the process runs),
// /ready (it can attest for one trust domain at least) and /ready/TD (for that
// one); 503 with the reason otherwise. All of it is the process operator's: it
// names every trust domain.
func (f *Front) httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		promhttp.HandlerFor(f.gatherers(), promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil, "") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		details, err := f.ready()
		answer(w, err, details)
	})
	mux.HandleFunc("GET /ready/{td}", func(w http.ResponseWriter, r *http.Request) { answer(w, f.readyFor(r.PathValue("td")), "") })
	return mux
}

// gatherers are the metrics of the process and of every trust domain that is
// served.
func (f *Front) gatherers() prometheus.Gatherers {
	all := prometheus.Gatherers{f.registry}
	for _, s := range f.all() {
		all = append(all, s.metrics.registry)
	}
	return all
}

// ready is nil when anybody can be served: a balancer that asks takes nobody's
// server away because another trust domain's is not ready. details says of each
// trust domain how it is, where there are several.
func (f *Front) ready() (details string, err error) {
	select {
	case <-f.stopping:
		return "", errStopping
	default:
	}
	f.mu.RLock()
	names := f.names
	f.mu.RUnlock()
	if len(names) == 1 {
		return "", f.readyFor(names[0])
	}
	var b strings.Builder
	none := true
	for _, name := range names {
		why := f.readyFor(name)
		if why == nil {
			none = false
			fmt.Fprintf(&b, "%s: ok\n", name)
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", name, oneLine(why))
	}
	if none {
		return b.String(), errors.New("no trust domain can be served")
	}
	return b.String(), nil
}

// readyFor says why a trust domain cannot be served now, if it cannot.
func (f *Front) readyFor(trustDomain string) error {
	f.mu.RLock()
	s, why := f.servers[trustDomain], f.absent[trustDomain]
	f.mu.RUnlock()
	switch {
	case s != nil:
		return s.ready()
	case why != nil:
		return fmt.Errorf("not served: %w", why)
	}
	return errNotServed
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func answer(w http.ResponseWriter, err error, details string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok\n"
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = oneLine(err) + "\n"
	}
	_, _ = w.Write([]byte(text + details))
}

// served is a collector: which trust domains are served.
type served struct{ f *Front }

func (served) description() *prometheus.Desc {
	return prometheus.NewDesc("assay_trust_domain_ready", "1 while the trust domain can be attested to, 0 while it is not served or not ready.", []string{"trust_domain"}, nil)
}

// Describe implements prometheus.Collector.
func (c served) Describe(out chan<- *prometheus.Desc) { out <- c.description() }

// Collect implements prometheus.Collector.
func (c served) Collect(out chan<- prometheus.Metric) {
	c.f.mu.RLock()
	names := c.f.names
	c.f.mu.RUnlock()
	for _, name := range names {
		out <- prometheus.MustNewConstMetric(c.description(), prometheus.GaugeValue, truth(c.f.readyFor(name) == nil), name)
	}
}
