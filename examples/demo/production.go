package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// audience is whom the demo's token is for.
const audience = "sts.amazonaws.com"

// token has orders ask for a JWT-SVID, as it would to sign in to a cloud.
func (d *demo) token(ctx context.Context) error {
	d.chapter("A token for a cloud: a JWT-SVID, minted for the live X.509-SVID, that says what was attested")
	token, err := d.run(ctx, nil, "assay-agent", "fetch", "jwt", "--socket", d.path("orders.sock"), "--audience", audience)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("token.jwt"), []byte(token), 0o600); err != nil {
		return err
	}
	if err := d.exportBundle(ctx); err != nil {
		return err
	}
	out, err := d.assay(ctx, "svid", "verify", "--bundle", d.path("bundle.json"), "--trust-domain", trustDomain, "--audience", audience,
		"--allow-simulated", d.path("token.jwt"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(out, "\n\nAttestation result")
	d.quote("assay svid verify --bundle bundle.json --trust-domain … --audience "+audience+" --allow-simulated token.jwt", first, nil)
	return nil
}

// exportBundle writes what relying parties check SVIDs with.
func (d *demo) exportBundle(ctx context.Context) error {
	bundle, err := d.assay(ctx, "bundle", "export", "--admin", d.path("assay/admin.sock"))
	if err != nil {
		return err
	}
	return os.WriteFile(d.path("bundle.json"), []byte(bundle), 0o600)
}

// authority is what `assay authority list --output json` says of one.
type authority struct {
	ID, State string
	Usable    *time.Time // from when on it may sign
}

func (d *demo) authorities(ctx context.Context) ([]authority, error) {
	out, err := d.assay(ctx, "authority", "list", "x509", "--admin", d.path("assay/admin.sock"), "--output", "json")
	if err != nil {
		return nil, err
	}
	var all struct{ Authorities []authority }
	return all.Authorities, json.Unmarshal([]byte(out), &all)
}

// rotate replaces the CA's key while the shop is open.
func (d *demo) rotate(ctx context.Context) error {
	d.chapter("The CA's key may have leaked: another takes its place, and nobody notices")
	before, err := d.fetch(ctx, "orders")
	if err != nil {
		return err
	}
	old, err := d.authorities(ctx)
	if err != nil {
		return err
	}
	admin := []string{"--admin", d.path("assay/admin.sock")}
	if _, err := d.assay(ctx, append([]string{"authority", "prepare", "x509"}, admin...)...); err != nil {
		return err
	}
	next, err := d.authorities(ctx)
	if err != nil {
		return err
	}
	if len(old) == 0 || len(next) != len(old)+1 {
		return fmt.Errorf("%d X.509 authorities became %d", len(old), len(next))
	}
	newest := next[len(next)-1]
	activate := append([]string{"authority", "activate", "x509", newest.ID}, admin...)
	d.say("A new authority is published at once. It signs when everybody can know it: after the propagation time, a day by")
	d.say("default and a second here. Nothing makes the server sign with it before.")
	_, err = d.assay(ctx, activate...)
	if err == nil {
		return errors.New("an authority signs that nobody can know yet")
	}
	d.quote("assay authority activate x509 "+newest.ID, firstLine(err.Error(), "error: "), nil)
	if err := d.eventually(ctx, "the new authority can sign", func() bool { return newest.Usable != nil && time.Now().After(*newest.Usable) }); err != nil {
		return err
	}
	if _, err := d.assay(ctx, activate...); err != nil {
		return err
	}
	if _, err := d.assay(ctx, append([]string{"authority", "taint", "x509", old[len(old)-1].ID, "--reason", "a backup was stolen"}, admin...)...); err != nil {
		return err
	}
	var after fetched
	if err := d.eventually(ctx, "orders has an SVID of the new authority", func() bool {
		after, err = d.fetch(ctx, "orders")
		return err == nil && after.Serial != before.Serial
	}); err != nil {
		return err
	}
	d.say("The old one is tainted: every agent that holds something of it is asked to attest again, now.")
	out, err := d.assay(ctx, append([]string{"authority", "list", "x509"}, admin...)...)
	if err != nil {
		return err
	}
	d.quote("assay authority list x509", out, nil)
	d.say("orders renewed: serial %s became %s.", short(before.Serial), short(after.Serial))
	if out, err = d.order(ctx, "orders"); err != nil {
		return err
	}
	d.quote("orders --item tea --count 3", out, nil)
	return nil
}

// ban keeps an enclave from identities, and tells the world of what it still holds.
func (d *demo) ban(ctx context.Context) error {
	d.chapter("An enclave is banned: no renewal, no token, and its SVID is on the signed deny-list")
	if _, err := d.run(ctx, nil, "assay-agent", "fetch", "--socket", d.path("vault.sock"), "--write", d.path("vault-svid"), "--no-keys"); err != nil {
		return err
	}
	admin := []string{"--admin", d.path("assay/admin.sock")}
	out, err := d.assay(ctx, append([]string{"agents", "ban", "--id", "spiffe://" + trustDomain + "/shop/vault", "--reason", "incident 41"}, admin...)...)
	if err != nil {
		return err
	}
	d.quote(`assay agents ban --id spiffe://…/shop/vault --reason "incident 41"`, out, nil)
	if _, err := d.assay(ctx, append([]string{"denylist", "export", "--out", d.path("deny-list.cose")}, admin...)...); err != nil {
		return err
	}
	if err := d.exportBundle(ctx); err != nil {
		return err
	}
	out, err = d.assay(ctx, "svid", "verify", "--bundle", d.path("bundle.json"), "--verifier-root", d.path("assay/verifier-root.pem"),
		"--verifier-keys", d.path("verifier-keys.cbor"), "--deny-list", d.path("deny-list.cose"), "--allow-simulated", d.path("vault-svid/svid.0.pem"))
	if err == nil {
		return fmt.Errorf("the SVID of a banned enclave was accepted:\n%s", out)
	}
	d.quote("assay svid verify … --deny-list deny-list.cose vault-svid/svid.0.pem", lastLine(err.Error()), nil)
	return nil
}

// eventually waits up to 20 s.
func (d *demo) eventually(ctx context.Context, what string, ok func() bool) error {
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return errors.New("waited 20 s until " + what)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
