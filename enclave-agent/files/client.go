package files

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

// client asks the agent as a workload does.
type client struct {
	conn     *grpc.ClientConn
	workload workload.SpiffeWorkloadAPIClient
	agent    agentv1.AgentClient
}

func dial(socket string) (*client, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())) // a unix socket of this machine
	if err != nil {
		return nil, err
	}
	return &client{conn, workload.NewSpiffeWorkloadAPIClient(conn), agentv1.NewAgentClient(conn)}, nil
}

func (c *client) close() { _ = c.conn.Close() }

func withHeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

// identity is one X.509-SVID with its key.
type identity struct {
	svid   *x509svid.SVID
	bundle []*x509.Certificate
	onDisk bool // policy permits that the host reads the key
}

// material is everything that is had at one moment.
type material struct {
	identities []identity
	federated  map[string][]*x509.Certificate // by name of the trust domain
	// first is the agent's first trust domain, whose files have names without it; ""
	// of an agent that does not tell, and is in one alone.
	first string
	// away are the agent's trust domains of which it serves nothing now.
	away map[string]bool
}

// watch calls put with the full state, at once and after every change. With permits
// it also asks what policy permits. It ends with the stream.
func (c *client) watch(ctx context.Context, permits bool, put func(*material) error) error {
	ctx, cancel := context.WithCancel(withHeader(ctx))
	defer cancel()
	s, err := c.workload.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return err
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		m, err := parse(r)
		if err != nil {
			return err
		}
		if m.first, m.away, err = c.trustDomains(ctx); err != nil {
			return err
		}
		if permits {
			known, err := c.permits(ctx, m)
			if err != nil {
				return err
			}
			if !known {
				continue // changed meanwhile: the next message is under way
			}
		}
		if err := put(m); err != nil {
			return err
		}
	}
}

func parse(r *workload.X509SVIDResponse) (*material, error) {
	out := &material{federated: map[string][]*x509.Certificate{}}
	for _, m := range r.GetSvids() {
		v, err := x509svid.ParseRaw(m.GetX509Svid(), m.GetX509SvidKey())
		if err != nil {
			return nil, fmt.Errorf("the agent's SVID: %w", err)
		}
		b, err := x509.ParseCertificates(m.GetBundle())
		if err != nil {
			return nil, fmt.Errorf("the agent's bundle: %w", err)
		}
		out.identities = append(out.identities, identity{svid: v, bundle: b})
	}
	for id, der := range r.GetFederatedBundles() {
		td, err := trustDomain(id)
		if err != nil {
			return nil, err
		}
		if out.federated[td], err = x509.ParseCertificates(der); err != nil {
			return nil, fmt.Errorf("the bundle of %s: %w", td, err)
		}
	}
	return out, nil
}

// trustDomains are the first trust domain of the agent, and those of which it serves
// nothing now.
func (c *client) trustDomains(ctx context.Context) (first string, away map[string]bool, err error) {
	r, err := c.agent.GetStatus(ctx, &agentv1.GetStatusRequest{})
	if status.Code(err) == codes.Unimplemented {
		return "", nil, nil // an agent of before
	}
	if err != nil {
		return "", nil, err
	}
	away = map[string]bool{}
	for i, td := range r.GetTrustDomains() {
		if i == 0 {
			first = td.GetTrustDomain()
		}
		if td.GetState() != agentv1.State_STATE_SERVING {
			away[td.GetTrustDomain()] = true
		}
	}
	return first, away, nil
}

// permits notes which identities may be on a disk. It is false when the agent holds
// others by now.
func (c *client) permits(ctx context.Context, m *material) (bool, error) {
	all, err := c.agent.GetIdentities(ctx, &agentv1.GetIdentitiesRequest{})
	if err != nil {
		return false, err
	}
	said := map[string]bool{}
	for _, x := range all.GetIdentities() {
		if len(x.GetChain()) > 0 {
			said[string(x.GetChain()[0])] = x.GetKeysOnDisk()
		}
	}
	for i := range m.identities {
		permit, ok := said[string(m.identities[i].svid.Certificates[0].Raw)]
		if !ok {
			return false, nil
		}
		m.identities[i].onDisk = permit
	}
	return true, nil
}

// mayBeOnDisk asks what policy permits for an identity's tokens.
func (c *client) mayBeOnDisk(ctx context.Context, id string) (bool, error) {
	all, err := c.agent.GetIdentities(withHeader(ctx), &agentv1.GetIdentitiesRequest{})
	if err != nil {
		return false, err
	}
	found := false
	for _, x := range all.GetIdentities() {
		if x.GetSpiffeId() != id {
			continue
		}
		if found = true; !x.GetKeysOnDisk() {
			return false, nil
		}
	}
	return found, nil
}

// token is a JWT-SVID as the agent hands it out.
type token struct {
	id      string
	text    string
	refresh time.Time // half of its life: then there is a new one
}

var errNoToken = errors.New("the agent answered without a token")

// mint asks for a token: of the one identity that is named, or of the first in the
// agent's first trust domain that policy grants one for the audience.
func (c *client) mint(ctx context.Context, audience, id string) (*token, error) {
	ids := []string{id}
	if id == "" {
		var err error
		if ids, err = c.ofTheFirst(withHeader(ctx)); err != nil {
			return nil, err
		}
	}
	var denied error
	for _, id := range ids {
		t, err := c.mintFor(ctx, audience, id)
		if status.Code(err) == codes.PermissionDenied {
			denied = err
			continue
		}
		return t, err
	}
	return nil, denied
}

// ofTheFirst are the identities in the agent's first trust domain, one at least; where
// it is in one alone, the agent is left to choose.
func (c *client) ofTheFirst(ctx context.Context) (ids []string, err error) {
	first, _, err := c.trustDomains(ctx)
	if first == "" || err != nil {
		return []string{""}, err
	}
	all, err := c.agent.GetIdentities(ctx, &agentv1.GetIdentitiesRequest{})
	if err != nil {
		return nil, err
	}
	for _, x := range all.GetIdentities() {
		if strings.HasPrefix(x.GetSpiffeId(), "spiffe://"+first+"/") {
			ids = append(ids, x.GetSpiffeId())
		}
	}
	if len(ids) == 0 {
		return nil, status.Error(codes.Unavailable, "the agent holds no identity of "+first+" now")
	}
	return ids, nil
}

func (c *client) mintFor(ctx context.Context, audience, id string) (*token, error) {
	r, err := c.workload.FetchJWTSVID(withHeader(ctx), &workload.JWTSVIDRequest{Audience: []string{audience}, SpiffeId: id})
	if err != nil {
		return nil, err
	}
	if len(r.GetSvids()) == 0 {
		return nil, errNoToken
	}
	m := r.GetSvids()[0]
	v, err := jwtsvid.ParseInsecure(m.GetSvid(), []string{audience}) // the agent has verified it; here it is only read
	if err != nil {
		return nil, fmt.Errorf("the agent's token: %w", err)
	}
	begin := time.Now()
	if at, ok := v.Claims["iat"].(float64); ok {
		begin = time.Unix(int64(at), 0)
	}
	return &token{id: v.ID.String(), text: m.GetSvid(), refresh: begin.Add(v.Expiry.Sub(begin) / 2)}, nil
}
