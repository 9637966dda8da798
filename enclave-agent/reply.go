package agent

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Bounds of what a server may answer.
const (
	maxChain       = 8                   // certificates of one SVID
	maxAuthorities = 64                  // of one bundle
	maxFederated   = 64                  // foreign bundles
	maxLifetime    = 31 * 24 * time.Hour // of one SVID; they are meant to live for an hour
	maxDeadline    = 10 * time.Minute    // of a challenge
	maxSelectors   = 64                  // of one SVID
	maxSelector    = 1024                // bytes of a selector's type, and of its value
	maxHint        = 64                  // bytes
)

// reservedPath begins the SPIFFE IDs that belong to the service itself.
const reservedPath = "/assay"

// replyError is a named check of the server's answer that failed. The server is
// authenticated, so this is its mistake (or a compromise): nothing of the
// answer is used, and what the agent held stays.
func replyError(check, format string, a ...any) error {
	return &attest.Error{
		Kind: attest.Untrusted, Check: check, Err: fmt.Errorf(format, a...),
		Hint: "the server answered with something this agent does not accept; nothing of the answer was used",
	}
}

// demand is a checked Challenge.
type demand struct {
	nonce    attest.Nonce
	time     time.Time     // the server's clock
	lifetime time.Duration // how long the challenge may be answered
	over     PCRSelection  // what to quote; nothing for other platforms than a TPM
}

// checkChallenge checks a Challenge of a server with the given TLS leaf.
func checkChallenge(m *assayv1.AttestResponse, leaf *x509.Certificate) (demand, error) {
	c := m.GetChallenge()
	if c == nil {
		return demand{}, replyError("reply_order", "the server did not send a challenge first")
	}
	if len(c.GetNonce()) != attest.NonceSize || attest.Nonce(c.GetNonce()) == (attest.Nonce{}) {
		return demand{}, replyError("challenge_nonce", "the nonce is not %d random bytes", attest.NonceSize)
	}
	d := demand{nonce: attest.Nonce(c.GetNonce()), time: time.UnixMilli(c.GetTimeUnixMs())}
	// A server whose clock is outside its own certificate's validity would
	// anchor this agent's time somewhere that no certificate vouches for.
	if d.time.Before(leaf.NotBefore) || d.time.After(leaf.NotAfter) {
		return demand{}, replyError("challenge_time", "the server's clock says %s, outside the validity of its own certificate", stamp(d.time))
	}
	d.lifetime = time.UnixMilli(c.GetDeadlineUnixMs()).Sub(d.time)
	if d.lifetime <= 0 || d.lifetime > maxDeadline {
		return demand{}, replyError("challenge_deadline", "the challenge is valid for %s, want up to %s", d.lifetime, maxDeadline)
	}
	return d, nil
}

// checkPCRs checks what a challenge asks a TPM to quote. Registers that can be reset
// while the machine runs are never quoted: nothing they hold could be believed.
func checkPCRs(c *assayv1.Challenge) (PCRSelection, error) {
	if n := len(c.GetPcrs()); n > maxStaticPCR+1 {
		return PCRSelection{}, replyError("challenge_pcrs", "the server asks for %d registers", n)
	}
	over := PCRSelection{Bank: c.GetPcrBank()}
	for _, n := range c.GetPcrs() {
		over.PCRs = append(over.PCRs, int(min(n, 1<<16)))
	}
	if err := over.Check(); err != nil {
		return PCRSelection{}, replyError("challenge_pcrs", "the server asks for a quote that this agent does not make: %w", err)
	}
	return over, nil
}

// issuance is a checked Issued.
type issuance struct {
	svids       []*svid
	bundle      *trustBundle
	renewAfter  time.Time // the agent attests again between the two
	renewBefore time.Time
	more        int
	reference   string
}

