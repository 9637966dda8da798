package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Config says how to reach the database. Every zero field but ConnString takes
// its default.
type Config struct {
	// ConnString is a PostgreSQL URL or keyword string. It may name several hosts,
	// for failover; the one that can be written is used. A host that is reached
	// over the network wants sslmode=verify-full. The password comes best from a
	// password file (passfile=…).
	ConnString string
	// PasswordFile holds the password, and nobody else may read it (0600). It is
	// read for every new connection, so that a password can be changed while
	// servers run. Empty: that of ConnString, if any.
	PasswordFile string
	// MaxConns bounds the connections of this server (8).
	MaxConns int32
	// Timeout bounds every operation, also of a caller without a deadline (30 s).
	Timeout time.Duration
	// Reconnect is how long an operation waits for a database that cannot be
	// reached, such as one that restarts (5 s).
	Reconnect time.Duration
	// Poll is how often Watch asks for what changed, beside being told (15 s).
	Poll time.Duration
	// Log receives what an operator should see; nil discards it.
	Log *slog.Logger
}

// Store is the database. It is safe for concurrent use.
type Store struct {
	pool     *pgxpool.Pool
	cfg      Config
	readOnly bool
	log      *slog.Logger

	bindingsAdded atomic.Uint64 // since the start
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Watcher = (*Store)(nil)
)

// oldest is the server version that this was tried with, as PostgreSQL numbers it.
const oldest = 15_00_00

// Open connects to the database and migrates it. Of several servers that do so at
// once, one migrates and the others wait. The checks:
//
//	database_config      the connection string is one
//	database_tls         a database over the network is authenticated and encrypted
//	database_password    the password file can be read, and only by its owner
//	database_connect     it answers
//	database_version     it is PostgreSQL 15 or later
//	database_durability  what it commits survives the loss of power
//	database_schema      the schema is ours, and no newer than this program
func Open(ctx context.Context, c Config) (*Store, error) { return open(ctx, c, false) }

// OpenReadOnly opens an existing database, or a standby of it, for reading.
// Writes through it fail. It wants exactly this program's schema.
func OpenReadOnly(ctx context.Context, c Config) (*Store, error) { return open(ctx, c, true) }

func open(ctx context.Context, c Config, readOnly bool) (*Store, error) {
	def(&c.MaxConns, 8)
	c.MaxConns = max(c.MaxConns, 3) // a migration holds one, and needs another
	def(&c.Timeout, 30*time.Second)
	def(&c.Reconnect, 5*time.Second)
	def(&c.Poll, 15*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: c, readOnly: readOnly, log: c.Log}
	pc, err := s.poolConfig()
	if err != nil {
		return nil, err
	}
	if s.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		return nil, fault("database_connect", err, "check the connection string")
	}
	if err := s.start(ctx); err != nil {
		s.pool.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) start(ctx context.Context) error {
	if err := s.Ping(ctx); err != nil {
		var known *attest.Error
		if errors.As(err, &known) {
			return known
		}
		if errors.Is(err, store.ErrUnavailable) {
			return &attest.Error{Kind: attest.Unavailable, Check: "database_connect", Err: err, Hint: "check that the database runs, and that this machine reaches it"}
		}
		return fault("database_connect", err, "check the connection string, and that the database runs")
	}
	if s.readOnly {
		return s.checkSchema(ctx)
	}
	return s.migrate(ctx)
}

func (s *Store) poolConfig() (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(s.cfg.ConnString)
	if err != nil { // it quotes the string without the password
		return nil, fault("database_config", err, "want postgres://user@host/database?sslmode=verify-full, or host=… dbname=…")
	}
	if err := secure(pc.ConnConfig); err != nil {
		return nil, err
	}
	pc.MaxConns = s.cfg.MaxConns
	pc.MinIdleConns = 1
	cc := pc.ConnConfig
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = 5 * time.Second
	}
	// A machine that is gone without a word is noticed, not waited for.
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	cc.DialFunc = dialer.DialContext
	for name, value := range map[string]string{
		"application_name": "assayd",
		// A transaction of a server that went away holds its chain's lock no
		// longer than this.
		"idle_in_transaction_session_timeout": "20s",
		"client_connection_check_interval":    "5s",
	} {
		if cc.RuntimeParams[name] == "" {
			cc.RuntimeParams[name] = value
		}
	}
	if s.readOnly {
		cc.RuntimeParams["default_transaction_read_only"] = "on"
	}
	pc.AfterConnect = s.inspect
	if s.cfg.PasswordFile != "" {
		if _, err := readPassword(s.cfg.PasswordFile); err != nil {
			return nil, err
		}
		pc.BeforeConnect = s.password
	}
	return pc, nil
}

// secure refuses to speak over a network without knowing to whom: who stands in
// between could answer that no key is on record.
func secure(c *pgx.ConnConfig) error {
	type way struct {
		host  string
		proof bool // the server's name is verified
	}
	ways := []way{{c.Host, c.TLSConfig != nil && !c.TLSConfig.InsecureSkipVerify && c.TLSConfig.ServerName != ""}}
	for _, f := range c.Fallbacks {
		ways = append(ways, way{f.Host, f.TLSConfig != nil && !f.TLSConfig.InsecureSkipVerify && f.TLSConfig.ServerName != ""})
	}
	for _, w := range ways {
		local := strings.HasPrefix(w.host, "/") || strings.HasPrefix(w.host, "@") || w.host == "localhost"
		if ip := net.ParseIP(w.host); ip != nil && ip.IsLoopback() {
			local = true
		}
		if !local && !w.proof {
			return fault("database_tls", fmt.Errorf("the connection to %s would not be authenticated", w.host),
				"add sslmode=verify-full, and sslrootcert=FILE for a CA of your own")
		}
	}
	return nil
}

// inspect refuses a database, at every new connection, that would not keep what it
// promises.
func (s *Store) inspect(ctx context.Context, c *pgx.Conn) error {
	var version int
	var fsync, pages, commit string
	var standby bool
	err := c.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('fsync'), current_setting('full_page_writes'),
		current_setting('synchronous_commit'), pg_is_in_recovery()`).Scan(&version, &fsync, &pages, &commit, &standby)
	switch {
	case err != nil:
		return err
	case version < oldest:
		return fault("database_version", fmt.Errorf("PostgreSQL %d is older than 15", version/10000), "use PostgreSQL 15 or later")
	case s.readOnly:
		return nil
	case standby:
		return errStandby // the next attempt may reach the one that took over
	case fsync != "on", pages != "on", commit == "off":
		return fault("database_durability", fmt.Errorf("fsync=%s, full_page_writes=%s, synchronous_commit=%s", fsync, pages, commit),
			"a commit must survive the loss of power: set fsync and full_page_writes to on, and synchronous_commit to on or more for this role and database")
	}
	return nil
}

// errStandby: the database is being read only, as before or after a failover.
var errStandby = errors.New("the database is a standby and cannot be written")

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.with(ctx, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `SELECT 1`)
		return err
	})
}

// Close closes the connections. It waits for operations that run.
func (s *Store) Close() error {
	s.pool.Close()
	return nil
}

func fault(check string, err error, hint string) error {
	return &attest.Error{Kind: attest.Internal, Check: check, Err: err, Hint: hint}
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
