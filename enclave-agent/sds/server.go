package sds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// TypeURL is that of Envoy's secrets.
const TypeURL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Bounds of what a caller may ask.
const (
	maxNames = 256  // in one request
	maxName  = 2048 // bytes: the longest SPIFFE ID (SPIFFE-ID, section 2.3)
)

// Source tells what the caller of ctx may have now, and is closed when that may
// have changed. Its errors are statuses; PermissionDenied is a caller who may have
// nothing.
type Source func(ctx context.Context) (*Secrets, <-chan struct{}, error)

// Server is envoy.service.secret.v3.SecretDiscoveryService.
type Server struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	source   Source
	stopping <-chan struct{}
	log      *slog.Logger
}

// New makes the service. Streams end when stopping is closed.
func New(source Source, stopping <-chan struct{}, log *slog.Logger) *Server {
	return &Server{source: source, stopping: stopping, log: log}
}

// FetchSecrets answers once.
func (s *Server) FetchSecrets(ctx context.Context, r *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	if err := check(r.GetTypeUrl(), r.GetResourceNames()); err != nil {
		return nil, err
	}
	now, _, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	resources, err := now.resources(r.GetResourceNames())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return answer(resources, ""), nil
}

// StreamSecrets answers whenever what was asked for changes, with all of it.
func (s *Server) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	return talk(stream.Context(), s, stream.Recv, &conversation{peer: peer{log: s.log}, send: stream.Send})
}

// DeltaSecrets answers whenever what was asked for changes, with what did.
func (s *Server) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return talk(stream.Context(), s, stream.Recv, &changes{peer: peer{log: s.log}, send: stream.Send})
}

// party is the agent's side of a stream of requests R.
type party[R any] interface {
	hear(R) error        // takes a request
	tell(*Secrets) error // answers, if there is something to say
	begun() bool         // a request was heard
}

// talk runs a stream until an end of it has nothing more to say.
func talk[R any](ctx context.Context, s *Server, recv func() (R, error), p party[R]) error {
	requests := make(chan R)
	ended := make(chan error, 1)
	go func() { // ends with the stream: recv returns then
		for {
			r, err := recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		var changed <-chan struct{}
		if p.begun() {
			now, next, err := s.source(ctx)
			if err != nil {
				return err
			}
			changed = next
			if err := p.tell(now); err != nil {
				return err
			}
		}
		select {
		case r := <-requests:
			if err := p.hear(r); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-changed:
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the agent is stopping")
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// peer is what both kinds of streams know of the Envoy at the other end.
type peer struct {
	log     *slog.Logger
	node    string // Envoy says who it is once in a stream
	nonce   uint64 // of the last answer; 0 is none
	owed    bool   // Envoy has not said what it thinks of the last answer
	refusal string // the last one that the log was told of
	refused int    // how many that were
}

// maxRefusals is how many refusals of a stream the log is told of.
const maxRefusals = 8

// word takes what Envoy says of an answer; false is one about an answer that has been
// overtaken.
func (p *peer) word(node *core.Node, nonce string, refusal *rpcstatus.Status) bool {
	if n := nodeOf(node); n != "" {
		p.node = n
	}
	if nonce != "" && nonce != p.current() {
		return false
	}
	if refusal != nil && refusal.GetMessage() != p.refusal && p.refused < maxRefusals {
		p.refusal = refusal.GetMessage()
		p.refused++
		p.log.Warn("Envoy does not accept the secrets it was sent", "node", p.node, "error", clip(p.refusal))
	}
	return true
}

func (p *peer) current() string { return strconv.FormatUint(p.nonce, 10) }

// answered counts one more answer.
func (p *peer) answered() string {
	p.nonce++
	p.owed = true
	return p.current()
}

// conversation is one stream (xDS, "state of the world"): one answer is under way
// at most, and the next one waits for Envoy's word on it.
type conversation struct {
	peer
	send  func(*discovery.DiscoveryResponse) error
	asked bool
	names []string
	fresh bool   // the names were asked for and have not been answered
	sent  string // version of the last answer
}

func (c *conversation) begun() bool { return c.asked }

// hear takes a request: the first one, a change of names, or a word on an answer.
func (c *conversation) hear(r *discovery.DiscoveryRequest) error {
	if err := check(r.GetTypeUrl(), r.GetResourceNames()); err != nil {
		return err
	}
	if !c.word(r.GetNode(), r.GetResponseNonce(), r.GetErrorDetail()) && c.asked {
		return nil
	}
	if !c.asked || !slices.Equal(c.names, r.GetResourceNames()) {
		c.names, c.fresh = r.GetResourceNames(), true
	}
	c.asked, c.owed = true, false
	return nil
}

// tell answers if there is something to say: names that were asked for anew, or a
// content that is another than that of the last answer.
func (c *conversation) tell(now *Secrets) error {
	if c.owed && !c.fresh {
		return nil
	}
	resources, err := now.resources(c.names)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	v := version(resources)
	if !c.fresh && v == c.sent {
		return nil
	}
	c.sent, c.fresh = v, false
	return c.send(answer(resources, c.answered()))
}

func (s *Secrets) resources(names []string) ([]*anypb.Any, error) {
	list, err := s.secrets(names)
	if err != nil {
		return nil, err
	}
	out := make([]*anypb.Any, len(list))
	for i, x := range list {
		if out[i], err = pack(x); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func answer(resources []*anypb.Any, nonce string) *discovery.DiscoveryResponse {
	return &discovery.DiscoveryResponse{VersionInfo: version(resources), Resources: resources, TypeUrl: TypeURL, Nonce: nonce}
}

func check(typeURL string, names []string) error {
	switch {
	case typeURL != "" && typeURL != TypeURL:
		return status.Errorf(codes.InvalidArgument, "this service hands out %s alone", TypeURL)
	case len(names) > maxNames:
		return status.Errorf(codes.InvalidArgument, "%d names, at most %d", len(names), maxNames)
	}
	for _, n := range names {
		if n == "" || len(n) > maxName {
			return status.Errorf(codes.InvalidArgument, "a name of %d bytes, want 1 to %d", len(n), maxName)
		}
	}
	return nil
}

func nodeOf(n *core.Node) string {
	if n.GetId() == "" {
		return ""
	}
	return clip(n.GetId())
}

// clip keeps what a caller says short, and on one line, in the log.
func clip(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.QuoteToASCII(s)
}
