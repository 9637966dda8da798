// Package svidhttp asks HTTP clients for attested SVIDs, before a handler sees the
// request, and has HTTP servers asked.
//
//	gate := &svidhttp.Gate{Gate: svid.Gate{Source: src, Require: []svid.Requirement{
//	    svid.MemberOf(td), svid.Owned(), svid.Policy("prod"), svid.MaxAge(2 * time.Hour), svid.NotDenied(denied),
//	}}}
//	server := &http.Server{Handler: gate.Handler(mux), TLSConfig: gate.TLS(own)}
//
// and in a handler:
//
//	who, _ := svid.FromContext(r.Context())
//
// A handshake is not a lease: validity, age and requirements are checked for each
// request, also on connections that were opened long ago, and again in those that
// take long. A connection is closed, after an answer, before its client would be
// refused for what it showed when it connected. A client with [Transport] does the
// same for its server, and for itself.
package svidhttp
