package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// JoinConfig says which server joins which trust domain.
type JoinConfig struct {
	DataDir string // of the new server; created, mode 0700, where it is missing
	// From has the public files of the roots, and the bootstrap root's key: another
	// server's data directory, or what was taken offline. Keys are in it or in its
	// directory "keys".
	From   string
	Server string // the new server's name
	// Open opens the database that the servers share, when the data directory is
	// there.
	Open func(context.Context) (store.Store, error)
	// CopyRootKeys keeps the keys of the roots that From holds, so that this server
	// renews by itself what they sign. Otherwise they are used, and not kept.
	CopyRootKeys bool
	ServerTTL    time.Duration // of the server's TLS certificate: 7 days
	Now          func() time.Time
}

// JoinReport says what there is now.
type JoinReport struct {
	Existed       bool // the server was a member already
	TrustDomain   string
	Simulated     bool
	BootstrapRoot string   // path of the certificate
	Fingerprint   string   // SHA-256 of its DER, lower-case hex
	VerifierRoot  string   // path of the public key
	Checkpoint    string   // path of the checkpoint key's text
	Copied        []string // keys of roots that are here now
	Others        []string // the other servers, sorted
}

// TrustDomainOf reads which trust domain a directory with the roots' public files
// belongs to.
func TrustDomainOf(dir string) (name string, simulated bool, err error) {
	r, err := readRoots(dir)
	if err != nil {
		return "", false, err
	}
	return r.td.Name(), svid.IsSimulated(r.td), nil
}

// roots are the public files of a trust domain's roots.
type roots struct {
	td          spiffeid.TrustDomain
	bootstrap   *x509.Certificate
	verifierKey *ecdsa.PublicKey
}

func readRoots(dir string) (*roots, error) {
	cert, err := readCertificate(filepath.Join(dir, bootstrapRootFile))
	if err != nil {
		return nil, err
	}
	bad := func(err error) (*roots, error) {
		return nil, fault("join_from", fmt.Errorf("%s: %w", filepath.Join(dir, bootstrapRootFile), err), "--from is the data directory of another server, or a copy of its roots' files")
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return bad(fmt.Errorf("not a root: %w", err))
	}
	if len(cert.URIs) != 1 {
		return bad(fmt.Errorf("it names %d trust domains", len(cert.URIs)))
	}
	id, err := spiffeid.FromURI(cert.URIs[0])
	if err != nil || id.Path() != "" {
		return bad(fmt.Errorf("%q is not the ID of a trust domain", cert.URIs[0]))
	}
	verifier, err := readPublicKey(filepath.Join(dir, verifierRootFile))
	if err != nil {
		return nil, err
	}
	return &roots{td: id.TrustDomain(), bootstrap: cert, verifierKey: verifier}, nil
}

// Join makes a server of a trust domain that others serve already: its checkpoint
// key, the endorsement of that key and a TLS certificate, both by the bootstrap
// root, and last the row that makes it a member. A crash at any moment leaves a
// state that Join completes; run again it changes nothing. The checks:
//
//	join_from          From has the public files of the roots of one trust domain
//	join_root_key      and the bootstrap root's key
//	join_trust_domain  the database serves it
//	join_stranger      the database has a server that this root endorsed
//	join_other         the data directory is not another trust domain's
//	server_name, member_…, endorsement_…, key_…, data_file
func Join(ctx context.Context, c JoinConfig) (JoinReport, error) { return joinAt(ctx, c, noStop) }

func joinAt(ctx context.Context, c JoinConfig, at stops) (_ JoinReport, err error) {
	if c.Now == nil || c.Open == nil {
		return JoinReport{}, errors.New("ca: JoinConfig.Now and Open are required")
	}
	def(&c.ServerTTL, 7*24*time.Hour)
	if err := checkServerName(c.Server); err != nil {
		return JoinReport{}, err
	}
	from, err := readRoots(c.From)
	if err != nil {
		return JoinReport{}, err
	}
	online, err := from.keys(c.From)
	if err != nil {
		return JoinReport{}, err
	}
	if _, err := keys.MakeDir(c.DataDir); err != nil {
		return JoinReport{}, err
	}
	ring, err := keys.MakeDir(KeysPath(c.DataDir))
	if err != nil {
		return JoinReport{}, err
	}
	st, err := c.Open(ctx)
	if err != nil {
		return JoinReport{}, err
	}
	defer func() {
		if cerr := st.Close(); err == nil {
			err = cerr
		}
	}()
	j := joining{JoinConfig: c, roots: from, online: online, ring: ring, st: st}
	return j.join(ctx, at)
}

