package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/store"
)

// rolloutDocument is the kind of the document that says which secret the servers of
// a trust domain draw rollouts by.
const rolloutDocument = "rollout-secret"

// rolloutPrint tells a secret from another, and nothing else: it is 32 random bytes.
func rolloutPrint(secret []byte) []byte {
	sum := sha256.Sum256(append([]byte("assay/v1 rollout secret\x00"), secret...))
	return sum[:]
}

// sameRollouts is nil where this server draws rollouts by the secret of the others.
// With another one it would admit another share of the hardware, and who may choose
// the server would be in the one or in the other: twice the share that was meant. A
// server that is alone may have lost its secret and drawn another.
func sameRollouts(ctx context.Context, cfg *config.Config, st store.Store, secret []byte, log *slog.Logger) error {
	const attempts = 3 // servers may start at the same moment
	var err error
	for range attempts {
		var said store.Document
		said, err = st.LatestDocument(ctx, cfg.TrustDomain, rolloutDocument)
		switch {
		case err == nil && bytes.Equal(said.Body, rolloutPrint(secret)):
			return nil
		case err == nil:
			members, merr := st.Members(ctx, cfg.TrustDomain)
			if merr != nil {
				return starting(merr)
			}
			if len(members) > 1 {
				return cli.Usagef("copy "+rolloutFile+" from the data directory of another server into "+cfg.DataDir,
					"this server's secret of rollouts is not that of the trust domain's other servers: it would admit another share of the hardware")
			}
			log.WarnContext(ctx, "the secret of rollouts is another one than before: another share of the hardware is admitted")
		case !errors.Is(err, store.ErrNotFound):
			return starting(err)
		}
		err = st.PutDocument(ctx, store.Document{
			TrustDomain: cfg.TrustDomain, Kind: rolloutDocument, Sequence: said.Sequence + 1, Body: rolloutPrint(secret), CreatedAt: time.Now(),
		})
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return starting(err)
		}
	}
	return starting(err)
}