// checkIssued checks an Issued for the keys of the request, at the agent's
// time. Either all of it holds or none of it is used.
func checkIssued(m *assayv1.AttestResponse, td spiffeid.TrustDomain, keys []keyRequest, at time.Time) (*issuance, error) {
	is := m.GetIssued()
	if is == nil {
		return nil, replyError("reply_order", "the server did not answer evidence with SVIDs")
	}
	if n := len(is.GetSvids()); n == 0 || n > len(keys) {
		return nil, replyError("issued_count", "%d SVIDs for %d keys", n, len(keys))
	}
	bundle, err := checkBundle(is.GetBundle(), td)
	if err != nil {
		return nil, err
	}
	out := &issuance{bundle: bundle, more: int(min(is.GetMore(), attest.MaxKeys)), reference: clip(is.GetReference())}
	last := -1
	for _, x := range is.GetSvids() {
		k := int(min(x.GetKey(), attest.MaxKeys))
		if k >= len(keys) || k <= last {
			return nil, replyError("issued_key_index", "an SVID for key %d after key %d, of %d keys", x.GetKey(), last, len(keys))
		}
		last = k
		v, err := checkSVID(x, td, keys[k], at)
		if err != nil {
			return nil, err
		}
		out.svids = append(out.svids, v)
	}
	if err := verifySVIDs(out.svids, bundle, at); err != nil {
		return nil, replyError("issued_trust", "an SVID does not chain to the trust bundle it came with: %w", err)
	}
	if err := out.window(is, at); err != nil {
		return nil, err
	}
	return out, nil
}

// checkSVID checks one SVID against the key and the name that were asked for.
func checkSVID(x *assayv1.X509SVID, td spiffeid.TrustDomain, want keyRequest, at time.Time) (*svid, error) {
	chain, der, err := parseChain(x.GetChain())
	if err != nil {
		return nil, replyError("issued_chain", "%w", err)
	}
	leaf := chain[0]
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, want.bound.SPKI) {
		return nil, replyError("issued_key", "the SVID certifies a key that is not this agent's")
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, replyError("issued_leaf", "the certificate is not that of a leaf (X509-SVID, section 4)")
	}
	id, err := checkID(x.GetSpiffeId(), leaf, td)
	if err != nil {
		return nil, replyError("issued_id", "%w", err)
	}
	if want.bound.RequestedID != "" && want.bound.RequestedID != id.String() {
		return nil, replyError("issued_requested_id", "asked for %s, got %s", want.bound.RequestedID, clip(id.String()))
	}
	switch {
	case leaf.NotAfter.UnixMilli() != x.GetNotAfterUnixMs():
		return nil, replyError("issued_validity", "the certificate ends at %s, the answer says %s", stamp(leaf.NotAfter), stamp(time.UnixMilli(x.GetNotAfterUnixMs())))
	case !leaf.NotAfter.After(at), leaf.NotBefore.After(at.Add(MaxDeparture)):
		return nil, replyError("issued_validity", "valid from %s to %s, and it is %s", stamp(leaf.NotBefore), stamp(leaf.NotAfter), stamp(at))
	case leaf.NotAfter.Sub(at) > maxLifetime:
		return nil, replyError("issued_validity", "valid until %s, more than %s", stamp(leaf.NotAfter), maxLifetime)
	}
	if err := checkSelectors(x.GetSelectors()); err != nil {
		return nil, replyError("issued_selectors", "%w", err)
	}
	if err := checkHint(x.GetHint()); err != nil {
		return nil, replyError("issued_hint", "%w", err)
	}
	var keyDER []byte // a key in the hardware has none
	if !isResident(want.signer) {
		if keyDER, err = x509.MarshalPKCS8PrivateKey(want.signer); err != nil {
			return nil, &attest.Error{Kind: attest.Internal, Check: "key", Err: err}
		}
	}
	return &svid{id: id, chain: chain, chainDER: der, key: want.signer, keyDER: keyDER, selectors: x.GetSelectors(), keysOnDisk: x.GetKeysOnDisk(), hint: x.GetHint()}, nil
}

