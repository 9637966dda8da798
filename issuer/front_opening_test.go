package issuer

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/config"
)

// The listener accepts before the first server is there: who comes in between is
// served, and not turned away.
func TestWhoComesBeforeTheTrustDomainIsOpenWaitsForIt(t *testing.T) {
	const name = "attested.example.org"
	synctest.Test(t, func(t *testing.T) {
		f, err := NewFront(config.Default(), FrontParts{TrustDomains: []string{name}, Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		s := &Server{td: spiffeid.RequireTrustDomainFromString(name), handshakes: newWaitingRoom(0, 0, 0), connections: newGate(0, 0)}
		begin := time.Now()
		go func() {
			time.Sleep(time.Second)
			if err := f.attach(s); err != nil {
				t.Error(err)
			}
		}()
		if got := f.serverFor(name); got != s || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", got, time.Since(begin))
		}
		// One that is said to be absent, or never comes, is not waited for.
		f.mu.Lock()
		delete(f.servers, name)
		f.mu.Unlock()
		begin = time.Now()
		if got := f.serverFor(name); got != nil || time.Since(begin) != openingTime {
			t.Errorf("one that never comes: %v after %v", got, time.Since(begin))
		}
		f.Absent(name, errors.New("its database is away"))
		begin = time.Now()
		if got := f.serverFor(name); got != nil || time.Since(begin) != 0 {
			t.Errorf("one that is absent: %v after %v", got, time.Since(begin))
		}
	})
}
