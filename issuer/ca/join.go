package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
)

// Member is a server of the trust domain, as the bootstrap root says it. What it
// signs with Key (rows of authorities, checkpoints of its chain) others believe.
type Member struct {
	Name string // of its chain, and in its authorities' rows
	Key  ed25519.PublicKey
	// JoinedAt is when its endorsement begins, which the root has signed; a row's
	// own time counts for nothing.
	JoinedAt time.Time
}

// oidTrustAnchorConfigSigning is id-kp-trustAnchorConfigSigning (RFC 9809,
// section 3): what the key signs becomes what others trust. As the one extended
// key usage, and critical, it keeps an endorsement from being taken for a
// server's or a client's TLS certificate, which the same root signs.
var oidTrustAnchorConfigSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 42}

// endorse makes the certificate by which the bootstrap root says that a server of
// that name, with that checkpoint key, belongs to the trust domain. It ends with
// the root.
func endorse(td spiffeid.TrustDomain, server string, key crypto.PublicKey, root *x509.Certificate, signer crypto.Signer, now time.Time) ([]byte, error) {
	if err := checkServerName(server); err != nil {
		return nil, err
	}
	if !keys.Ed25519.Is(key) {
		return nil, fault("endorsement_key", fmt.Errorf("the checkpoint key is a %T, want Ed25519", key), "")
	}
	if !samePublic(root.PublicKey, signer.Public()) {
		return nil, fault("endorsement_root", errors.New("the key is not the bootstrap root's"), "bring the key that belongs to "+bootstrapRootFile)
	}
	// ExtraExtensions, because crypto/x509 writes an extended key usage that is
	// not critical.
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{oidTrustAnchorConfigSigning})
	if err != nil {
		return nil, fault("endorsement", err, "")
	}
	id := spiffeid.RequireFromPath(td, ServerPath)
	t := &x509.Certificate{
		SerialNumber:          randomSerial(),
		Subject:               pkix.Name{Organization: []string{td.Name()}, CommonName: server},
		NotBefore:             later(now.UTC().Add(-maxBackdate), root.NotBefore).Truncate(time.Second),
		NotAfter:              root.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtraExtensions:       []pkix.Extension{{Id: oidExtKeyUsage, Critical: true, Value: usage}},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id.URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, root, key, signer)
	if err != nil {
		return nil, fault("endorsement", err, "")
	}
	if _, err := checkEndorsement(der, td, server, root, now); err != nil {
		return nil, err
	}
	return der, nil
}

// checkEndorsement reads an endorsement of the server with that name, and believes
// nothing but the root's signature. The checks:
//
//	endorsement_der        it is one certificate
//	endorsement_signature  the bootstrap root made it
//	endorsement_validity   it and the root are valid at that time
//	endorsement_usage      it is for a key that signs records: no CA, no TLS
//	endorsement_name       it is for this server of this trust domain
//	endorsement_key        the key is Ed25519
func checkEndorsement(der []byte, td spiffeid.TrustDomain, server string, root *x509.Certificate, at time.Time) (Member, error) {
	bad := func(check, format string, args ...any) (Member, error) {
		return Member{}, &attest.Error{Kind: attest.Untrusted, Check: check, Err: fmt.Errorf("the endorsement of the server %.80q: %w", server, fmt.Errorf(format, args...)),
			Hint: "a server joins with `assayd join`; an endorsement that the bootstrap root did not make was put into the database by somebody else"}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return bad("endorsement_der", "%w", err)
	}
	if !bytes.Equal(cert.RawIssuer, root.RawSubject) {
		return bad("endorsement_signature", "its issuer is %q, not the bootstrap root", cert.Issuer)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return bad("endorsement_signature", "not made by the bootstrap root: %w", err)
	}
	for _, c := range []*x509.Certificate{cert, root} {
		if at.Before(c.NotBefore) || !at.Before(c.NotAfter) {
			return bad("endorsement_validity", "%q is valid from %s until %s", c.Subject.CommonName, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
		}
	}
	if err := checkEndorsementUsage(cert); err != nil {
		return bad("endorsement_usage", "%w", err)
	}
	if cert.Subject.CommonName != server || len(cert.Subject.Organization) != 1 || cert.Subject.Organization[0] != td.Name() {
		return bad("endorsement_name", "it is for %q", cert.Subject)
	}
	if id := spiffeid.RequireFromPath(td, ServerPath).String(); len(cert.URIs) != 1 || cert.URIs[0].String() != id {
		return bad("endorsement_name", "it names %v, want %s alone", cert.URIs, id)
	}
	if err := checkServerName(server); err != nil {
		return bad("endorsement_name", "%w", err)
	}
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return bad("endorsement_key", "its key is a %T, want Ed25519", cert.PublicKey)
	}
	return Member{Name: server, Key: key, JoinedAt: cert.NotBefore}, nil
}

