package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// bootstrapRootTTL is the life of the bootstrap root.
const bootstrapRootTTL = 10 * 365 * 24 * time.Hour

// InitConfig says what to make.
type InitConfig struct {
	DataDir     string // created, mode 0700, where it is missing; its parent must exist
	TrustDomain string // "attested.example.org"
	Simulated   bool   // of simulators; the name then begins with "simulated."
	Server      string // the first server's name: ledger.MainChain
	// Open opens the database that several servers share, when the data directory
	// is there; nil makes an SQLite database in it.
	Open func(context.Context) (store.Store, error)
	Now  func() time.Time
}

// InitReport says what there is now.
type InitReport struct {
	// Existed: the trust domain was there already, and nothing was changed.
	Existed bool
	// The public files, for whoever pins them.
	BootstrapRoot string // path of the certificate
	Fingerprint   string // SHA-256 of its DER, lower-case hex
	VerifierRoot  string // path of the public key
	Checkpoint    string // path of the checkpoint key's text
	// The private keys of the roots, which can be taken offline.
	BootstrapRootKey, VerifierRootKey string
}

// Init makes a trust domain: bootstrap root, verifier root, checkpoint key, the
// database row that says so, and last the endorsement that makes this its first
// server. A crash at any moment leaves a state that Init completes, with the keys
// that are there. Run on a trust domain that exists it changes nothing. The checks:
//
//	init_trust_domain  the name is one, and begins with "simulated." just when it is
//	init_other         the database is not another trust domain's, or of the other kind
//	init_join          a shared database does not have the trust domain from another server
//	init_leftover      there are no issuing keys without their database
//	server_name        the server's name is one
//	member_…           as in endorseSelf
//	data_file, key_…   what is there is complete and closed to others
func Init(ctx context.Context, c InitConfig) (InitReport, error) { return initAt(ctx, c, noStop) }

// stops lets tests end Init and Open after each of their steps, as a killed
// process would.
type stops func(step string) error

func noStop(string) error { return nil }

func initAt(ctx context.Context, c InitConfig, at stops) (InitReport, error) {
	td, err := checkTrustDomain(c.TrustDomain, c.Simulated)
	if err != nil {
		return InitReport{}, err
	}
	if c.Now == nil {
		return InitReport{}, errors.New("ca: InitConfig.Now is required")
	}
	def(&c.Server, ledger.MainChain)
	if err := checkServerName(c.Server); err != nil {
		return InitReport{}, err
	}
	if _, err := keys.MakeDir(c.DataDir); err != nil { // the same rules as for keys
		return InitReport{}, err
	}
	ring, err := keys.MakeDir(KeysPath(c.DataDir))
	if err != nil {
		return InitReport{}, err
	}
	open := c.Open
	if open == nil {
		if _, err := os.Lstat(DatabasePath(c.DataDir)); errors.Is(err, fs.ErrNotExist) {
			if err := checkLeftover(ctx, DatabasePath(c.DataDir), ring); err != nil {
				return InitReport{}, err
			}
		}
		open = func(ctx context.Context) (store.Store, error) {
			return store.OpenSQLite(ctx, DatabasePath(c.DataDir))
		}
	}
	st, err := open(ctx)
	if err != nil {
		return InitReport{}, err
	}
	report, err := initIn(ctx, c, td, ring, st, at)
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return InitReport{}, err
	}
	return report, nil
}

// checkTrustDomain accepts a trust domain name of the right kind.
func checkTrustDomain(name string, simulated bool) (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil || td.Name() != name {
		return td, fault("init_trust_domain", fmt.Errorf("%.140q is not the name of a trust domain", name), "write it without scheme and path, in lower case: attested.example.org")
	}
	if svid.IsSimulated(td) != simulated {
		return td, fault("init_trust_domain", fmt.Errorf("trust domain %s, simulated: %t", name, simulated),
			"simulated trust domains, and no others, have names that begin with "+svid.SimulatedPrefix)
	}
	return td, nil
}

// checkLeftover refuses keys that issued, whose database is gone: a new one
// would pretend that nothing was ever issued.
func checkLeftover(ctx context.Context, database string, ring keys.Ring) error {
	names, err := ring.Names(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, x509Prefix) {
			return fault("init_leftover", fmt.Errorf("there is a key %s, and no database: %s", name, database),
				"restore the database from a backup; for a new trust domain use an empty data directory")
		}
	}
	return nil
}

// initOver says whether the database has the trust domain already, and refuses
// what Init must not touch.
func initOver(ctx context.Context, c InitConfig, ring keys.Ring, st store.Store) (existed bool, err error) {
	rows, err := st.TrustDomains(ctx)
	if err != nil {
		return false, err
	}
	for _, row := range rows {
		if c.Open != nil && row.Name != c.TrustDomain {
			continue // several trust domains may share a database
		}
		if row.Name != c.TrustDomain || row.Simulated != c.Simulated {
			return false, fault("init_other", fmt.Errorf("the database is that of %s (simulated: %t), which is for life", row.Name, row.Simulated),
				"use another data directory, or database, for "+c.TrustDomain)
		}
		existed = true
	}
	if c.Open == nil {
		return existed, nil
	}
	if !existed {
		return false, checkLeftover(ctx, "the shared one does not know "+c.TrustDomain, ring)
	}
	if _, err := os.Lstat(filepath.Join(c.DataDir, bootstrapRootFile)); errors.Is(err, fs.ErrNotExist) {
		return false, fault("init_join", fmt.Errorf("the database has the trust domain %s already", c.TrustDomain),
			"make this one of its servers with `assayd join`, which needs the bootstrap root")
	}
	return true, nil
}

