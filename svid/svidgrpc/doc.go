// Package svidgrpc asks gRPC clients for attested SVIDs, before a method runs, and
// has gRPC servers asked. It stands beside go-spiffe's spiffegrpc: use either's
// credentials, and this package's interceptors.
//
//	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: src, Require: []svid.Requirement{svid.PCR(0, release41)}}}
//	server := grpc.NewServer(grpc.Creds(gate.Credentials(own)),
//	    grpc.UnaryInterceptor(gate.Unary), grpc.StreamInterceptor(gate.Stream))
//
// and in a method:
//
//	who, _ := svid.FromContext(ctx)
//
// A handshake is not a lease: validity, age and requirements are checked for each
// call, and in streams for each message.
package svidgrpc
