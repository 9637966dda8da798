package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/issuer/store"
)

// TPMBinding implements [store.TPMStore].
func (s *Store) TPMBinding(ctx context.Context, trustDomain string, ek [32]byte) (store.TPMBinding, error) {
	return one(query(ctx, s, `SELECT trust_domain, ek, ak, has_clock, reset, restart, at FROM tpm_bindings WHERE trust_domain = $1 AND ek = $2`,
		[]any{trustDomain, ek[:]}, func(scan func(...any) error) (b store.TPMBinding, err error) {
			var sum []byte
			var at int64
			err = scan(&b.TrustDomain, &sum, &b.AK, &b.HasClock, &b.Reset, &b.Restart, &at)
			b.EK, b.At = fixed(sum), when(at)
			return b, err
		}))
}

// PutTPMBinding implements [store.TPMStore]. It reads nothing that it then
// depends on but the bound, which is kept now and then, so that READ COMMITTED is
// enough.
func (s *Store) PutTPMBinding(ctx context.Context, b store.TPMBinding) error {
	return s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		var added bool // and not in place of one: such a row has no xmax
		err := tx.QueryRow(ctx, `INSERT INTO tpm_bindings (trust_domain, ek, ak, has_clock, reset, restart, at) VALUES ($1,$2,$3,$4,$5,$6,$7)
			ON CONFLICT (trust_domain, ek) DO UPDATE SET ak = excluded.ak, has_clock = excluded.has_clock,
			reset = excluded.reset, restart = excluded.restart, at = excluded.at RETURNING xmax = 0`,
			b.TrustDomain, b.EK[:], nonNil(b.AK), b.HasClock, int64(b.Reset), int64(b.Restart), micros(b.At)).Scan(&added)
		if err != nil {
			return fmt.Errorf("store: TPM binding: %w", err)
		}
		if added && s.bindingsAdded.Add(1)%tpmPruneEvery == 1 {
			_, err = tx.Exec(ctx, `DELETE FROM tpm_bindings WHERE trust_domain = $1 AND ek IN (SELECT ek FROM tpm_bindings b
				WHERE trust_domain = $1 AND NOT EXISTS (SELECT 1 FROM tpm_inventory i WHERE i.trust_domain = b.trust_domain AND i.ek = b.ek)
				ORDER BY at LIMIT greatest(0, (SELECT count(*) FROM tpm_bindings WHERE trust_domain = $1) -
					(SELECT count(*) FROM tpm_inventory WHERE trust_domain = $1) - $2::bigint))`, b.TrustDomain, store.MaxTPMBindings)
			if err != nil {
				return fmt.Errorf("store: TPM binding: %w", err)
			}
		}
		return changed(ctx, tx, b.TrustDomain, store.TopicBindings, hex.EncodeToString(b.EK[:]))
	})
}

// tpmPruneEvery is how many new bindings of this server there are between two that
// make room, as with SQLite: counting the others takes longer than all the rest.
// The first after a start is one of them.
const tpmPruneEvery = 1000

// DeleteTPMBinding implements [store.TPMStore].
func (s *Store) DeleteTPMBinding(ctx context.Context, trustDomain string, ek [32]byte) error {
	return s.write(ctx, pgx.ReadCommitted, func(ctx context.Context, tx pgx.Tx) error {
		gone, err := deleteBinding(ctx, tx, trustDomain, ek)
		if err != nil || !gone {
			return err
		}
		return changed(ctx, tx, trustDomain, store.TopicBindings, hex.EncodeToString(ek[:]))
	})
}

