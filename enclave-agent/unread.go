package agent

import (
	"context"
	"math/bits"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A message waits in memory until its caller reads it, which it may never do, and each
// call has a copy of its own. With many foreign bundles that is some hundred kB, times
// all the calls that there may be; so what calls hold is bounded in bytes, too.
const (
	maxUnread        = 256 << 20
	maxUnreadPerUser = 32 << 20
)

// unread is what one call holds: its last message, until the call ends.
type unread struct {
	crowd *crowd
	ctx   context.Context //nolint:containedctx // the call's own, whose end lets go

	mu    sync.Mutex
	leave func() // nil while it holds nothing
	ended bool
}

type unreadKey struct{}

// hold counts a message in the place of the one before.
func (u *unread) hold(m proto.Message) error {
	n := proto.Size(m)
	if n > 0 {
		n = 1 << bits.Len(uint(n-1)) // gRPC's buffers come in powers of two
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.drop(); u.ended {
		return status.FromContextError(u.ctx.Err()).Err()
	}
	leave, err := u.crowd.enterWith(&u.crowd.unread, callerOf(u.ctx).user(), n, maxUnread, maxUnreadPerUser)
	if err != nil {
		return status.Error(codes.ResourceExhausted, "too much is being sent to this user's calls")
	}
	u.leave = leave
	return nil
}

// end lets go of all, for good.
func (u *unread) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop()
	u.ended = true
}

// drop lets go of the last message. The lock is held.
func (u *unread) drop() {
	if u.leave != nil {
		u.leave()
		u.leave = nil
	}
}

func holdFor(ctx context.Context, m any) error {
	u, ok := ctx.Value(unreadKey{}).(*unread)
	if msg, isProto := m.(proto.Message); ok && isProto {
		return u.hold(msg)
	}
	return nil
}

func unreadUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	out, err := next(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := holdFor(ctx, out); err != nil {
		return nil, err
	}
	return out, nil
}

func unreadStream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(srv, countedStream{s})
}

// countedStream counts what it sends.
type countedStream struct{ grpc.ServerStream }

// SendMsg implements grpc.ServerStream.
func (s countedStream) SendMsg(m any) error {
	if err := holdFor(s.Context(), m); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}
