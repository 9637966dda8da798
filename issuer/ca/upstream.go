package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Upstream is a CA above the X.509 authorities, which then are intermediates: made
// with its key where that is at hand, by a request that is carried to it
// otherwise. The zero pointer is none: authorities are self-signed.
//
// What relying parties trust is its root only where it is dedicated to this trust
// domain. Otherwise it is our intermediate, because whoever trusts a root trusts
// everything below it for the names of this trust domain.
type Upstream struct {
	chain     []*x509.Certificate // the CA first, then those above it
	signer    crypto.Signer       // nil: by request
	dedicated bool
}

// maxUpstreamChain bounds a chain, with our intermediate and the root.
const maxUpstreamChain = 6

// NewUpstream takes an upstream CA: its certificate, followed by those above it,
// and its private key, or nil where intermediates are asked for by request. The
// checks:
//
//	upstream_chain  each is signed by the one after it
//	upstream_root   a dedicated one is given with its root, which is self-signed
//	upstream_key    the private key is that of the first certificate
func NewUpstream(chain []*x509.Certificate, key crypto.Signer, dedicated bool) (*Upstream, error) {
	if len(chain) == 0 || len(chain) >= maxUpstreamChain {
		return nil, fault("upstream_chain", fmt.Errorf("%d certificates of the upstream CA, want 1 to %d", len(chain), maxUpstreamChain-1), "")
	}
	for i, c := range chain[:len(chain)-1] {
		if err := madeBy(c, chain[i+1]); err != nil {
			return nil, fault("upstream_chain", fmt.Errorf("certificate %d (%q) is not signed by the one after it: %w", i+1, c.Subject, err),
				"write the certificate of the CA first, then the one that signed it, and so on to the root")
		}
	}
	if last := chain[len(chain)-1]; dedicated && madeBy(last, last) != nil {
		return nil, fault("upstream_root", fmt.Errorf("the last certificate (%q) is no root: it is not self-signed", last.Subject),
			"with dedicated: true the root is what relying parties trust: append it to the file")
	}
	if key != nil && !samePublic(chain[0].PublicKey, key.Public()) {
		return nil, fault("upstream_key", fmt.Errorf("the private key is not that of the first certificate (%q)", chain[0].Subject), "name the files of one CA")
	}
	return &Upstream{chain: slices.Clone(chain), signer: key, dedicated: dedicated}, nil
}

// ParseChain reads certificates in PEM, of which there must be one to six, and
// nothing else.
func ParseChain(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	rest := text
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("there is something that is not PEM")
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			return nil, fmt.Errorf("a PEM block %.40q, want CERTIFICATE without headers", block.Type)
		}
		if len(out) == maxUpstreamChain {
			return nil, fmt.Errorf("more than %d certificates", maxUpstreamChain)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return out, nil
}

// Dedicated reports whether the upstream CA signs for this trust domain alone.
func (u *Upstream) Dedicated() bool { return u != nil && u.dedicated }

// Signs reports whether its key is at hand, so that intermediates need no request.
func (u *Upstream) Signs() bool { return u != nil && u.signer != nil }

// ends is when the first of its certificates ends: nothing below it is good any
// longer.
func (u *Upstream) ends() time.Time {
	end := u.chain[0].NotAfter
	for _, c := range u.chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// lasts is nil unless an X.509 authority that is made with its key would end before
// some time. An authority that ends before others know it, and its successor, is
// of no use to anybody, and would be replaced at once by another one like it.
func (u *Upstream) lasts(use store.Use, until time.Time) error {
	if use != store.X509 || !u.Signs() || u.ends().After(until) {
		return nil
	}
	return &attest.Error{
		Kind: attest.Unavailable, Check: "upstream_validity", Err: fmt.Errorf("%w: the upstream CA ends at %s, and no authority below it outlives that", ErrTooEarly, u.ends().Format(time.RFC3339)),
		Hint: "configure the upstream CA's next certificate: authorities.upstream",
	}
}

// anchor is what relying parties trust of an authority's chain: the root of a
// dedicated upstream, otherwise the authority itself.
func (u *Upstream) anchor(chain []*x509.Certificate) *x509.Certificate {
	if u.Dedicated() {
		return chain[len(chain)-1]
	}
	return chain[0]
}

// below is what an SVID brings along between itself and the anchor, DER: the
// authority and those above it up to the root, or nothing where the authority is
// the anchor.
func (u *Upstream) below(chain []*x509.Certificate) [][]byte {
	if !u.Dedicated() {
		return nil
	}
	var out [][]byte
	for _, c := range chain[:len(chain)-1] {
		out = append(out, c.Raw)
	}
	return out
}

// issue makes an intermediate with the upstream's key. It ends, at the latest, with
// the first of those above it. The chain begins with it and ends with the last
// certificate of the upstream, its root if that was given.
func (u *Upstream) issue(t *x509.Certificate, pub crypto.PublicKey, td spiffeid.TrustDomain, now time.Time) ([]*x509.Certificate, error) {
	if !u.Signs() {
		return nil, fault("upstream_key", errors.New("the upstream CA's key is not here"), "carry a request to it: `assay authority csr`, `assay authority import`")
	}
	own := *t
	for _, c := range u.chain {
		if c.NotAfter.Before(own.NotAfter) {
			own.NotAfter = c.NotAfter
		}
		own.NotBefore = later(own.NotBefore, c.NotBefore)
	}
	der, err := x509.CreateCertificate(rand.Reader, &own, u.chain[0], pub, u.signer)
	if err != nil {
		return nil, signing("upstream_sign", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, internal("upstream_sign", err)
	}
	return u.accept([]*x509.Certificate{cert}, pub, td, now)
}

// authorityRequest asks for what the template says, signed with the key that the
// certificate is to hold (PKCS #10, RFC 2986).
func authorityRequest(t *x509.Certificate, key crypto.Signer) ([]byte, error) {
	// crypto/x509 writes a template's extensions only into certificates. One that
	// the key signs for itself, and that nobody will see, is where to take them from.
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, signing("authority_request", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, internal("authority_request", err)
	}
	request := &x509.CertificateRequest{RawSubject: cert.RawSubject}
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidBasicConstraints) || e.Id.Equal(oidKeyUsage) || e.Id.Equal(oidNameConstraints) || e.Id.Equal(oidSAN) {
			request.ExtraExtensions = append(request.ExtraExtensions, e)
		}
	}
	if der, err = x509.CreateCertificateRequest(rand.Reader, request, key); err != nil {
		return nil, signing("authority_request", err)
	}
	return der, nil
}