// joining is one Join.
type joining struct {
	JoinConfig
	roots  *roots
	online map[string]crypto.Signer // the keys of roots that are in From
	ring   *keys.Dir
	st     store.Store
}

func (j *joining) join(ctx context.Context, at stops) (JoinReport, error) {
	if err := j.checkDatabase(ctx); err != nil {
		return JoinReport{}, err
	}
	if err := j.publicFiles(at); err != nil {
		return JoinReport{}, err
	}
	if err := j.ring.Sweep(); err != nil {
		return JoinReport{}, err
	}
	key, err := keys.LoadOrCreate(j.ring.Path(checkpointKey), true, keys.Ed25519)
	if err != nil {
		return JoinReport{}, err
	}
	if err := at("checkpoint key"); err != nil {
		return JoinReport{}, err
	}
	m := membership{td: j.roots.td, server: j.Server, root: j.roots.bootstrap, keys: j.ring, store: j.st, now: j.Now}
	existed, _, err := m.look(ctx, key.Public())
	if err != nil {
		return JoinReport{}, err
	}
	text, err := ledger.NewVerifierKey(ledger.ChainName(j.roots.td.Name(), j.Server), key.Public())
	if err != nil {
		return JoinReport{}, fault("checkpoint_key", err, "")
	}
	if err := keys.WriteFile(filepath.Join(j.DataDir, checkpointFile), []byte(text.String()+"\n"), 0o644, keys.Replace); err != nil {
		return JoinReport{}, err
	}
	if err := j.serverCertificate(ctx, at); err != nil {
		return JoinReport{}, err
	}
	copied, err := j.copyRootKeys()
	if err != nil {
		return JoinReport{}, err
	}
	if err := at("root keys"); err != nil {
		return JoinReport{}, err
	}
	// The row comes last: until it is there, nobody hears of this server.
	if !existed {
		if err := m.add(ctx, key.Public(), j.online[bootstrapRootKey]); err != nil {
			return JoinReport{}, err
		}
	}
	if err := at("member row"); err != nil {
		return JoinReport{}, err
	}
	others, err := j.endorsed(ctx)
	if err != nil {
		return JoinReport{}, err
	}
	others = slices.DeleteFunc(others, func(name string) bool { return name == j.Server })
	sum := sha256.Sum256(j.roots.bootstrap.Raw)
	return JoinReport{
		Existed: existed, TrustDomain: j.roots.td.Name(), Simulated: svid.IsSimulated(j.roots.td),
		BootstrapRoot: filepath.Join(j.DataDir, bootstrapRootFile), Fingerprint: hex.EncodeToString(sum[:]),
		VerifierRoot: filepath.Join(j.DataDir, verifierRootFile), Checkpoint: filepath.Join(j.DataDir, checkpointFile),
		Copied: copied, Others: others,
	}, nil
}

// keys reads the keys of the roots that a directory holds: the bootstrap root's
// must be there.
func (r *roots) keys(dir string) (map[string]crypto.Signer, error) {
	out := map[string]crypto.Signer{}
	for name, public := range map[string]crypto.PublicKey{bootstrapRootKey: r.bootstrap.PublicKey, verifierRootKey: r.verifierKey} {
		for _, d := range []string{KeysPath(dir), dir} {
			key, err := keys.ReadKey(filepath.Join(d, name+".key"))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if !samePublic(public, key.Public()) {
				return nil, fault("join_root_key", fmt.Errorf("the key %s.key in %s is not that of %s.pem", name, d, name), "bring the files of one trust domain")
			}
			out[name] = key
			break
		}
	}
	if out[bootstrapRootKey] == nil {
		return nil, fault("join_root_key", fmt.Errorf("neither %s nor its directory %s holds %s.key", dir, keysDir, bootstrapRootKey),
			"bring the bootstrap root's key for the joining; it is not kept unless you say --copy-root-keys")
	}
	return out, nil
}