func checkEndorsementUsage(cert *x509.Certificate) error {
	switch {
	case !cert.BasicConstraintsValid || cert.IsCA:
		return errors.New("want basicConstraints, CA:FALSE")
	case cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("want keyUsage digitalSignature alone")
	case len(cert.ExtKeyUsage) != 0 || len(cert.UnknownExtKeyUsage) != 1 || !cert.UnknownExtKeyUsage[0].Equal(oidTrustAnchorConfigSigning):
		return errors.New("want extKeyUsage trustAnchorConfigSigning alone")
	case len(cert.UnhandledCriticalExtensions) != 0:
		return fmt.Errorf("it has critical extensions that mean nothing here: %v", cert.UnhandledCriticalExtensions)
	}
	return nil
}

// maxServerName is as in the configuration: a label of DNS.
const maxServerName = 63

// checkServerName accepts the name of a server.
func checkServerName(name string) error {
	ok := name != "" && len(name) <= maxServerName
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fault("server_name", fmt.Errorf("%.80q is not the name of a server", name), "1 to 63 of a-z, 0-9 and '-'")
	}
	return nil
}

// membership is a server's place among those of its trust domain.
type membership struct {
	td     spiffeid.TrustDomain
	server string
	root   *x509.Certificate // the bootstrap root
	keys   keys.Ring         // with the checkpoint key, and the bootstrap root's where it is online
	store  store.Store
	now    func() time.Time
}

// endorseSelf sees to it that the database has this server as a member. A data
// directory of before there were members gets its endorsement here.
func (c *CA) endorseSelf(ctx context.Context) error {
	m := membership{td: c.td, server: c.cfg.Chain, root: c.bootstrapRoot, keys: c.cfg.Keys, store: c.cfg.Store, now: c.cfg.Now}
	return m.enrol(ctx)
}

// enrol adds the row of this server where it is missing, endorsed with the bootstrap
// root's key. Without that key a trust domain's only server does without a row:
// it has no others to convince. The checks:
//
//	member_key      the row of this name is endorsed for this server's checkpoint key
//	member_root     the other servers in the database are of the same bootstrap root
//	member_missing  there are others, and no endorsement of this one can be made
//	checkpoint_key, bootstrap-root, endorsement_…
func (m membership) enrol(ctx context.Context) error {
	signer, err := CheckpointSigner(ctx, m.keys)
	if err != nil {
		return err
	}
	own, others, err := m.look(ctx, signer.Public())
	if err != nil || own {
		return err
	}
	root, err := m.keys.Get(ctx, bootstrapRootKey)
	if errors.Is(err, fs.ErrNotExist) {
		if others == 0 {
			return nil
		}
		return fault("member_missing", fmt.Errorf("the database has %d other servers, and no endorsement of the server %s", others, m.server),
			"make it with `assayd join`, or bring the bootstrap root's key and start the server once")
	}
	if err != nil {
		return err
	}
	return m.add(ctx, signer.Public(), root)
}

// look finds this server among the members, and counts the others.
func (m membership) look(ctx context.Context, checkpoint crypto.PublicKey) (own bool, others int, err error) {
	state, err := m.store.AuthorityState(ctx, m.td.Name())
	if err != nil {
		return false, 0, err
	}
	foreign := ""
	for _, row := range state.Members {
		member, err := checkEndorsement(row.Endorsement, m.td, row.Server, m.root, m.now())
		switch {
		case row.Server == m.server && err != nil:
			return false, 0, err
		case row.Server == m.server && !samePublic(member.Key, checkpoint):
			return false, 0, fault("member_key", fmt.Errorf("the database has a server %s, with another checkpoint key than this one's", m.server),
				"every server needs a name of its own: mend server in the configuration; or restore checkpoint.key from a backup")
		case row.Server == m.server:
			own = true
		case err != nil:
			foreign = row.Server
		default:
			others++
		}
	}
	// One that the root does not know, among others that it does, is refused by
	// whoever reads its rows. Nobody but those: this is another trust domain of the
	// same name, or somebody's work.
	if foreign != "" && !own && others == 0 {
		return false, 0, fault("member_root", fmt.Errorf("the server %.80q in the database is not of this data directory's bootstrap root", foreign),
			"make this server one of that trust domain with `assayd join`, with an empty data directory")
	}
	return own, others, nil
}

// add endorses the server and stores that.
func (m membership) add(ctx context.Context, checkpoint crypto.PublicKey, root crypto.Signer) error {
	der, err := endorse(m.td, m.server, checkpoint, m.root, root, m.now())
	if err != nil {
		return err
	}
	err = m.store.AddMember(ctx, store.Member{TrustDomain: m.td.Name(), Server: m.server, Endorsement: der, JoinedAt: m.now()})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return err
	}
	// Another process of this name, or of another root, may have been quicker.
	own, _, err := m.look(ctx, checkpoint)
	if err == nil && !own {
		err = fault("member_missing", fmt.Errorf("the endorsement of %s is not in the database", m.server), "start again")
	}
	return err
}