func initIn(ctx context.Context, c InitConfig, td spiffeid.TrustDomain, ring *keys.Dir, st store.Store, at stops) (InitReport, error) {
	existed, err := initOver(ctx, c, ring, st)
	if err != nil {
		return InitReport{}, err
	}
	if !existed {
		if err := makeRoots(ctx, c, td, ring, at); err != nil {
			return InitReport{}, err
		}
		if err := st.InitTrustDomain(ctx, store.TrustDomain{Name: c.TrustDomain, Simulated: c.Simulated, CreatedAt: c.Now()}); err != nil {
			return InitReport{}, err
		}
		if err := at("trust domain row"); err != nil {
			return InitReport{}, err
		}
	}
	// What is there now must be whole, whoever made it.
	cert, err := readCertificate(filepath.Join(c.DataDir, bootstrapRootFile))
	if err != nil {
		return InitReport{}, err
	}
	if _, err := VerifierRootPEM(c.DataDir); err != nil {
		return InitReport{}, err
	}
	if _, err := CheckpointKeyText(c.DataDir); err != nil {
		return InitReport{}, err
	}
	own := membership{td: td, server: c.Server, root: cert, keys: ring, store: st, now: c.Now}
	if err := own.enrol(ctx); err != nil {
		return InitReport{}, err
	}
	if err := at("member row"); err != nil {
		return InitReport{}, err
	}
	sum := sha256.Sum256(cert.Raw)
	return InitReport{
		Existed:          existed,
		BootstrapRoot:    filepath.Join(c.DataDir, bootstrapRootFile),
		Fingerprint:      hex.EncodeToString(sum[:]),
		VerifierRoot:     filepath.Join(c.DataDir, verifierRootFile),
		Checkpoint:       filepath.Join(c.DataDir, checkpointFile),
		BootstrapRootKey: ring.Path(bootstrapRootKey),
		VerifierRootKey:  ring.Path(verifierRootKey),
	}, nil
}

// makeRoots makes the keys of init and their public files, and keeps those that
// an interrupted Init left. Until the trust domain's row exists nobody has seen
// them.
func makeRoots(ctx context.Context, c InitConfig, td spiffeid.TrustDomain, ring *keys.Dir, at stops) error {
	if err := ring.Sweep(); err != nil {
		return err
	}
	for _, k := range []struct {
		name, file string
		alg        keys.Algorithm
		public     func(key crypto.Signer) ([]byte, error)
	}{
		{bootstrapRootKey, bootstrapRootFile, keys.P256, func(key crypto.Signer) ([]byte, error) {
			der, err := bootstrapRoot(td, key, c.Now())
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
		}},
		{verifierRootKey, verifierRootFile, keys.P256, func(key crypto.Signer) ([]byte, error) { return publicPEM(key.Public()) }},
		{checkpointKey, checkpointFile, keys.Ed25519, func(key crypto.Signer) ([]byte, error) {
			k, err := ledger.NewVerifierKey(ledger.ChainName(c.TrustDomain, c.Server), key.Public())
			return []byte(k.String() + "\n"), err
		}},
	} {
		key, err := keys.LoadOrCreate(ring.Path(k.name), true, k.alg)
		if err != nil {
			return err
		}
		if err := at(k.name + " key"); err != nil {
			return err
		}
		body, err := k.public(key)
		if err != nil {
			return err
		}
		if err := keys.WriteFile(filepath.Join(c.DataDir, k.file), body, 0o644, keys.Replace); err != nil {
			return err
		}
		if err := at(k.name + " file"); err != nil {
			return err
		}
	}
	return nil
}

// bootstrapRoot makes the self-signed certificate of the bootstrap root.
func bootstrapRoot(td spiffeid.TrustDomain, key crypto.Signer, now time.Time) ([]byte, error) {
	t := authorityTemplate(td, "Assay bootstrap root", now, bootstrapRootTTL)
	return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
}

// authorityTemplate is a self-signed authority as X509-SVID (section 3.1, 4.1,
// 4.3) wants it: URI SAN of the trust domain, CA, keyCertSign and cRLSign, and
// no authority below it.
func authorityTemplate(td spiffeid.TrustDomain, commonName string, now time.Time, ttl time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          randomSerial(),
		Subject:               pkix.Name{Organization: []string{td.Name()}, CommonName: commonName},
		NotBefore:             now.UTC().Add(-authorityBackdate).Truncate(time.Second),
		NotAfter:              now.UTC().Add(ttl).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{td.ID().URL()},
	}
}

// randomSerial draws a positive serial number of 16 bytes.
func randomSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}
