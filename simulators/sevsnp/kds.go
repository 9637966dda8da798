package sevsnp

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Defaults of a KDS.
const (
	// DefaultBurst and DefaultRefill are about as patient as the real service:
	// users report refusals after a handful of requests within some minutes, and
	// those who asked AMD were told of one request each ten seconds.
	DefaultBurst  = 5
	DefaultRefill = 10 * time.Second
	// maxClients bounds the memory of who has asked how often.
	maxClients = 1024
)

// KDSOptions configure a [KDS].
type KDSOptions struct {
	// Chips are those that it knows. For any other it answers 404, as the real one
	// does for chips that were never made.
	Chips []*Chip
	// Burst is how many requests a client may make at once, and Refill after which
	// time it may make one more; 0 = the defaults. A negative Burst is no limit.
	Burst  int
	Refill time.Duration
	// CRLLifetime is how long a CRL is current; 0 = half a year.
	CRLLifetime time.Duration
}

// KDS is a simulated key distribution service: an [http.Handler] with the paths,
// parameters, media and moods of AMD's (docs/spec/snp-kds.md). It is safe for
// concurrent use.
type KDS struct {
	authority *Authority
	options   KDSOptions
	chips     map[string]*Chip // by line and hardware id

	mu       sync.Mutex
	faults   []KDSFault
	clients  map[string]bucket
	requests map[string]int
	crls     map[string]publishedCRL
}

// bucket is what a client has left.
type bucket struct {
	tokens float64
	at     time.Time
}

// publishedCRL is a CRL until its half-life.
type publishedCRL struct {
	der     []byte
	renewal time.Time
}

// KDS opens a key distribution service for the authority's certificates.
func (a *Authority) KDS(o KDSOptions) *KDS {
	if o.Burst == 0 {
		o.Burst = DefaultBurst
	}
	if o.Refill <= 0 {
		o.Refill = DefaultRefill
	}
	if o.CRLLifetime <= 0 {
		o.CRLLifetime = crlLifetime
	}
	k := &KDS{
		authority: a, options: o, chips: make(map[string]*Chip), clients: make(map[string]bucket),
		requests: make(map[string]int), crls: make(map[string]publishedCRL),
	}
	for _, c := range o.Chips {
		k.chips[c.product.Line()+"/"+hex.EncodeToString(c.id)] = c
	}
	return k
}

// Requests returns how often each path was asked for, refused requests
// included; paths are without parameters.
func (k *KDS) Requests() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.requests)
}

// RequestCount is the sum over all paths.
func (k *KDS) RequestCount() (n int) {
	for _, v := range k.Requests() {
		n += v
	}
	return n
}

// SetFaults replaces the faults, from the next request on.
func (k *KDS) SetFaults(faults ...KDSFault) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = slices.Clone(faults)
	clear(k.crls)
}

// answered is what a request is answered with.
type answered struct {
	status int
	media  string
	body   []byte
}

// The media types of the answers.
const (
	mediaBinary = "application/octet-stream"
	mediaPEM    = "application/x-pem-file"
	mediaText   = "text/plain; charset=utf-8"
)

func refusal(status int, format string, args ...any) answered {
	return answered{status: status, media: mediaText, body: fmt.Appendf(nil, format+"\n", args...)}
}

// ServeHTTP answers a request.
func (k *KDS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	faults := k.admit(r)
	for _, f := range faults {
		if f.onRequest != nil && f.onRequest(w, r) {
			return
		}
	}
	if wait := k.take(clientOf(r)); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		write(w, refusal(http.StatusTooManyRequests, "too many requests"))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		write(w, refusal(http.StatusMethodNotAllowed, "want GET"))
		return
	}
	out, err := k.answer(r.URL, faults)
	if err != nil {
		out = refusal(http.StatusInternalServerError, "%v", err)
	}
	for _, f := range faults {
		if f.onAnswer != nil && out.status == http.StatusOK {
			if out, err = f.onAnswer(k, r.URL, out); err != nil {
				out = refusal(http.StatusInternalServerError, "%v", err)
			}
		}
	}
	write(w, out)
}

func write(w http.ResponseWriter, a answered) {
	w.Header().Set("Content-Type", a.media)
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that has gone needs no answer
}

// admit counts the request, and returns the faults that apply to it.
func (k *KDS) admit(r *http.Request) []KDSFault {
	k.mu.Lock()
	defer k.mu.Unlock()
	path := r.URL.Path
	if _, seen := k.requests[path]; !seen && len(k.requests) >= maxClients {
		path = "" // somebody invents paths: count them together
	}
	k.requests[path]++
	return slices.Clone(k.faults)
}

// clientOf names who asks.
func clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// take lets a client make a request, or says how long it has to wait.
func (k *KDS) take(client string) (wait time.Duration) {
	if k.options.Burst < 0 {
		return 0
	}
	now := k.authority.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	b, ok := k.clients[client]
	if !ok {
		if len(k.clients) >= maxClients {
			clear(k.clients)
		}
		b = bucket{tokens: float64(k.options.Burst), at: now}
	}
	refill := k.options.Refill.Seconds()
	b.tokens = min(float64(k.options.Burst), b.tokens+max(0, now.Sub(b.at).Seconds())/refill)
	b.at = now
	if b.tokens < 1 {
		wait = time.Duration((1 - b.tokens) * float64(k.options.Refill))
	} else {
		b.tokens--
	}
	k.clients[client] = b
	return max(0, wait)
}
