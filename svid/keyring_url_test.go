package svid_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

func TestVerifierKeysAreFollowedByURL(t *testing.T) {
	a := svidtest.New(t, "example.test")
	second := a.VerifierKeys()
	second.Sequence = 2
	var doc atomic.Pointer[[]byte]
	serve := func(b []byte) { doc.Store(&b) }
	serve(a.Document(t))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b := *doc.Load()
		if len(b) == 0 {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write(b)
	}))
	defer s.Close()
	k, err := svid.NewKeyring(a.TrustDomain, a.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.RunURL(ctx, s.URL, time.Millisecond, slog.New(slog.DiscardHandler)) }()
	until := func(sequence uint64) {
		t.Helper()
		for range 1000 {
			if k.Sequence() == sequence {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("the keys are those of sequence %d, want %d", k.Sequence(), sequence)
	}
	until(1)
	serve(a.Document(t, second))
	until(2)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	update := func() error { return k.UpdateURL(t.Context(), s.Client(), s.URL, time.Now()) }
	serve(a.Document(t))
	wantError(t, update(), attest.Stale, "verifier_keys_rollback")
	serve(make([]byte, svid.MaxVerifierKeysSize+10))
	wantError(t, update(), attest.Malformed, "verifier_keys_size")
	serve(nil)
	wantError(t, update(), attest.Unavailable, "verifier_keys_fetch")
	if k.Sequence() != 2 {
		t.Error("what was held is lost")
	}
	for _, bad := range []string{"", "http://example.org/verifier-keys", "ftp://example.org/x"} {
		wantError(t, k.UpdateURL(t.Context(), nil, bad, time.Now()), attest.Malformed, "verifier_keys_url")
		wantError(t, k.RunURL(t.Context(), bad, time.Minute, nil), attest.Malformed, "verifier_keys_url")
	}
	wantError(t, k.RunURL(t.Context(), s.URL, 0, nil), attest.Internal, "verifier_keys_url")
}

// Inside of a TEE the wall clock is the host's: a program may have a better one.
func TestAKeyringFollowsByTheClockThatItIsGiven(t *testing.T) {
	a := svidtest.New(t, "example.test")
	file := filepath.Join(t.TempDir(), "verifier-keys")
	if err := os.WriteFile(file, a.Document(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, later := range []time.Duration{0, 2 * 366 * 24 * time.Hour} { // the document is good for a year
		k, err := svid.NewKeyring(a.TrustDomain, a.VerifierRoot())
		if err != nil {
			t.Fatal(err)
		}
		k.Now = func() time.Time { return time.Now().Add(later) }
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := k.Run(ctx, file, time.Hour, nil); err != nil {
			t.Error(err)
		}
		cancel()
		if took := k.Sequence() > 0; took != (later == 0) {
			t.Errorf("%s later: taken %t", later, took)
		}
	}
}
