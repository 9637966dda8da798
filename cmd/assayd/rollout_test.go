package main

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/store"
)

func TestServersDrawRolloutsByOneSecret(t *testing.T) {
	ctx := t.Context()
	st, err := store.OpenSQLite(ctx, filepath.Join(t.TempDir(), "assay.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	cfg := config.Default()
	cfg.TrustDomain, cfg.DataDir = "attested.example.org", "/var/lib/assay"
	if err := st.InitTrustDomain(ctx, store.TrustDomain{Name: cfg.TrustDomain, CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	try := func(secret byte) error {
		return sameRollouts(ctx, &cfg, st, bytes.Repeat([]byte{secret}, 32), slog.New(slog.NewTextHandler(&log, nil)))
	}
	join := func(name string) {
		t.Helper()
		if err := st.AddMember(ctx, store.Member{TrustDomain: cfg.TrustDomain, Server: name, Endorsement: []byte(name), JoinedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	join("a")
	for _, secret := range []byte{1, 1, 2} { // alone, it may draw anew
		if err := try(secret); err != nil {
			t.Errorf("a server alone: %v", err)
		}
	}
	if !bytes.Contains(log.Bytes(), []byte("another share")) {
		t.Errorf("nobody is told that the share is another one:\n%s", log.String())
	}
	join("b")
	if err := try(2); err != nil {
		t.Errorf("with the same secret: %v", err)
	}
	if err := try(1); err == nil {
		t.Error("with another secret it starts")
	}
	doc, err := st.LatestDocument(ctx, cfg.TrustDomain, rolloutDocument)
	if err != nil || bytes.Contains(doc.Body, bytes.Repeat([]byte{2}, 8)) || doc.Sequence != 2 {
		t.Errorf("the database holds %x, sequence %d, %v", doc.Body, doc.Sequence, err)
	}
}
