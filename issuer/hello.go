package issuer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// ProtocolVersion is the version of the protocol that this server speaks. It
// is the first; a later server also speaks the one before its own.
const ProtocolVersion = 1

// maxID is the longest SPIFFE ID, in bytes: what GCP's token exchange takes.
const maxID = 127

// reservedPath belongs to the service itself; no workload is given it.
const reservedPath = "/assay"

// hello is a checked Hello: well formed, and every key proved.
type hello struct {
	platform attest.Platform
	purpose  attest.Purpose
	keys     []attest.BoundKey
}

// checkHello is step 2. Nothing is trusted yet; everything is Malformed but a
// CSR that its own key did not sign. In this order: protocol_version,
// trust_domain, platform, purpose, key_count, then for each key requested_id,
// csr_structure, csr_key_type, csr_signature, duplicate_key.
func (s *Server) checkHello(h *assayv1.Hello) (*hello, error) {
	if v := h.GetVersion(); v != ProtocolVersion {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "protocol_version", Err: errors.New("this server does not speak that version"),
			Expected: fmt.Sprint(ProtocolVersion), Got: fmt.Sprint(v),
		}
	}
	if h.GetTrustDomain() != s.td.Name() {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "trust_domain", Err: errors.New("this server serves another trust domain"),
			Expected: s.td.Name(), Got: fmt.Sprintf("%.64q", h.GetTrustDomain()),
		}
	}
	out := &hello{}
	var err error
	if out.platform, err = s.checkPlatform(h.GetTee()); err != nil {
		return nil, err
	}
	switch h.GetPurpose() {
	case assayv1.Purpose_PURPOSE_BOOT:
		out.purpose = attest.Boot
	case assayv1.Purpose_PURPOSE_RENEW:
		out.purpose = attest.Renew
	case assayv1.Purpose_PURPOSE_UNSPECIFIED:
		fallthrough
	default:
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "purpose", Err: errors.New("no purpose of an attestation"),
			Expected: "boot or renew", Got: fmt.Sprint(int32(h.GetPurpose())),
		}
	}
	if out.keys, err = s.checkKeys(h.GetKeys()); err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) checkPlatform(tee string) (attest.Platform, error) {
	p, err := attest.ParsePlatform(tee)
	if err != nil {
		return "", err
	}
	for _, served := range s.set.Platforms() {
		if p == served {
			return p, nil
		}
	}
	return "", &attest.Error{
		Kind: attest.Malformed, Check: "platform", Err: errors.New("this server does not verify that platform"),
		Expected: fmt.Sprintf("one of %v", s.set.Platforms()), Got: string(p),
	}
}

func (s *Server) checkKeys(reqs []*assayv1.KeyRequest) ([]attest.BoundKey, error) {
	if n := len(reqs); n < 1 || n > attest.MaxKeys {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "key_count", Err: errors.New("wrong number of keys"),
			Expected: fmt.Sprintf("1 to %d", attest.MaxKeys), Got: fmt.Sprint(n),
		}
	}
	keys := make([]attest.BoundKey, len(reqs))
	seen := make(map[string]int, len(reqs))
	for i, r := range reqs {
		if err := s.checkRequestedID(r.GetRequestedId()); err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		spki, err := keyFromCSR(r.GetCsr())
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		if first, dup := seen[string(spki)]; dup {
			return nil, &attest.Error{
				Kind: attest.Malformed, Check: "duplicate_key",
				Err: fmt.Errorf("requests %d and %d are for the same key: no two SVIDs share one", first, i),
			}
		}
		seen[string(spki)] = i
		keys[i] = attest.BoundKey{SPKI: spki, RequestedID: r.GetRequestedId()}
	}
	return keys, nil
}

// checkRequestedID checks the form only. Whether policy grants the ID is
// policy's to say, and it says so without telling which IDs exist.
func (s *Server) checkRequestedID(id string) error {
	if id == "" {
		return nil
	}
	fail := func(err error) error {
		return &attest.Error{Kind: attest.Malformed, Check: "requested_id", Err: err, Got: fmt.Sprintf("%.64q", id)}
	}
	if len(id) > maxID {
		return fail(fmt.Errorf("a SPIFFE ID of %d bytes, at most %d are issued", len(id), maxID))
	}
	parsed, err := spiffeid.FromString(id)
	switch {
	case err != nil:
		return fail(err)
	case !parsed.MemberOf(s.td):
		return fail(errors.New("a SPIFFE ID of another trust domain"))
	case parsed.Path() == "":
		return fail(errors.New("a SPIFFE ID without a path"))
	case parsed.Path() == reservedPath || strings.HasPrefix(parsed.Path(), reservedPath+"/"):
		return fail(errors.New("a SPIFFE ID of the service itself"))
	}
	return nil
}
