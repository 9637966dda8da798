package sds

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The names with a meaning of their own.
const (
	Default = "default"
	RootCA  = "ROOTCA"
	All     = "ALL"
)

// SVID is an X.509-SVID with its key.
type SVID struct {
	ID    string              // "spiffe://example.org/api"
	Chain []*x509.Certificate // leaf first
	Key   []byte              // PKCS#8, DER
}

// Secrets is what one caller may have now.
type Secrets struct {
	TrustDomain string // whose Default and RootCA are, also while it has nothing: "example.org"
	SVIDs       []SVID
	Bundles     map[string][]*x509.Certificate // by trust domain
}

// secrets makes Envoy's messages of the names, in their order; no names is all
// that there is. What is not there is left out.
func (s *Secrets) secrets(names []string) ([]*tls.Secret, error) {
	if len(names) == 0 {
		for _, v := range s.SVIDs {
			names = append(names, v.ID)
		}
		for _, td := range s.trustDomains() {
			names = append(names, "spiffe://"+td)
		}
	}
	var out []*tls.Secret
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		x, err := s.secret(name)
		if err != nil {
			return nil, fmt.Errorf("%.140q: %w", name, err)
		}
		if x != nil {
			out = append(out, x)
		}
	}
	return out, nil
}

func (s *Secrets) trustDomains() []string {
	out := make([]string, 0, len(s.Bundles))
	for td := range s.Bundles {
		out = append(out, td)
	}
	slices.Sort(out)
	return out
}

// secret is what a name means now; nil is nothing.
func (s *Secrets) secret(name string) (*tls.Secret, error) {
	switch name {
	case All:
		return s.validator()
	case RootCA:
		return bundle(name, s.Bundles[s.TrustDomain]), nil
	case Default:
		for _, v := range s.SVIDs {
			if strings.HasPrefix(v.ID, "spiffe://"+s.TrustDomain+"/") {
				return certificate(name, v), nil
			}
		}
		return nil, nil //nolint:nilnil // nothing is an answer
	}
	if td, ok := strings.CutPrefix(name, "spiffe://"); ok && !strings.Contains(td, "/") {
		return bundle(name, s.Bundles[td]), nil
	}
	for _, v := range s.SVIDs {
		if v.ID == name {
			return certificate(name, v), nil
		}
	}
	return nil, nil //nolint:nilnil // nothing is an answer
}

func certificate(name string, v SVID) *tls.Secret {
	return &tls.Secret{Name: name, Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{
		CertificateChain: inline(certificates(v.Chain)),
		PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: v.Key})),
	}}}
}

// bundle is a trust domain's authorities. Without any there is no secret: an
// empty list of authorities would be for Envoy to interpret.
func bundle(name string, authorities []*x509.Certificate) *tls.Secret {
	if len(authorities) == 0 {
		return nil
	}
	return &tls.Secret{Name: name, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
		TrustedCa: inline(certificates(authorities)),
	}}}
}

// spiffeValidator is the name of Envoy's extension.
const spiffeValidator = "envoy.tls.cert_validator.spiffe"

// validator has Envoy check each peer with the bundle of the trust domain that its
// SPIFFE ID names: authorities of one never vouch for names of another.
func (s *Secrets) validator() (*tls.Secret, error) {
	cfg := &tls.SPIFFECertValidatorConfig{}
	for _, td := range s.trustDomains() {
		if len(s.Bundles[td]) == 0 {
			continue
		}
		cfg.TrustDomains = append(cfg.TrustDomains, &tls.SPIFFECertValidatorConfig_TrustDomain{Name: td, TrustBundle: inline(certificates(s.Bundles[td]))})
	}
	if len(cfg.TrustDomains) == 0 {
		return nil, nil //nolint:nilnil // nothing is an answer
	}
	packed, err := pack(cfg)
	if err != nil {
		return nil, err
	}
	return &tls.Secret{Name: All, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
		CustomValidatorConfig: &core.TypedExtensionConfig{Name: spiffeValidator, TypedConfig: packed},
	}}}, nil
}

func inline(b []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
}

func certificates(list []*x509.Certificate) []byte {
	var out []byte
	for _, c := range list {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// pack is deterministic: what did not change has the same bytes, and the same
// version.
func pack(m proto.Message) (*anypb.Any, error) {
	out := &anypb.Any{}
	err := anypb.MarshalFrom(out, m, proto.MarshalOptions{Deterministic: true})
	return out, err
}

// version names a content. It says nothing of keys: half of a digest over all.
func version(resources []*anypb.Any) string {
	h := sha256.New()
	for _, r := range resources {
		_, _ = fmt.Fprintf(h, "%d:", len(r.GetValue()))
		_, _ = h.Write(r.GetValue())
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
