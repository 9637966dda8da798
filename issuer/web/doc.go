// Package web serves what the world may read: the OIDC discovery document, key
// sets, the SPIFFE bundle, the verifier keys, the deny-list. All of it is public,
// small, and the same for everybody, so that the server can be plain and strict:
//
//	routes := map[string]http.Handler{"/keys": web.Document(keySet)}
//	cert, err := web.OpenCertificate("/etc/assay/web.pem", "/etc/assay/web-key.pem", time.Now, log)
//	s := web.Server{Handler: web.Handler(routes), Certificate: cert.Get, Log: log}
//	err = s.Serve(ctx, listener)
//
// What it gives every document: GET and HEAD alone, an entity tag with If-None-Match
// (RFC 9110, sections 8.8.3 and 13.1.2), Cache-Control, exact paths. What it gives
// nobody: directories, redirects, request bodies, details of errors, its own name
// and version, HTTP/2, or a connection for as long as they like.
//
// The package knows no authority and no ledger: content comes from functions.
package web
