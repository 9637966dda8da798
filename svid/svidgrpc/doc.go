// Package svidgrpc asks gRPC clients for attested SVIDs, before a method runs, and
// has gRPC servers asked.
//
//	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: src, Require: []svid.Requirement{
//	    svid.MemberOf(td), svid.Owned(), svid.Policy("prod"), svid.MaxAge(2 * time.Hour), svid.NotDenied(denied),
//	}}}
//	server := grpc.NewServer(gate.ServerOptions(own)...)
//
// and in a method:
//
//	who, _ := svid.FromContext(ctx)
//
// A handshake is not a lease: validity, age and requirements are checked for each
// call, and in streams for each message; a connection ends with its client. Before
// that the client is asked to open another, so that one whose agent has renewed its
// SVID meets no refusal, whatever library it uses. A client with [ClientCredentials]
// does the same for its server, and for itself.
//
// The interceptors ([Gate.Unary], [Gate.Stream]) work before other credentials too,
// gRPC's own and go-spiffe's; but then nobody replaces connections in time: set
// keepalive.ServerParameters.MaxConnectionAge to less than half an SVID's life.
package svidgrpc
