package federation

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// Profile says how a bundle endpoint is known (SPIFFE Federation, section 5.2).
type Profile string

// The profiles.
const (
	ByHand Profile = ""             // there is no endpoint: the bundle is handed in
	Web    Profile = "https_web"    // a certificate of the web's PKI for the URL's host
	SPIFFE Profile = "https_spiffe" // an X.509-SVID with a SPIFFE ID that is named
)

// Relation is what an operator says of a foreign trust domain.
type Relation struct {
	TrustDomain string // its name
	URL         string // of the bundle endpoint; empty for ByHand
	Profile     Profile
	EndpointID  string // SPIFFE: what the endpoint's server must show
	WebRoots    []byte // Web: PEM with the endpoint's CAs; empty is the system's
	// Bundle is a bundle document to begin with, or instead of the one that was got
	// before, whatever its sequence number. Empty keeps that one.
	Bundle []byte
}

const (
	maxURL      = 2048      // bytes
	maxWebRoots = 256 << 10 // bytes
)

// simulatedPrefix begins the names of trust domains of simulated hardware.
const simulatedPrefix = "simulated."

// relation is a checked Relation.
type relation struct {
	td       spiffeid.TrustDomain
	url      *url.URL
	profile  Profile
	endpoint spiffeid.ID
	roots    *x509.CertPool // nil is the system's
}

// check reads a relation of the trust domain own. The checks:
//
//	federation_trust_domain  a name, and not that of own
//	federation_kind          a trust domain of hardware trusts none of simulated hardware
//	federation_profile       https_web or https_spiffe, with what belongs to it and nothing else
//	endpoint_url             https, a host, no user name, no fragment
//	endpoint_id              a SPIFFE ID with a path, and not of own
//	web_roots                PEM certificates
func (r Relation) check(own spiffeid.TrustDomain) (*relation, error) {
	td, err := spiffeid.TrustDomainFromString(r.TrustDomain)
	switch {
	case err != nil || td.Name() != r.TrustDomain:
		return nil, refused("federation_trust_domain", fmt.Errorf("%.100q is not the name of a trust domain", r.TrustDomain), "the bare name, for example b.example.org")
	case td == own:
		return nil, refused("federation_trust_domain", fmt.Errorf("%s is this trust domain itself", td), "its bundle is made here, and never fetched")
	case strings.HasPrefix(td.Name(), simulatedPrefix) && !strings.HasPrefix(own.Name(), simulatedPrefix):
		return nil, refused("federation_kind", fmt.Errorf("%s is a trust domain of simulated hardware, %s is not", td, own),
			"its identities stand for no hardware: federate from another simulated trust domain")
	}
	out := &relation{td: td, profile: r.Profile}
	switch r.Profile {
	case ByHand:
		if r.URL != "" {
			return nil, refused("federation_profile", errors.New("a URL without a profile"), "https_web or https_spiffe")
		}
	case Web, SPIFFE:
		if out.url, err = endpointURL(r.URL); err != nil {
			return nil, err
		}
	default:
		return nil, refused("federation_profile", fmt.Errorf("unknown profile %.40q", r.Profile), "https_web or https_spiffe")
	}
	switch {
	case (r.EndpointID != "") != (r.Profile == SPIFFE):
		return nil, refused("federation_profile", errors.New("a SPIFFE ID of the endpoint goes with https_spiffe, and with it alone"), "")
	case len(r.WebRoots) > 0 && r.Profile != Web:
		return nil, refused("federation_profile", errors.New("CAs of the endpoint go with https_web alone"), "")
	}
	if r.Profile == SPIFFE {
		if out.endpoint, err = spiffeid.FromString(r.EndpointID); err != nil || out.endpoint.Path() == "" {
			return nil, refused("endpoint_id", fmt.Errorf("%.200q is not the SPIFFE ID of a server", r.EndpointID), "for example spiffe://"+td.Name()+"/spire/server; of an Assay server spiffe://"+td.Name()+"/assay/bundle")
		}
		if out.endpoint.TrustDomain() == own {
			return nil, refused("endpoint_id", fmt.Errorf("%s is of this trust domain itself", out.endpoint), "the endpoint shows an SVID of its own trust domain, or of another one that is federated")
		}
	}
	if len(r.WebRoots) > 0 {
		if out.roots, err = webRoots(r.WebRoots); err != nil {
			return nil, refused("web_roots", err, "PEM certificates of the CAs above the endpoint's")
		}
	}
	return out, nil
}

// endpointURL: SPIFFE Federation, sections 5.2.1.1 and 5.2.2.1.
func endpointURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	const check, example = "endpoint_url", "for example https://b.example.org/bundle"
	switch {
	case len(s) > maxURL:
		return nil, refused(check, fmt.Errorf("a URL of %d bytes, at most %d", len(s), maxURL), "")
	case err != nil || !utf8.ValidString(s):
		return nil, refused(check, errors.New("not a URL"), example)
	case u.User != nil: // and it is not repeated: it may hold a password
		return nil, refused(check, errors.New("a URL with a user name"), "a bundle endpoint asks nobody who they are; "+example)
	case u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return nil, refused(check, fmt.Errorf("%.200q is not an https URL with a host", s), example)
	case u.Fragment != "":
		return nil, refused(check, errors.New("a URL with a fragment"), example)
	}
	return u, nil
}

func webRoots(raw []byte) (*x509.CertPool, error) {
	if len(raw) > maxWebRoots {
		return nil, fmt.Errorf("more than %d bytes", maxWebRoots)
	}
	pool, n := x509.NewCertPool(), 0
	for rest := raw; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block %.40q, want CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, errors.New("no certificate")
	}
	return pool, nil
}

// refused is what the operator gets to see of settings that cannot be.
func refused(check string, err error, hint string) error {
	return &attest.Error{Kind: attest.Malformed, Check: check, Err: err, Hint: hint}
}
