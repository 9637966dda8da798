package issuer

import (
	"context"
	"errors"
	"net"
)

// What cannot be turned on yet says so instead of looking as if it ran.

func (s *Server) serveAdminTLS(context.Context, net.Listener) error {
	return errors.New("administration over TLS is not built in")
}

func (s *Server) serveWeb(context.Context, net.Listener) error {
	return errors.New("the web server is not built in")
}

func (s *Server) serveBundleEndpoint(context.Context, net.Listener) error {
	return errors.New("the bundle endpoint is not built in")
}
