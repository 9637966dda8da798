package svid

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/assay-project/assay/attest"
)

// UpdateURL is Update with what a URL answers: a server's …/verifier-keys. The
// document is signed, so that the connection need not be trusted; http is accepted
// on the loopback alone all the same. client nil has a limit of 30 seconds. Checks:
//
//	verifier_keys_url    Malformed: an https URL
//	verifier_keys_fetch  Unavailable: it answers
func (k *Keyring) UpdateURL(ctx context.Context, client *http.Client, address string, at time.Time) error {
	if err := checkURL("verifier_keys_url", address); err != nil {
		return err
	}
	doc, _, err := get(ctx, client, address, "", MaxVerifierKeysSize)
	if err != nil {
		return fail(attest.Unavailable, "verifier_keys_fetch", "%w", err)
	}
	return k.Update(doc, at)
}

// RunURL fetches the document at once and then again and again until the context
// ends, and returns nil then. An error is logged, and the document held stays until
// it expires. Followers are spread by a jitter of a tenth.
func (k *Keyring) RunURL(ctx context.Context, address string, every time.Duration, log *slog.Logger) error {
	if every <= 0 {
		return fail(attest.Internal, "verifier_keys_url", "an interval of %s", every)
	}
	if err := checkURL("verifier_keys_url", address); err != nil {
		return err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for {
		if err := k.UpdateURL(ctx, nil, address, time.Now()); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "verifier keys not updated", "url", address, "trust_domain", k.td.Name(), "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every - time.Duration(rand.Int64N(int64(every)/10+1))): //nolint:gosec // a jitter, no secret
		}
	}
}
