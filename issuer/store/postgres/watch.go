package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/assay-project/assay/issuer/store"
)

// channel is what notifications travel on. NOTIFY takes a lock on the whole
// database while it commits, so that appends never notify.
const channel = "assay"

// notice is the payload of a notification, in JSON.
type notice struct {
	Schema      string      `json:"schema"` // several may be in one database
	TrustDomain string      `json:"trust_domain"`
	Topic       store.Topic `json:"topic"`
	Version     int64       `json:"version"`
	Key         string      `json:"key"`
}

// changed counts a change and announces it, in the transaction that makes it:
// others hear of it when it is committed, and those who do not hear find the
// count. The counter's row is held to the end of the transaction, so that counts
// are committed in their order.
func changed(ctx context.Context, tx pgx.Tx, trustDomain string, topic store.Topic, key string) error {
	_, err := tx.Exec(ctx, `WITH counted AS (
			INSERT INTO changes AS c (trust_domain, topic, version) VALUES ($1, $2, 1)
			ON CONFLICT (trust_domain, topic) DO UPDATE SET version = c.version + 1 RETURNING version)
		SELECT pg_notify('`+channel+`', json_build_object('schema', current_schema(), 'trust_domain', $1::text, 'topic', $2::text,
			'version', version, 'key', $3::text)::text) FROM counted`, trustDomain, string(topic), key)
	if err != nil {
		return fmt.Errorf("store: announcing a change: %w", err)
	}
	return nil
}

// Watch implements [store.Watcher]. It listens on a connection of its own, asks
// for the counts every Config.Poll beside it, and connects anew with a backoff.
func (s *Store) Watch(ctx context.Context, on func(store.Event)) error {
	w := watch{store: s, on: on, seen: map[topicOf]int64{}}
	for attempt := 0; ; attempt++ {
		heard, err := w.listen(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is how it ends
		}
		if heard {
			attempt = 0
			on(store.Event{Topic: store.TopicLost})
		}
		s.log.WarnContext(ctx, "the database cannot tell what other servers change", slog.Any("error", err))
		if !sleep(ctx, backoff(attempt)) {
			return nil
		}
	}
}

type topicOf struct {
	trustDomain string
	topic       store.Topic
}

// watch is what one Watch knows. seen outlives connections: it is what tells
// what was missed.
type watch struct {
	store  *Store
	on     func(store.Event)
	schema string
	seen   map[topicOf]int64
}

// listen listens on one connection until it breaks. heard: it was set up.
func (w *watch) listen(ctx context.Context) (heard bool, err error) {
	c, err := w.connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_ = c.Close(ctx)
	}()
	// First listen, then ask: what changes in between is heard.
	if err := w.poll(ctx, c); err != nil {
		return false, err
	}
	w.on(store.Event{Topic: store.TopicHeard})
	for {
		wait, cancel := context.WithTimeout(ctx, w.store.cfg.Poll)
		n, err := c.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			w.hear(n.Payload)
		case ctx.Err() != nil:
			return true, ctx.Err()
		case errors.Is(err, context.DeadlineExceeded) && !c.IsClosed():
			// Also how a connection that died silently is found out.
			if err := w.poll(ctx, c); err != nil {
				return true, err
			}
		default:
			return true, err
		}
	}
}

func (w *watch) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, w.store.cfg.Timeout)
	defer cancel()
	cfg := w.store.pool.Config()
	if cfg.BeforeConnect != nil {
		if err := cfg.BeforeConnect(ctx, cfg.ConnConfig); err != nil {
			return nil, err
		}
	}
	c, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return nil, err
	}
	if err = cfg.AfterConnect(ctx, c); err == nil {
		_, err = c.Exec(ctx, `LISTEN `+channel)
	}
	if err == nil {
		err = c.QueryRow(ctx, `SELECT current_schema()`).Scan(&w.schema)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close(ctx))
	}
	return c, nil
}

// poll reads the counts, and reports what grew unheard.
func (w *watch) poll(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, w.store.cfg.Timeout)
	defer cancel()
	type count struct {
		topicOf
		version int64
	}
	counts, err := collect(ctx, c, `SELECT trust_domain, topic, version FROM changes ORDER BY trust_domain, topic`, nil,
		func(scan func(...any) error) (n count, err error) {
			return n, scan(&n.trustDomain, &n.topic, &n.version)
		})
	if err != nil {
		return err
	}
	for _, n := range counts {
		// Smaller after a restore: then everything may be other than it was.
		if n.version != w.seen[n.topicOf] {
			w.seen[n.topicOf] = n.version
			w.on(store.Event{TrustDomain: n.trustDomain, Topic: n.topic})
		}
	}
	return nil
}

// hear reports a notification, unless it is of another schema or known. Where it
// is not the next one, something was missed: then any row may have changed.
func (w *watch) hear(payload string) {
	var n notice
	if err := json.Unmarshal([]byte(payload), &n); err != nil || n.Schema != w.schema {
		return // another program's, or another schema's: the count tells what is ours
	}
	of := topicOf{n.TrustDomain, n.Topic}
	seen := w.seen[of]
	if n.Version <= seen {
		return
	}
	if n.Version != seen+1 {
		n.Key = ""
	}
	w.seen[of] = n.Version
	w.on(store.Event{TrustDomain: n.TrustDomain, Topic: n.Topic, Key: n.Key})
}
