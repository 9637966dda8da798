package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
)

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
//	member_key      this server's name and its checkpoint key belong together in the database, and to nobody else
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
		case samePublic(member.Key, checkpoint):
			return false, 0, fault("member_key", fmt.Errorf("the checkpoint key is that of the server %s, not of %s", row.Server, m.server),
				"server is fixed for the life of a data directory: mend it in the configuration; for another server use an empty data directory")
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
