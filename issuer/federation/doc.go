// Package federation gets the bundles of other trust domains, keeps the last good
// one of each, and encodes our own for them to get (SPIFFE Federation; SPIFFE Trust
// Domain and Bundle).
//
//	f, err := federation.Open(ctx, federation.Config{TrustDomain: td, Store: st, Seal: seal, Now: time.Now, Log: log})
//	err = f.Set(ctx, federation.Relation{TrustDomain: "b.example", URL: "https://b.example/bundle", Profile: federation.Web}, "uid 0")
//	go f.Run(ctx)
//	bundles, revision := f.Bundles()    // for agents: each speaks for its own trust domain alone
//
// Two profiles say how an endpoint is known: https_web by a certificate of the web's
// PKI for the URL's host, https_spiffe by an X.509-SVID with the SPIFFE ID that the
// operator named, checked with the bundle that was got before. So the second one
// begins with a bundle that is handed in, and then follows the rotation of the
// foreign trust domain by itself, as long as it asks often enough.
//
// What an endpoint is never trusted with, beside the trust domain that it was
// configured for: our memory (sizes and times are bounded), our other federations
// (bundles are never merged, and one that names another trust domain is refused),
// the past (a lower sequence number is refused), or how rarely we ask (its refresh
// hint counts between bounds). A fetch that fails changes nothing: the last good
// bundle is served on, over restarts too.
//
// Several servers of one trust domain share the work by the database: who claims a
// row fetches, the others hear of what is new. Rows are sealed by the checkpoint key
// of the server that wrote them, so that whoever can write the database, and nothing
// else, cannot name a foreign authority.
package federation