// checkSelectors wants selectors that say something. Types that this agent does
// not know are no mistake: no process matches them.
func checkSelectors(list []*assayv1.Selector) error {
	if len(list) > maxSelectors {
		return fmt.Errorf("%d selectors, at most %d", len(list), maxSelectors)
	}
	for _, s := range list {
		if s.GetType() == "" || s.GetValue() == "" || len(s.GetType()) > maxSelector || len(s.GetValue()) > maxSelector {
			return fmt.Errorf("a selector of type %q without a type or value, or a longer one than %d bytes", clip(s.GetType()), maxSelector)
		}
	}
	return nil
}

// checkHint wants what policies may say: every workload is handed it.
func checkHint(s string) error {
	if len(s) > maxHint || strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) {
		return fmt.Errorf("the hint %q is not %d characters of a-z, 0-9, -, _ and . at most", clip(s), maxHint)
	}
	return nil
}

// checkID wants exactly one URI SAN: the ID that the answer names, a workload's
// in the trust domain.
func checkID(named string, leaf *x509.Certificate, td spiffeid.TrustDomain) (spiffeid.ID, error) {
	if len(leaf.URIs) != 1 {
		return spiffeid.ID{}, fmt.Errorf("the certificate has %d URI names, want 1", len(leaf.URIs))
	}
	id, err := spiffeid.FromURI(leaf.URIs[0])
	switch {
	case err != nil:
		return spiffeid.ID{}, err
	case id.String() != named:
		return spiffeid.ID{}, fmt.Errorf("the certificate is for %s, the answer says %s", clip(id.String()), clip(named))
	case id.TrustDomain() != td:
		return spiffeid.ID{}, fmt.Errorf("%s is not in the trust domain %s", clip(id.String()), td)
	case id.Path() == "":
		return spiffeid.ID{}, fmt.Errorf("%s names a trust domain, not a workload", clip(id.String()))
	case id.Path() == reservedPath || len(id.Path()) > len(reservedPath) && id.Path()[:len(reservedPath)+1] == reservedPath+"/":
		return spiffeid.ID{}, fmt.Errorf("%s is reserved for the service", clip(id.String()))
	}
	return id, nil
}

// checkBundle checks a TrustBundle of the server.
func checkBundle(m *assayv1.TrustBundle, td spiffeid.TrustDomain) (*trustBundle, error) {
	switch {
	case m == nil:
		return nil, replyError("bundle", "there is no trust bundle")
	case m.GetTrustDomain() != td.Name():
		return nil, replyError("bundle_trust_domain", "a bundle of %q, want %q", clip(m.GetTrustDomain()), td.Name())
	case len(m.GetX509Authorities()) == 0 || len(m.GetX509Authorities()) > maxAuthorities:
		return nil, replyError("bundle_authorities", "%d authorities, want 1 to %d", len(m.GetX509Authorities()), maxAuthorities)
	}
	b := &trustBundle{td: td, sequence: m.GetSequence(), revision: m.GetRevision(), verifierKeys: m.GetVerifierKeys(), denyList: m.GetDenyList()}
	if err := b.setAuthorities(m.GetX509Authorities(), m.GetJwtAuthorities()); err != nil {
		return nil, err
	}
	return b, b.setFederated(m.GetFederated())
}

// setAuthorities takes the authorities of one trust domain.
func (b *trustBundle) setAuthorities(list [][]byte, jwks []byte) (err error) {
	for i, der := range list {
		c, err := x509.ParseCertificate(der)
		switch {
		case err != nil:
			return replyError("bundle_authorities", "authority %d: %w", i, err)
		case !c.BasicConstraintsValid || !c.IsCA:
			return replyError("bundle_authorities", "authority %d is no CA certificate", i)
		}
		b.authorities = append(b.authorities, c)
		b.der = append(b.der, der...)
	}
	b.jwt, err = checkJWTAuthorities(jwks, b.td)
	return err
}

