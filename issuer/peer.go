package issuer

import (
	"context"
	"fmt"
	"net"
	"os/user"
	"strconv"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
)

// socketCredentials are those of the admin socket: its mode decides who may open
// it, and the kernel says who did (SO_PEERCRED, unix(7)), for the record.
type socketCredentials struct {
	credentials.TransportCredentials
}

func newSocketCredentials() socketCredentials { return socketCredentials{insecure.NewCredentials()} }

// ServerHandshake implements credentials.TransportCredentials.
func (c socketCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, socketPeer{actor: peerOf(conn)}, nil
}

// Clone implements credentials.TransportCredentials.
func (c socketCredentials) Clone() credentials.TransportCredentials { return newSocketCredentials() }

// socketPeer is who is at the other end of the admin socket.
type socketPeer struct {
	credentials.CommonAuthInfo
	actor string
}

// AuthType implements credentials.AuthInfo.
func (socketPeer) AuthType() string { return "peercred" }

// actorOf names the administrator of a call: by SPIFFE ID, or as far as the kernel
// knows.
func actorOf(ctx context.Context) string {
	if c, ok := ctx.Value(callerKey{}).(caller); ok {
		return c.actor
	}
	if p, ok := peer.FromContext(ctx); ok {
		if s, ok := p.AuthInfo.(socketPeer); ok {
			return s.actor
		}
	}
	return "unknown"
}

// actorName writes a user and process: "uid 1000 (alice), pid 4242".
func actorName(uid uint32, pid int32) string {
	name := ""
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		name = " (" + clip(u.Username, 64) + ")"
	}
	return fmt.Sprintf("uid %d%s, pid %d", uid, name, pid)
}
