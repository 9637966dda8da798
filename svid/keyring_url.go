package svid

import (
	"context"
	"log/slog"
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

// RunURL is Run with what a URL answers. Followers are spread by a jitter of a tenth.
func (k *Keyring) RunURL(ctx context.Context, address string, every time.Duration, log *slog.Logger) error {
	if every <= 0 {
		return fail(attest.Internal, "verifier_keys_url", "an interval of %s", every)
	}
	if err := checkURL("verifier_keys_url", address); err != nil {
		return err
	}
	follow(ctx, every, log, "verifier keys not updated", []any{"url", address, "trust_domain", k.td.Name()}, k.holds, func(ctx context.Context) error {
		return k.UpdateURL(ctx, nil, address, k.now())
	})
	return nil
}
