package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

const defaultAdminSocket = "/run/assay/admin.sock"

// maxAdminMessage bounds one answer of the admin service: a record with its
// claims and its decision, or one piece of evidence.
const maxAdminMessage = 8 << 20

// admin is a connection to a server's admin services.
type admin struct {
	assayv1.AdminClient
	socket  string // or the address of one that is elsewhere
	conn    *grpc.ClientConn
	release func()
	tls     *tls.Config // of a server that is elsewhere
}

// openAdmin connects to the socket. Who may open it is decided by its mode, so
// that the connection itself needs no credentials.
func openAdmin(socket, hint string) (*admin, error) {
	if strings.HasPrefix(socket, remoteScheme) {
		return openRemote(socket)
	}
	st, err := os.Stat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, unavailable(hint, "there is no admin socket %s: no server runs here, or it listens elsewhere", socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, unavailable("the socket is for the server's own user: use its account, or sudo", "%s: permission denied", socket)
	case err != nil:
		return nil, unavailable(hint, "%s", clean(err))
	case st.Mode()&os.ModeSocket == 0:
		return nil, cli.Usagef("the server's configuration names its admin socket", "%s is not a socket", socket)
	}
	// The target is only a name: the dialer knows where to go.
	conn, err := grpc.NewClient("passthrough:///assay-admin",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAdminMessage)),
		grpc.WithUnaryInterceptor(answerInTime),
	)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", socket, err)
	}
	return &admin{AdminClient: assayv1.NewAdminClient(conn), socket: socket, conn: conn, release: func() {}}, nil
}

// openRemote connects to a server that is elsewhere.
func openRemote(target string) (*admin, error) {
	address, tlsConfig, release, err := remoteAdmin(target)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAdminMessage)),
		grpc.WithUnaryInterceptor(answerInTime),
	)
	if err != nil {
		release()
		return nil, fmt.Errorf("admin service %s: %w", address, err)
	}
	return &admin{AdminClient: assayv1.NewAdminClient(conn), socket: address, conn: conn, release: release, tls: tlsConfig}, nil
}

// adminTimeout is how long one question may take. Lists have no such limit:
// they are as long as the ledger.
const adminTimeout = 30 * time.Second

// pushTimeout is how long a push may take: the server compiles the policy, and
// the largest take a while.
const pushTimeout = 5 * time.Minute

// answerInTime keeps a command from waiting for ever on a server that hangs.
func answerInTime(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	limit := adminTimeout
	if method == assayv1.Admin_PushPolicy_FullMethodName {
		limit = pushTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return invoke(ctx, method, req, reply, conn, opts...)
}

func (a *admin) Close() error {
	defer a.release()
	return a.conn.Close()
}

// errNotFound is an entry that is not there.
var errNotFound = errors.New("not found")

// explain turns the status of a call into an error with an exit code.
func (a *admin) explain(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.NotFound:
		return fmt.Errorf("%w: %s", errNotFound, st.Message())
	case codes.Unavailable:
		if errors.Is(err, fs.ErrPermission) {
			return unavailable("the socket is for the server's own user: use its account, or sudo", "%s: permission denied", a.socket)
		}
		if a.tls != nil {
			if err := refusal(context.Background(), a.socket, a.tls); err != nil {
				return &attest.Error{Kind: attest.Untrusted, Check: "admin_tls", Err: fmt.Errorf("%s: %w", a.socket, err),
					Hint: "--admin-svid must be of the trust domain in the server's administration.trust_domain, and still hold; --admin-root is the server's bootstrap root"}
			}
		}
		return unavailable("is the server running? a socket can outlive one that was killed", "no answer on %s: %s", a.socket, st.Message())
	case codes.DeadlineExceeded, codes.ResourceExhausted, codes.Canceled:
		return unavailable("", "%s: %s", a.socket, st.Message())
	case codes.Unimplemented:
		return cli.Usagef("server and `assay` are of different versions: compare `assay server status` and `assay version`", "the server does not know this request")
	case codes.InvalidArgument, codes.AlreadyExists, codes.FailedPrecondition:
		text, hint, _ := strings.Cut(st.Message(), "\nhint: ")
		return cli.Usagef(hint, "%s", text)
	case codes.PermissionDenied:
		return &attest.Error{Kind: attest.Denied, Check: "role", Err: errors.New(st.Message()), Hint: "roles are bound in the server's configuration, administration.roles"}
	case codes.Unauthenticated:
		return &attest.Error{Kind: attest.Untrusted, Check: "admin_svid", Err: errors.New(st.Message())}
	default:
		return fmt.Errorf("the server failed: %s (%s)", st.Message(), st.Code())
	}
}

func unavailable(hint, format string, a ...any) error {
	return &attest.Error{Kind: attest.Unavailable, Check: "server", Err: fmt.Errorf(format, a...), Hint: hint}
}
