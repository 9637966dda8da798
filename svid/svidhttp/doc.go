// Package svidhttp asks HTTP clients for attested SVIDs, before a handler sees the
// request, and has HTTP servers asked.
//
//	gate := svidhttp.Gate{Gate: svid.Gate{Source: src, Require: []svid.Requirement{svid.PCR(0, release41)}}}
//	server := &http.Server{Handler: gate.Handler(mux), TLSConfig: gate.TLS(own)}
//
// and in a handler:
//
//	who, _ := svid.FromContext(r.Context())
//
// A handshake is not a lease: validity, age and requirements are checked for each
// request, also on connections that were opened long ago.
package svidhttp