var oidNameConstraints = []int{2, 5, 29, 30}

// accept checks an intermediate that the upstream made, and completes its chain:
// the intermediate first, then those above it, to the last certificate that was
// configured. given may hold certificates between the intermediate and the
// configured ones. Each check holds for what relying parties will do with SVIDs
// below it, whichever of the certificates they trust:
//
//	upstream_key           it is for this authority's key
//	upstream_chain         it is signed, over those given, by a configured certificate
//	upstream_subject       it has a name and a key identifier, and those above have names, by which chains are found
//	upstream_ca            every one is a CA, and its critical extensions are understood
//	upstream_key_usage     every one may sign certificates
//	upstream_ext_key_usage none restricts what is below to something else than TLS servers and clients
//	upstream_path_length   every one admits as many CAs below it as there are
//	upstream_uri           it names the trust domain, and nothing else by a URI
//	upstream_constraints   no name constraint keeps out the trust domain
//	upstream_validity      every one is valid now, and none above ends before it
func (u *Upstream) accept(given []*x509.Certificate, pub crypto.PublicKey, td spiffeid.TrustDomain, now time.Time) ([]*x509.Certificate, error) {
	if u == nil {
		return nil, fault("upstream_chain", errors.New("no upstream CA is configured"), "set authorities.upstream.certificate")
	}
	if len(given) == 0 {
		return nil, refuse("upstream_chain", "", errors.New("there is no certificate"))
	}
	own := given[0]
	if !samePublic(pub, own.PublicKey) {
		return nil, refuse("upstream_key", "import the certificate that the CA made of the newest request of this authority", fmt.Errorf("the certificate of %q is for another key than this authority's", own.Subject))
	}
	chain, err := u.complete(given)
	if err != nil {
		return nil, err
	}
	for i, c := range chain {
		for _, check := range []func(c *x509.Certificate, below int) error{named, authoritative, signsCertificates, admitsTLS, deepEnough} {
			if err := check(c, i); err != nil {
				return nil, err
			}
		}
		if err := admitsTrustDomain(c, td); err != nil {
			return nil, err
		}
	}
	if len(own.URIs) != 1 || own.URIs[0].String() != td.IDString() {
		return nil, refuse("upstream_uri", "the CA must take the subject alternative name from the request", fmt.Errorf("it names %v, want %s alone", own.URIs, td.IDString()))
	}
	for _, c := range chain {
		if now.Before(c.NotBefore) || !now.Before(c.NotAfter) {
			return nil, refuse("upstream_validity", "", fmt.Errorf("the certificate of %q is valid from %s until %s", c.Subject, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339)))
		}
		if c.NotAfter.Before(own.NotAfter) {
			return nil, refuse("upstream_validity", "ask for one that ends sooner: SVIDs below it would not verify", fmt.Errorf("it ends at %s, and %q above it at %s", own.NotAfter.Format(time.RFC3339), c.Subject, c.NotAfter.Format(time.RFC3339)))
		}
	}
	return chain, nil
}

// refuse is the error of a certificate that the upstream made.
func refuse(check, hint string, err error) error {
	return &attest.Error{Kind: attest.Untrusted, Check: check, Err: fmt.Errorf("the intermediate: %w", err), Hint: hint}
}

