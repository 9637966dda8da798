// Package postgres is the issuer's database for several servers: a
// [store.Store] on PostgreSQL 15 or later, which passes the same tests as the
// embedded SQLite (package storetest) and means the same by every row.
//
//	s, err := postgres.Open(ctx, postgres.Config{ConnString: "host=db.example.org dbname=assay sslmode=verify-full"})
//
// What SQLite gets from having one writer is asked of the database here:
//
//   - Appends of one chain follow on one another by a lock with the chain's name,
//     and by the primary key of the entries. Appends of two chains share no lock,
//     so that servers with a chain each never wait for one another.
//   - Serials, keys and references are unique by index, over all chains.
//   - Everything that reads before it writes is SERIALIZABLE, and tried again when
//     the database could not order it.
//
// A lost connection is made anew, with a backoff, as long as the caller's time
// allows. A write whose outcome is not known is never tried again: the error is
// store.ErrUnavailable, and [Store.Head] waits until the database has settled it.
//
// [Store.Watch] tells a server what the others changed.
package postgres
