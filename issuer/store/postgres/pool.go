package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// SQLSTATEs that are told apart (PostgreSQL, appendix A).
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	readOnlyTransaction  = "25006"
	tooManyConnections   = "53300"
)

// doubt marks an error after which it is not known whether a commit happened.
type doubt struct{ err error }

func (d *doubt) Error() string { return d.err.Error() }
func (d *doubt) Unwrap() error { return d.err }

// with runs f on a connection, within the store's timeout. While the database
// cannot be reached, and after f failed in a way that wrote nothing for certain,
// it tries again: f must be able to run twice.
func (s *Store) with(ctx context.Context, f func(ctx context.Context, c *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var waited time.Duration
	for attempt := 0; ; attempt++ {
		lost, err := s.once(ctx, f)
		if err == nil {
			return nil
		}
		again := retriable(err)
		if lost && waited < s.cfg.Reconnect {
			again = true
		}
		if !again || ctx.Err() != nil {
			return translate(ctx, err, lost)
		}
		d := backoff(attempt)
		if lost {
			waited += d
		}
		if !sleep(ctx, d) {
			return translate(ctx, err, lost)
		}
	}
}

// once runs f on a connection. lost: the database could not be reached, or went
// away before anything was committed.
func (s *Store) once(ctx context.Context, f func(ctx context.Context, c *pgx.Conn) error) (lost bool, err error) {
	c, err := s.pool.Acquire(ctx)
	if err != nil {
		return ctx.Err() == nil && temporary(err), err
	}
	defer c.Release()
	err = f(ctx, c.Conn())
	if err == nil {
		return false, nil
	}
	var unknown *doubt
	if errors.As(err, &unknown) || ctx.Err() != nil {
		return false, err
	}
	switch code := sqlState(err); {
	case code == readOnlyTransaction:
		s.pool.Reset() // the primary is another one now
		return true, err
	case strings.HasPrefix(code, "57P"), strings.HasPrefix(code, "08"):
		return true, err
	}
	return c.Conn().IsClosed(), err
}

// temporary reports whether a connection that failed may succeed later: whatever
// the database does not refuse for good.
func temporary(err error) bool {
	var final *attest.Error
	if errors.As(err, &final) {
		return false
	}
	switch code := sqlState(err); {
	case code == "", code == tooManyConnections, strings.HasPrefix(code, "57P"), strings.HasPrefix(code, "08"):
		return true
	}
	return false // a password, a database that is not there
}

// retriable reports whether the database rolled a transaction back because it
// could not order it among the others.
func retriable(err error) bool {
	var unknown *doubt
	if errors.As(err, &unknown) {
		return false
	}
	code := sqlState(err)
	return code == serializationFailure || code == deadlockDetected
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// translate turns what the driver says into the errors of package store.
func translate(ctx context.Context, err error, lost bool) error {
	var own *attest.Error
	var unknown *doubt
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &own):
		return err
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: whether the commit reached it is not known: %w", store.ErrUnavailable, err)
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%w: %w", context.Canceled, err)
	case ctx.Err() != nil:
		// The driver reports a deadline as its own kind of error too.
		return fmt.Errorf("%w: %w: %w", store.ErrUnavailable, context.DeadlineExceeded, err)
	case lost, retriable(err), errors.Is(err, errStandby):
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	case errors.As(err, &pg) && pg.Code == uniqueViolation:
		if pg.ConstraintName == "entries_pkey" {
			return fmt.Errorf("%w: another server writes this chain: %w", store.ErrConflict, err)
		}
		return fmt.Errorf("%w: %s: %w", store.ErrDuplicate, pg.ConstraintName, err)
	}
	return err
}

// backoff grows from 20 ms to 1 s, with jitter, so that servers that lost the same
// database do not come back in step.
func backoff(attempt int) time.Duration {
	d := 20 * time.Millisecond << min(attempt, 6)
	d = min(d, time.Second)
	return d/2 + rand.N(d/2) //nolint:gosec // jitter, not a secret
}

// sleep waits, and reports false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errReadOnly answers writes to a database that was opened for reading.
var errReadOnly = errors.New("store: the database was opened read-only")

// rollbackTimeout is how long a failed transaction may take to end. Beyond it the
// connection is dropped, and the database ends it.
const rollbackTimeout = 2 * time.Second

// write runs f in one transaction. f may run more than once.
func (s *Store) write(ctx context.Context, level pgx.TxIsoLevel, f func(ctx context.Context, tx pgx.Tx) error) error {
	if s.readOnly {
		return errReadOnly
	}
	return s.with(ctx, func(ctx context.Context, c *pgx.Conn) error {
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
		if err != nil {
			return fmt.Errorf("store: begin: %w", err)
		}
		if err := f(ctx, tx); err != nil {
			rollback(ctx, c)
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			return commitError(fmt.Errorf("store: commit: %w", err))
		}
		return nil
	})
}

// commitError tells a commit that the database refused, which wrote nothing, from
// one whose answer never came.
func commitError(err error) error {
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR", errors.Is(err, pgx.ErrTxCommitRollback), pgconn.SafeToRetry(err):
		return err
	}
	return &doubt{err}
}

// rollback ends a failed transaction, so that the connection can be used again.
func rollback(ctx context.Context, c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, err := c.Exec(ctx, `ROLLBACK`); err != nil {
		_ = c.Close(ctx) // the database rolls back what has no connection
	}
}

// query collects all rows of a statement.
func query[T any](ctx context.Context, s *Store, text string, args []any, read func(scan func(...any) error) (T, error)) (out []T, err error) {
	err = s.with(ctx, func(ctx context.Context, c *pgx.Conn) error {
		out, err = collect(ctx, c, text, args, read)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, text string, args ...any) (pgx.Rows, error)
}

func collect[T any](ctx context.Context, q querier, text string, args []any, read func(scan func(...any) error) (T, error)) (out []T, err error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		v, err := read(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return out, nil
}

func one[T any](rows []T, err error) (T, error) {
	var zero T
	if err != nil {
		return zero, err
	}
	if len(rows) == 0 {
		return zero, store.ErrNotFound
	}
	return rows[0], nil
}

// micros and when convert to and from the stored form of a time.
func micros(t time.Time) int64 { return t.UnixMicro() }
func when(us int64) time.Time  { return time.UnixMicro(us).UTC() }

// fixed leaves zeros for a hash of a damaged length, which the verification
// reports.
func fixed(b []byte) (out [32]byte) {
	if len(b) == len(out) {
		copy(out[:], b)
	}
	return out
}

// nonNil: a nil slice would be NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// text makes what people or errors say storable: PostgreSQL holds no NUL and no
// broken UTF-8. Names that rows are found by are never changed.
func text(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}