func deleteBinding(ctx context.Context, tx pgx.Tx, trustDomain string, ek [32]byte) (gone bool, err error) {
	tag, err := tx.Exec(ctx, `DELETE FROM tpm_bindings WHERE trust_domain = $1 AND ek = $2`, trustDomain, ek[:])
	if err != nil {
		return false, fmt.Errorf("store: TPM binding: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// TPMInventory implements [store.TPMStore].
func (s *Store) TPMInventory(ctx context.Context, trustDomain string) ([]store.TPMEntry, error) {
	return query(ctx, s, `SELECT i.trust_domain, i.ek, i.name, i.note, i.added_at, b.at FROM tpm_inventory i
		LEFT JOIN tpm_bindings b ON b.trust_domain = i.trust_domain AND b.ek = i.ek
		WHERE i.trust_domain = $1 ORDER BY i.name, i.ek`, []any{trustDomain}, func(scan func(...any) error) (e store.TPMEntry, err error) {
		var sum []byte
		var added int64
		var bound *int64
		err = scan(&e.TrustDomain, &sum, &e.Group, &e.Note, &added, &bound)
		e.EK, e.AddedAt = fixed(sum), when(added)
		if bound != nil {
			e.ActivatedAt = when(*bound)
		}
		return e, err
	})
}

// PutTPMs implements [store.TPMStore].
func (s *Store) PutTPMs(ctx context.Context, entries []store.TPMEntry, replace bool) (added, replaced int, err error) {
	err = s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		added, replaced = 0, 0
		var taken []string
		domains := map[string]bool{}
		for _, e := range entries {
			var group, note string
			err := tx.QueryRow(ctx, `SELECT name, note FROM tpm_inventory WHERE trust_domain = $1 AND ek = $2`, e.TrustDomain, e.EK[:]).Scan(&group, &note)
			switch {
			case err == nil && group == e.Group && note == text(e.Note):
				continue
			case err == nil && !replace:
				taken = append(taken, fmt.Sprintf("%x is in group %s", e.EK, group))
				continue
			case err == nil:
				replaced++
			case errors.Is(err, pgx.ErrNoRows):
				added++
			default:
				return fmt.Errorf("store: TPM inventory: %w", err)
			}
			// When it was added stays: only group and note are replaced.
			_, err = tx.Exec(ctx, `INSERT INTO tpm_inventory (trust_domain, ek, name, note, added_at) VALUES ($1,$2,$3,$4,$5)
				ON CONFLICT (trust_domain, ek) DO UPDATE SET name = excluded.name, note = excluded.note`,
				e.TrustDomain, e.EK[:], e.Group, text(e.Note), micros(e.AddedAt))
			if err != nil {
				return fmt.Errorf("store: TPM inventory: %w", err)
			}
			domains[e.TrustDomain] = true
		}
		if err := keysError(store.ErrConflict, taken); err != nil {
			return err
		}
		for td := range domains {
			if err := changed(ctx, tx, td, store.TopicInventory, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return added, replaced, nil
}

// DeleteTPMs implements [store.TPMStore].
func (s *Store) DeleteTPMs(ctx context.Context, trustDomain string, eks [][32]byte) error {
	return s.write(ctx, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) error {
		var missing []string
		for _, ek := range eks {
			tag, err := tx.Exec(ctx, `DELETE FROM tpm_inventory WHERE trust_domain = $1 AND ek = $2`, trustDomain, ek[:])
			if err != nil {
				return fmt.Errorf("store: TPM inventory: %w", err)
			}
			if tag.RowsAffected() == 0 {
				missing = append(missing, fmt.Sprintf("%x is not in the inventory", ek))
				continue
			}
			if _, err := deleteBinding(ctx, tx, trustDomain, ek); err != nil {
				return err
			}
		}
		if err := keysError(store.ErrNotFound, missing); err != nil {
			return err
		}
		for _, topic := range []store.Topic{store.TopicInventory, store.TopicBindings} {
			if err := changed(ctx, tx, trustDomain, topic, ""); err != nil {
				return err
			}
		}
		return nil
	})
}

// keysError names all keys that stand in the way, up to a number that can be
// read.
func keysError(kind error, what []string) error {
	const most = 20
	if len(what) == 0 {
		return nil
	}
	list := strings.Join(what[:min(len(what), most)], "; ")
	if len(what) > most {
		list += fmt.Sprintf("; and %d more", len(what)-most)
	}
	return fmt.Errorf("%w: %s", kind, list)
}
