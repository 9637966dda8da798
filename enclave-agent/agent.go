package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/enclave-agent/entropy"
	"github.com/assay-project/assay/enclave-agent/process"
)

// DefaultSocket is where workloads look for the Workload API.
const DefaultSocket = "/run/assay/agent.sock"

// DefaultSocketMode lets every process in the TEE connect: the TEE is the
// boundary, and whoever runs inside it was measured with it.
const DefaultSocketMode fs.FileMode = 0o666

// MaxTrustDomains is how many trust domains one agent may be in.
const MaxTrustDomains = 8

// Config is what an agent needs. The first five fields are required.
type Config struct {
	TrustDomain    spiffeid.TrustDomain
	Server         string         // host:port of the attestation service, or vsock:CID:PORT
	BootstrapRoots BootstrapRoots // pinned: the current one and the next
	Attester       Attester       // the TEE's device
	Socket         string         // absolute path of the Workload API's socket

	// Further are the trust domains beside the first, whose names are above. Each is
	// attested to on its own; what is served is that of all, in this order.
	Further []Membership

	SocketMode fs.FileMode // 0 is DefaultSocketMode
	// SocketGroup is the number of the group that the socket gets; nil is the process's
	// own. Its members need no right to the socket's directory, and must have none.
	SocketGroup *int
	KeyType     KeyType // "" is P256
	// KeyResidency says where the SVIDs' keys live; "" is SoftwareKeys. TPMKeys needs
	// an Attester that is a [KeyHolder], and P256.
	KeyResidency KeyResidency
	Identities   []spiffeid.ID // the names to ask for in the first; none is all that policy grants, in its order
	// Processes tells callers apart, for identities with selectors; nil asks the kernel
	// alone.
	Processes *process.Set
	Log       *slog.Logger // nil discards
	Clock     Clock        // nil is SystemClock
	// NotBefore is a moment that has passed for certain: when this program was built.
	// The wall clock is the host's, and no server is believed that is of before; nor of
	// before the newest bootstrap root. Zero says nothing.
	NotBefore time.Time
	Listening func(addr string) // called once the socket accepts, with "unix://PATH"; may be nil

	// Dial connects to a server; nil dials TCP, or vsock where the address says so.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Agent holds the identities of one TEE. Make one with [New].
type Agent struct {
	*holdings
	cfg    Config
	log    *slog.Logger
	health *healthState
}

// New checks the configuration. It touches neither network nor device. Errors
// say which field is wrong.
func New(cfg Config) (*Agent, error) {
	if cfg.Attester == nil {
		return nil, errors.New("agent: no attester")
	}
	if err := CheckSocketPath(cfg.Socket); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if cfg.KeyType == "" {
		cfg.KeyType = P256
	}
	if _, err := ParseKeyType(string(cfg.KeyType)); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	holder, err := keyHolder(cfg)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if cfg.SocketMode == 0 {
		cfg.SocketMode = DefaultSocketMode
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = SystemClock{}
	}
	if cfg.Processes == nil {
		if cfg.Processes, err = process.NewSet(); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	all := append([]Membership{{cfg.TrustDomain, cfg.Server, cfg.BootstrapRoots, cfg.Identities}}, cfg.Further...)
	if len(all) > MaxTrustDomains {
		return nil, fmt.Errorf("agent: %d trust domains, at most %d", len(all), MaxTrustDomains)
	}
	a := &Agent{cfg: cfg, log: cfg.Log, holdings: &holdings{changed: newSignal()}, health: newHealthState(cfg.Attester.Platform())}
	for _, of := range all {
		if a.in(of.TrustDomain) != nil {
			return nil, fmt.Errorf("agent: the trust domain %s twice", of.TrustDomain)
		}
		if of.Simulated() != all[0].Simulated() {
			return nil, fmt.Errorf("agent: %s is simulated, or %s: not both in one agent", of.TrustDomain, all[0].TrustDomain)
		}
		m, err := newMember(of, a, len(all))
		if err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
		m.holder = holder
		a.members = append(a.members, m)
	}
	return a, nil
}

// keyHolder is what makes the keys, where that is not this process; else nil.
func keyHolder(cfg Config) (KeyHolder, error) {
	switch cfg.KeyResidency {
	case "", SoftwareKeys:
		return nil, nil //nolint:nilnil // nil is an answer
	case TPMKeys:
	}
	if _, err := ParseKeyResidency(string(cfg.KeyResidency)); err != nil {
		return nil, err
	}
	h, ok := cfg.Attester.(KeyHolder)
	switch {
	case !ok:
		return nil, fmt.Errorf("key residency %s: keys cannot live in the device of %s", cfg.KeyResidency, cfg.Attester.Platform())
	case cfg.KeyType != P256:
		return nil, fmt.Errorf("key residency %s: keys there are of type %s, not %s", cfg.KeyResidency, P256, cfg.KeyType)
	}
	return h, nil
}

// tickEvery is how often expiry and the clocks are looked at.
const tickEvery = time.Second

// Run serves the Workload API and keeps the identities fresh until ctx ends,
// then returns nil. It returns an error only for what is wrong on this machine
// before it serves: the socket. No server's absence or answer ends it.
func (a *Agent) Run(ctx context.Context) error {
	listener, err := listen(ctx, a.cfg.Socket, a.cfg.SocketMode, a.cfg.SocketGroup)
	if err != nil {
		return err
	}
	if a.cfg.Listening != nil {
		a.cfg.Listening("unix://" + a.cfg.Socket)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serve(ctx, listener) })
	if src, ok := a.cfg.Attester.(entropy.Source); ok {
		_ = entropy.Seed(ctx, src, a.log) // before the first key; bounded, and it says itself what was not done
	}
	g.Go(func() error { return a.ticks(ctx) })
	for _, m := range a.members {
		m.run(ctx, g)
	}
	return g.Wait()
}

// ticks looks at the clocks once a second.
func (a *Agent) ticks(ctx context.Context) error {
	for {
		for _, m := range a.members {
			m.tick()
		}
		if sleep(ctx, tickEvery) != nil {
			return nil
		}
	}
}

// keysGone lets go of identities whose keys ended with a reset of the TPM, which every
// trust domain has keys in, and attests again. self, which may be nil, is in the
// middle of an attestation already.
func (a *Agent) keysGone(self *member) {
	for _, m := range a.members {
		m.state.dropResident()
		if m != self {
			m.plan.advance(m.time.now())
		}
	}
}
