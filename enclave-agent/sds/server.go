package sds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
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
	if err := check(r); err != nil {
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

// StreamSecrets answers whenever what was asked for changes.
func (s *Server) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	ctx := stream.Context()
	requests := make(chan *discovery.DiscoveryRequest)
	ended := make(chan error, 1)
	go func() { // ends with the stream: Recv returns then
		for {
			r, err := stream.Recv()
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
	c := conversation{log: s.log}
	for {
		var changed <-chan struct{}
		if c.asked {
			now, next, err := s.source(ctx)
			if err != nil {
				return err
			}
			changed = next
			if err := c.tell(now, stream.Send); err != nil {
				return err
			}
		}
		select {
		case r := <-requests:
			if err := c.hear(r); err != nil {
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

// conversation is one stream (xDS, "state of the world"): one answer is under way
// at most, and the next one waits for Envoy's word on it.
type conversation struct {
	log   *slog.Logger
	asked bool
	names []string
	fresh bool   // the names were asked for and have not been answered
	sent  string // version of the last answer
	nonce uint64 // of the last answer; 0 is none
	owed  bool   // Envoy has not said what it thinks of the last answer
	node  string
}

// hear takes a request: the first one, a change of names, or a word on an answer.
func (c *conversation) hear(r *discovery.DiscoveryRequest) error {
	if err := check(r); err != nil {
		return err
	}
	if n := nodeOf(r.GetNode()); n != "" {
		c.node = n // Envoy says who it is once in a stream
	}
	if c.asked && r.GetResponseNonce() != "" && r.GetResponseNonce() != strconv.FormatUint(c.nonce, 10) {
		return nil // about an answer that has been overtaken
	}
	if d := r.GetErrorDetail(); d != nil {
		c.log.Warn("Envoy does not accept the secrets it was sent", "node", c.node, "error", clip(d.GetMessage()))
	}
	if !c.asked || !equal(c.names, r.GetResourceNames()) {
		c.names, c.fresh = r.GetResourceNames(), true
	}
	c.asked, c.owed = true, false
	return nil
}

// tell answers if there is something to say: names that were asked for anew, or a
// content that is another than that of the last answer.
func (c *conversation) tell(now *Secrets, send func(*discovery.DiscoveryResponse) error) error {
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
	c.nonce++
	out := answer(resources, strconv.FormatUint(c.nonce, 10))
	c.sent, c.fresh, c.owed = v, false, true
	return send(out)
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

func check(r *discovery.DiscoveryRequest) error {
	switch {
	case r.GetTypeUrl() != "" && r.GetTypeUrl() != TypeURL:
		return status.Errorf(codes.InvalidArgument, "this service hands out %s alone", TypeURL)
	case len(r.GetResourceNames()) > maxNames:
		return status.Errorf(codes.InvalidArgument, "%d names, at most %d", len(r.GetResourceNames()), maxNames)
	}
	for _, n := range r.GetResourceNames() {
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

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// clip keeps what a caller says short, and on one line, in the log.
func clip(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.QuoteToASCII(s)
}
