package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// TPMBinding implements [TPMStore].
func (s *SQLite) TPMBinding(ctx context.Context, trustDomain string, ek [32]byte) (TPMBinding, error) {
	return one(query(ctx, s.r, `SELECT trust_domain, ek, ak, has_clock, reset, restart, at FROM tpm_bindings WHERE trust_domain = ? AND ek = ?`,
		[]any{trustDomain, ek[:]}, func(scan func(...any) error) (b TPMBinding, err error) {
			var sum []byte
			var at int64
			err = scan(&b.TrustDomain, &sum, &b.AK, &b.HasClock, &b.Reset, &b.Restart, &at)
			b.EK, b.At = fixed(sum), when(at)
			return b, err
		}))
}

// PutTPMBinding implements [TPMStore].
func (s *SQLite) PutTPMBinding(ctx context.Context, b TPMBinding) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE tpm_bindings SET ak = ?, has_clock = ?, reset = ?, restart = ?, at = ? WHERE trust_domain = ? AND ek = ?`,
			nonNil(b.AK), b.HasClock, int64(b.Reset), int64(b.Restart), micros(b.At), b.TrustDomain, b.EK[:])
		if err != nil {
			return fmt.Errorf("store: TPM binding: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tpm_bindings (trust_domain, ek, ak, has_clock, reset, restart, at) VALUES (?,?,?,?,?,?,?)`,
			b.TrustDomain, b.EK[:], nonNil(b.AK), b.HasClock, int64(b.Reset), int64(b.Restart), micros(b.At))
		if err != nil {
			return fmt.Errorf("store: TPM binding: %w", err)
		}
		if s.bindingsAdded.Add(1)%tpmPruneEvery != 1 {
			return nil
		}
		return pruneBindings(ctx, tx, b.TrustDomain)
	})
}

// tpmPruneEvery is how many new bindings there are between two that make room:
// counting the others takes longer than all the rest, in the one writer that every
// issuance waits for. The first after a start is one of them.
const tpmPruneEvery = 1000

func pruneBindings(ctx context.Context, tx *sql.Tx, trustDomain string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM tpm_bindings WHERE trust_domain = ?1 AND ek IN (SELECT ek FROM tpm_bindings b
		WHERE trust_domain = ?1 AND NOT EXISTS (SELECT 1 FROM tpm_inventory i WHERE i.trust_domain = b.trust_domain AND i.ek = b.ek)
		ORDER BY at LIMIT max(0, (SELECT count(*) FROM tpm_bindings WHERE trust_domain = ?1) -
			(SELECT count(*) FROM tpm_inventory WHERE trust_domain = ?1) - ?2))`, trustDomain, MaxTPMBindings)
	if err != nil {
		return fmt.Errorf("store: TPM binding: %w", err)
	}
	return nil
}

// DeleteTPMBinding implements [TPMStore].
func (s *SQLite) DeleteTPMBinding(ctx context.Context, trustDomain string, ek [32]byte) error {
	return s.write(ctx, func(tx *sql.Tx) error { return deleteBinding(ctx, tx, trustDomain, ek) })
}

func deleteBinding(ctx context.Context, tx *sql.Tx, trustDomain string, ek [32]byte) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM tpm_bindings WHERE trust_domain = ? AND ek = ?`, trustDomain, ek[:]); err != nil {
		return fmt.Errorf("store: TPM binding: %w", err)
	}
	return nil
}

// TPMInventory implements [TPMStore].
func (s *SQLite) TPMInventory(ctx context.Context, trustDomain string) ([]TPMEntry, error) {
	return query(ctx, s.r, `SELECT i.trust_domain, i.ek, i.name, i.note, i.added_at, b.at FROM tpm_inventory i
		LEFT JOIN tpm_bindings b ON b.trust_domain = i.trust_domain AND b.ek = i.ek
		WHERE i.trust_domain = ? ORDER BY i.name, i.ek`, []any{trustDomain}, func(scan func(...any) error) (e TPMEntry, err error) {
		var sum []byte
		var added int64
		var bound sql.NullInt64
		err = scan(&e.TrustDomain, &sum, &e.Group, &e.Note, &added, &bound)
		e.EK, e.AddedAt = fixed(sum), when(added)
		if bound.Valid {
			e.ActivatedAt = when(bound.Int64)
		}
		return e, err
	})
}

// PutTPMs implements [TPMStore].
func (s *SQLite) PutTPMs(ctx context.Context, entries []TPMEntry, replace bool) (added, replaced int, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		added, replaced = 0, 0
		var taken []string
		for _, e := range entries {
			var group, note string
			err := tx.QueryRowContext(ctx, `SELECT name, note FROM tpm_inventory WHERE trust_domain = ? AND ek = ?`, e.TrustDomain, e.EK[:]).Scan(&group, &note)
			switch {
			case err == nil && group == e.Group && note == e.Note:
				continue
			case err == nil && !replace:
				taken = append(taken, fmt.Sprintf("%x is in group %s", e.EK, group))
				continue
			case err == nil:
				replaced++
			case errors.Is(err, sql.ErrNoRows):
				added++
			default:
				return fmt.Errorf("store: TPM inventory: %w", err)
			}
			// When it was added stays: only group and note are replaced.
			_, err = tx.ExecContext(ctx, `INSERT INTO tpm_inventory (trust_domain, ek, name, note, added_at) VALUES (?,?,?,?,?)
				ON CONFLICT (trust_domain, ek) DO UPDATE SET name = excluded.name, note = excluded.note`,
				e.TrustDomain, e.EK[:], e.Group, e.Note, micros(e.AddedAt))
			if err != nil {
				return fmt.Errorf("store: TPM inventory: %w", err)
			}
		}
		return keysError(ErrConflict, taken)
	})
	if err != nil {
		return 0, 0, err
	}
	return added, replaced, nil
}

// DeleteTPMs implements [TPMStore].
func (s *SQLite) DeleteTPMs(ctx context.Context, trustDomain string, eks [][32]byte) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var missing []string
		for _, ek := range eks {
			res, err := tx.ExecContext(ctx, `DELETE FROM tpm_inventory WHERE trust_domain = ? AND ek = ?`, trustDomain, ek[:])
			if err != nil {
				return fmt.Errorf("store: TPM inventory: %w", err)
			}
			n, err := res.RowsAffected()
			if err != nil {
				return fmt.Errorf("store: TPM inventory: %w", err)
			}
			if n == 0 {
				missing = append(missing, fmt.Sprintf("%x is not in the inventory", ek))
				continue
			}
			if err := deleteBinding(ctx, tx, trustDomain, ek); err != nil {
				return err
			}
		}
		return keysError(ErrNotFound, missing)
	})
}

// keysError names all keys that stand in the way, up to a number that can be
// read.
func keysError(kind error, what []string) error {
	const most = 20
	if len(what) == 0 {
		return nil
	}
	text := strings.Join(what[:min(len(what), most)], "; ")
	if len(what) > most {
		text += fmt.Sprintf("; and %d more", len(what)-most)
	}
	return fmt.Errorf("%w: %s", kind, text)
}
