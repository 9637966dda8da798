package issuer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ledger"
)

// recovery turns a panic of a handler into an Internal answer. gRPC does not
// recover handlers: without this one request could stop the server.
type recovery struct {
	log     *slog.Logger
	metrics *Metrics
}

func (r recovery) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, r.caught(ctx, info.FullMethod, v)
		}
	}()
	return h(ctx, req)
}

func (r recovery) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = r.caught(ss.Context(), info.FullMethod, v)
		}
	}()
	return h(srv, ss)
}

func (r recovery) caught(ctx context.Context, method string, v any) error {
	ref := ledger.NewReference()
	r.metrics.panics.Inc()
	r.log.ErrorContext(ctx, "a handler panicked", "method", method, "reference", ref, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	return refusal(&attest.Error{Kind: attest.Internal, Check: "panic", Err: errors.New("panic")}, ref)
}
