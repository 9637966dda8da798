// Package oidc is what OpenID Connect relying parties (AWS, GCP, Vault, …) read
// of a trust domain: the discovery document and the key set. It signs nothing and
// holds no key.
//
//	p, err := oidc.New("https://oidc.example.org", authorities, maxAge)
//	for path, get := range p.Documents() { // /.well-known/openid-configuration, /keys
//		mux[path] = web.Document(get)
//	}
//
// The key set holds every JWT authority of the SPIFFE bundle, those that do not
// sign yet among them: a relying party that fetches it now and then knows a key
// long before the first token that it signs. Key ids are RFC 7638 thumbprints, and
// the bytes are the same at every server, so that entity tags are too.
//
// docs/guides/oidc.md tells how each relying party is set up, and package oidctest
// lists what they ask for in writing.
package oidc