// setFederated takes the bundles of other trust domains. That there are as many as
// there may be, each of another trust domain and none of our own, is the server's
// word, and must hold. What is in one comes from elsewhere: one that this agent
// cannot read is left out, so that its trust domain is not trusted, and no foreign
// bundle keeps an agent from its own identity.
func (b *trustBundle) setFederated(list []*assayv1.FederatedBundle) error {
	if len(list) > maxFederated {
		return replyError("bundle_federated", "%d foreign bundles, at most %d", len(list), maxFederated)
	}
	seen := map[spiffeid.TrustDomain]bool{b.td: true}
	for _, m := range list {
		td, err := spiffeid.TrustDomainFromString(m.GetTrustDomain())
		switch {
		case err != nil || td.Name() != m.GetTrustDomain():
			return replyError("bundle_federated", "a foreign bundle of %q, which is not the name of a trust domain", clip(m.GetTrustDomain()))
		case seen[td]:
			return replyError("bundle_federated", "two bundles of %s", td)
		}
		seen[td] = true
		f := &trustBundle{td: td, sequence: m.GetSequence()}
		if n := len(m.GetX509Authorities()); n > maxAuthorities {
			err = fmt.Errorf("%d authorities, at most %d", n, maxAuthorities)
		} else {
			err = f.setAuthorities(m.GetX509Authorities(), m.GetJwtAuthorities())
		}
		if err != nil {
			b.dropped = append(b.dropped, fmt.Sprintf("%s: %s", td, clip(err.Error())))
			continue
		}
		b.federated = append(b.federated, f)
	}
	return nil
}

// verifySVIDs verifies every chain against the bundle's authorities alone.
func verifySVIDs(svids []*svid, b *trustBundle, at time.Time) error {
	roots := b.pool()
	for _, v := range svids {
		between := x509.NewCertPool()
		for _, c := range v.chain[1:] {
			between.AddCert(c)
		}
		// A fresh SVID may begin a moment after the agent's time.
		when := at
		if when.Before(v.chain[0].NotBefore) {
			when = v.chain[0].NotBefore
		}
		if _, err := v.chain[0].Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: when, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		}); err != nil {
			return fmt.Errorf("%s: %w", v.id, err)
		}
	}
	return nil
}

// window takes the time of renewal from the server, and where it gives none
// makes it 45 to 55 % of the shortest lifetime.
func (i *issuance) window(m *assayv1.Issued, at time.Time) error {
	end := i.svids[0].notAfter()
	for _, v := range i.svids[1:] {
		if v.notAfter().Before(end) {
			end = v.notAfter()
		}
	}
	if m.GetRenewAfterUnixMs() == 0 && m.GetRenewBeforeUnixMs() == 0 {
		life := end.Sub(at)
		i.renewAfter, i.renewBefore = at.Add(life*45/100), at.Add(life*55/100)
		return nil
	}
	i.renewAfter, i.renewBefore = time.UnixMilli(m.GetRenewAfterUnixMs()), time.UnixMilli(m.GetRenewBeforeUnixMs())
	if i.renewBefore.Before(i.renewAfter) || !i.renewBefore.Before(end) || !i.renewBefore.After(at) {
		return replyError("issued_renewal", "renewal between %s and %s, now it is %s and an SVID ends at %s",
			stamp(i.renewAfter), stamp(i.renewBefore), stamp(at), stamp(end))
	}
	return nil
}

func parseChain(raw [][]byte) (chain []*x509.Certificate, der []byte, err error) {
	if len(raw) == 0 || len(raw) > maxChain {
		return nil, nil, fmt.Errorf("a chain of %d certificates, want 1 to %d", len(raw), maxChain)
	}
	for i, b := range raw {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		chain, der = append(chain, c), append(der, b...)
	}
	return chain, der, nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