func (j *joining) checkDatabase(ctx context.Context) error {
	name := j.roots.td.Name()
	row, err := j.st.TrustDomain(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return fault("join_trust_domain", fmt.Errorf("the database does not serve %s", name), "check the database's URL; `assayd init` makes the first server of a trust domain")
	}
	if err != nil {
		return err
	}
	if row.Simulated != svid.IsSimulated(j.roots.td) {
		return fault("join_trust_domain", fmt.Errorf("in the database %s is simulated: %t", name, row.Simulated), "check the database's URL")
	}
	servers, err := j.endorsed(ctx)
	if err != nil {
		return err
	}
	if len(servers) == 0 {
		return fault("join_stranger", fmt.Errorf("no server of %s in the database is endorsed by this bootstrap root", name),
			"bring the files of the trust domain's own bootstrap root; a first server of before there were several is endorsed when it is started once with that key")
	}
	return nil
}

// endorsed lists the members that the root endorsed.
func (j *joining) endorsed(ctx context.Context) ([]string, error) {
	state, err := j.st.AuthorityState(ctx, j.roots.td.Name())
	if err != nil {
		return nil, err
	}
	var out []string
	for _, row := range state.Members {
		if _, err := checkEndorsement(row.Endorsement, j.roots.td, row.Server, j.roots.bootstrap, j.Now()); err == nil {
			out = append(out, row.Server)
		}
	}
	slices.Sort(out)
	return out, nil
}

// publicFiles copies what others pin. A directory that has other roots is
// another trust domain's.
func (j *joining) publicFiles(at stops) error {
	if _, err := os.Lstat(DatabasePath(j.DataDir)); !errors.Is(err, fs.ErrNotExist) {
		return fault("join_other", fmt.Errorf("%s holds a database: it is that of a server of its own", j.DataDir), "choose an empty data directory")
	}
	verifier, err := publicPEM(j.roots.verifierKey)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		body []byte
	}{
		{bootstrapRootFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: j.roots.bootstrap.Raw})},
		{verifierRootFile, verifier},
	} {
		path := filepath.Join(j.DataDir, f.name)
		old, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(old, f.body) {
			return fault("join_other", fmt.Errorf("%s is there already, and another trust domain's", path), "choose an empty data directory")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return lost(path, err)
		}
		if err := keys.WriteFile(path, f.body, 0o644, keys.Replace); err != nil {
			return err
		}
		if err := at(f.name); err != nil {
			return err
		}
	}
	return nil
}

// serverCertificate makes the server's first TLS certificate, while the root's key
// is here.
func (j *joining) serverCertificate(ctx context.Context, at stops) error {
	c := &CA{
		cfg: Config{DataDir: j.DataDir, Keys: onlineRing{j.ring, j.online}, Now: j.Now, ServerTTL: j.ServerTTL},
		log: slog.New(slog.DiscardHandler), td: j.roots.td, bootstrapRoot: j.roots.bootstrap,
	}
	return c.renewServer(ctx, at, func(string, ...any) {})
}

// copyRootKeys keeps the keys of the roots, where that was asked for.
func (j *joining) copyRootKeys() ([]string, error) {
	if !j.CopyRootKeys {
		return nil, nil
	}
	var out []string
	for _, name := range []string{bootstrapRootKey, verifierRootKey} {
		key, ok := j.online[name]
		if !ok {
			continue
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fault("join_root_key", err, "")
		}
		err = keys.WriteFile(j.ring.Path(name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600, keys.Refuse)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		out = append(out, j.ring.Path(name))
	}
	return out, nil
}

// onlineRing has the keys of roots beside those of a directory, without keeping
// them there.
type onlineRing struct {
	keys.Ring
	roots map[string]crypto.Signer
}

func (r onlineRing) Get(ctx context.Context, name string) (crypto.Signer, error) {
	if key, ok := r.roots[name]; ok {
		return key, nil
	}
	return r.Ring.Get(ctx, name)
}
