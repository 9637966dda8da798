package svidtest

import (
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
)

// Option changes what [Authority.Mint] mints. Without any, it is an ordinary
// enclave: not in debug mode, owned, its image approved, attested just now,
// valid for an hour.
type Option func(*order)

// order is what a mint works from.
type order struct {
	appraisal  svid.Appraisal
	age        time.Duration
	ttl        time.Duration
	key        crypto.Signer
	result     []func(*svid.Result)
	template   []func(*x509.Certificate)
	verifier   crypto.Signer
	unattested bool
	cwt        []byte
}

// PCR sets a register, a SHA-384 digest of 48 bytes, and publishes it.
func PCR(index int, value []byte) Option {
	return func(o *order) {
		o.appraisal.Claims.Nitro.PCRs[index] = value
		o.appraisal.Publish = append(o.appraisal.Publish, fmt.Sprintf("pcr%d", index))
	}
}

// Digest is a plausible register value that is made from a name.
func Digest(name string) []byte {
	sum := sha512.Sum384([]byte("svidtest: " + name))
	return sum[:]
}

// Age says how long before now the evidence was made.
func Age(d time.Duration) Option { return func(o *order) { o.age = d } }

// TTL is how long the SVID is valid.
func TTL(d time.Duration) Option { return func(o *order) { o.ttl = d } }

// Debug puts the enclave into debug mode: PCR0 to PCR2 are zero, and the status
// is contraindicated.
func Debug() Option {
	return func(o *order) {
		o.appraisal.Claims.Nitro.Debug = true
		for i := range 3 {
			o.appraisal.Claims.Nitro.PCRs[i] = make([]byte, sha512.Size384)
		}
	}
}

// Grace says that something was accepted past its date: the status is warning.
func Grace() Option { return func(o *order) { o.appraisal.Grace = true } }

// Unowned says that the policy had no proof of who launched the workload.
func Unowned() Option { return func(o *order) { o.appraisal.Ownership = false } }

// Policy sets "name@revision".
func Policy(policy string) Option { return func(o *order) { o.appraisal.Policy = policy } }

// Attribute adds an attribute.
func Attribute(key, value string) Option {
	return func(o *order) {
		if o.appraisal.Attributes == nil {
			o.appraisal.Attributes = make(map[string]string)
		}
		o.appraisal.Attributes[key] = value
	}
}

// Key sets the SVID's private key.
func Key(key crypto.Signer) Option { return func(o *order) { o.key = key } }

// The options below make what an honest issuer does not.

// Unattested leaves the result out: an ordinary X.509-SVID.
func Unattested() Option { return func(o *order) { o.unattested = true } }

// Result changes the result before it is signed.
func Result(change func(*svid.Result)) Option {
	return func(o *order) { o.result = append(o.result, change) }
}

// Template changes the certificate before it is signed.
func Template(change func(*x509.Certificate)) Option {
	return func(o *order) { o.template = append(o.template, change) }
}

// VerifierKey signs the result with another key.
func VerifierKey(key crypto.Signer) Option { return func(o *order) { o.verifier = key } }

// ResultOf takes over the result of another SVID as it stands.
func ResultOf(t testing.TB, other *x509svid.SVID) Option {
	t.Helper()
	u, err := svid.ResultFrom(other.Certificates[0])
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	return CWT(u.CWT)
}

// CWT puts these bytes in the place of the signed result. They must have a
// result's structure.
func CWT(cwt []byte) Option { return func(o *order) { o.cwt = cwt } }

// Mint issues an attested SVID for a path in the trust domain, which is
// "/orders" or "" for the trust domain's own ID. It can be used as an
// [x509svid.Source].
func (a *Authority) Mint(t testing.TB, path string, options ...Option) *x509svid.SVID {
	t.Helper()
	id := a.TrustDomain.ID()
	if path != "" {
		var err error
		if id, err = spiffeid.FromPath(a.TrustDomain, path); err != nil {
			t.Fatalf("svidtest: %v", err)
		}
	}
	now := a.Now().Truncate(time.Second)
	o := &order{appraisal: a.appraisal(), ttl: time.Hour, verifier: a.verifierKey}
	for _, option := range options {
		option(o)
	}
	if o.key == nil {
		o.key = NewKey(t)
	}
	o.appraisal.Claims.Nitro.Timestamp = now.Add(-o.age)
	template := &x509.Certificate{
		SerialNumber:          serial(t),
		NotBefore:             now.Add(-10 * time.Second),
		NotAfter:              now.Add(o.ttl),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{id.URL()},
	}
	if !o.unattested {
		ext, err := svid.Extension(a.cwt(t, o, id, now))
		if err != nil {
			t.Fatalf("svidtest: %v", err)
		}
		template.ExtraExtensions = append(template.ExtraExtensions, ext)
	}
	for _, change := range o.template {
		change(template)
	}
	cert := create(t, template, a.ca, o.key.Public(), a.caKey)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: o.key}
}

// cwt appraises and signs.
func (a *Authority) cwt(t testing.TB, o *order, id spiffeid.ID, now time.Time) []byte {
	t.Helper()
	if o.cwt != nil {
		return o.cwt
	}
	r, err := svid.Appraise(o.appraisal, id, o.key.Public(), now, now.Add(o.ttl), a.TrustDomain.Name())
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	for _, change := range o.result {
		change(r)
	}
	cwt, err := r.Sign(o.verifier)
	if err != nil {
		t.Fatalf("svidtest: %v", err)
	}
	return cwt
}

func (a *Authority) appraisal() svid.Appraisal {
	return svid.Appraisal{
		Claims: attest.Claims{
			Platform:  attest.AWSNitro,
			Simulated: svid.IsSimulated(a.TrustDomain),
			Nitro: &attest.Nitro{
				ModuleID: "i-svidtest-encsvidtest",
				PCRs: map[int]attest.Bytes{
					0: Digest("image"), 1: Digest("kernel"), 2: Digest("application"), 8: Digest("signer"),
				},
			},
		},
		Policy:         "test@1",
		PolicyDigest:   sha256.Sum256([]byte("svidtest policy")),
		Ownership:      true,
		Pinned:         []string{"pcr0"},
		Publish:        []string{"pcr0", "pcr1", "pcr2", "pcr8"},
		EvidenceDigest: sha256.Sum256([]byte("svidtest evidence")),
		VerifierID:     svid.VerifierID{Developer: "assay-project", Build: "svidtest"},
	}
}