// complete finds the way from the intermediate to the configured certificates.
func (u *Upstream) complete(given []*x509.Certificate) ([]*x509.Certificate, error) {
	chain := given[:1:1]
	for len(chain) < maxUpstreamChain {
		last := chain[len(chain)-1]
		for i, c := range u.chain {
			if madeBy(last, c) != nil {
				continue
			}
			chain = append(chain, u.chain[i:]...)
			if len(chain) > maxUpstreamChain {
				return nil, refuse("upstream_chain", "", fmt.Errorf("a chain of %d certificates, want at most %d", len(chain), maxUpstreamChain))
			}
			return chain, nil
		}
		next := slices.IndexFunc(given, func(c *x509.Certificate) bool { return !slices.Contains(chain, c) && madeBy(last, c) == nil })
		if next < 0 {
			break
		}
		chain = append(chain, given[next])
	}
	last := chain[len(chain)-1]
	return nil, refuse("upstream_chain", "import the certificates between it and the configured CA as well, or configure the CA that signed it",
		fmt.Errorf("%q, made by %q, does not lead to the configured CA %q", last.Subject, last.Issuer, u.chain[0].Subject))
}

// madeBy says whether the certificate's issuer is that one, and the signature its.
// What it may sign is for the checks that name it.
func madeBy(c, issuer *x509.Certificate) error {
	if !bytes.Equal(c.RawIssuer, issuer.RawSubject) {
		return fmt.Errorf("its issuer is %q", c.Issuer)
	}
	return issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
}

// named: RFC 5280, 4.1.2.6 and 4.2.1.2, wants both of every CA. Of those above,
// old roots have no key identifier, and SVIDs do not name it.
func named(c *x509.Certificate, below int) error {
	if bytes.Equal(c.RawSubject, []byte{0x30, 0}) {
		return refuse("upstream_subject", "", fmt.Errorf("certificate %d of the chain has no subject", below+1))
	}
	if below == 0 && len(c.SubjectKeyId) == 0 {
		return refuse("upstream_subject", "", fmt.Errorf("the certificate of %q has no subject key identifier", c.Subject))
	}
	return nil
}

func authoritative(c *x509.Certificate, _ int) error {
	switch {
	case c.Version != 3 || !c.BasicConstraintsValid || !c.IsCA:
		return refuse("upstream_ca", "the CA must make a certificate of a subordinate CA: basicConstraints CA:TRUE", fmt.Errorf("the certificate of %q is not a CA's", c.Subject))
	case len(c.UnhandledCriticalExtensions) > 0:
		return refuse("upstream_ca", "relying parties would refuse it", fmt.Errorf("the certificate of %q has critical extensions that are not understood: %v", c.Subject, c.UnhandledCriticalExtensions))
	}
	return nil
}

func signsCertificates(c *x509.Certificate, _ int) error {
	if c.KeyUsage&x509.KeyUsageCertSign == 0 { // X509-SVID 4.3: MUST
		return refuse("upstream_key_usage", "the CA must set keyUsage keyCertSign", fmt.Errorf("the certificate of %q may not sign certificates", c.Subject))
	}
	return nil
}

// admitsTLS: crypto/x509 and others nest extended key usages, beyond RFC 5280.
func admitsTLS(c *x509.Certificate, _ int) error {
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return nil
	}
	return refuse("upstream_ext_key_usage", "the CA must leave extKeyUsage out, or list serverAuth and clientAuth", fmt.Errorf("the extended key usages of %q do not admit those of SVIDs", c.Subject))
}

func deepEnough(c *x509.Certificate, below int) error {
	if c.MaxPathLen < 0 || c.MaxPathLen == 0 && !c.MaxPathLenZero || c.MaxPathLen >= below { // -1: no constraint
		return nil
	}
	return refuse("upstream_path_length", "", fmt.Errorf("the certificate of %q admits a path of %d CAs below it, and there would be %d", c.Subject, c.MaxPathLen, below))
}

// admitsTrustDomain compares the constraints on URIs with the host of SPIFFE IDs.
// Verifiers differ in whether "example.org" covers "a.example.org" in a URI (RFC
// 5280, 4.2.1.10, says that it does not): what some would refuse is refused.
func admitsTrustDomain(c *x509.Certificate, td spiffeid.TrustDomain) error {
	bad := func(format string, args ...any) error {
		return refuse("upstream_constraints", "SVIDs of this trust domain would not verify below it", fmt.Errorf("the name constraints of %q: %w", c.Subject, fmt.Errorf(format, args...)))
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(oidNameConstraints) && !e.Critical {
			return bad("not critical, so that verifiers differ in what they do with them")
		}
	}
	host := td.Name()
	for _, x := range c.ExcludedURIDomains {
		x = strings.ToLower(x)
		if x == "" || host == x || strings.HasSuffix(host, "."+strings.TrimPrefix(x, ".")) {
			return bad("%q is excluded, and with it %s", x, host)
		}
	}
	if len(c.PermittedURIDomains) == 0 {
		return nil
	}
	for _, p := range c.PermittedURIDomains {
		p = strings.ToLower(p)
		if host == p || strings.HasPrefix(p, ".") && strings.HasSuffix(host, p) {
			return nil
		}
	}
	return bad("only %q are permitted, and not %s", c.PermittedURIDomains, host)
}
