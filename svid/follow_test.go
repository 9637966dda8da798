package svid

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOnlyTheLoopbackIsAskedOverHTTP(t *testing.T) {
	for address, want := range map[string]bool{
		"https://example.org/deny-list": true, "http://localhost:80/": true, "http://127.0.0.1/": true, "http://127.9.9.9:1/": true, "http://[::1]:1/": true,
		"http://127.evil.example/": false, "http://127.0.0.1.evil.example/": false, "http://localhost.evil.example/": false, "http://10.0.0.1/": false,
		"http://[::2]/": false, "ftp://127.0.0.1/": false, "https://": false, "": false,
	} {
		if err := checkURL("deny_list_url", address); (err == nil) != want {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestARedirectToAnotherHostOverHTTPIsNotFollowed(t *testing.T) {
	var to string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		_, _ = w.Write([]byte("list"))
	}))
	defer s.Close()
	to = s.URL + "/there"
	if doc, _, err := get(t.Context(), nil, s.URL+"/", "", 100); err != nil || string(doc) != "list" {
		t.Errorf("on the loopback: %q, %v", doc, err)
	}
	to = "http://deny-list.invalid/there"
	if doc, _, err := get(t.Context(), nil, s.URL+"/", "", 100); err == nil {
		t.Errorf("elsewhere: %q", doc)
	} else if want := "a redirect to http://deny-list.invalid/there, which is not https"; !strings.Contains(err.Error(), want) {
		t.Errorf("elsewhere: %v", err)
	}
	// Another machine does not send us to a program on ours.
	secure := httptest.NewTLSServer(http.RedirectHandler(s.URL+"/there", http.StatusFound))
	defer secure.Close()
	client := secure.Client()
	client.CheckRedirect = onlyWhereAsked
	if doc, _, err := get(t.Context(), client, secure.URL, "", 100); err == nil {
		t.Errorf("from https to the loopback: %q", doc)
	}
}

func TestAFirstFetchThatFailsIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start, holds := time.Now(), false
		var at []time.Duration
		follow(ctx, 5*time.Minute, nil, "", nil, func() bool { return holds }, func(context.Context) error {
			at = append(at, time.Since(start))
			if holds = len(at) > 3; len(at) != 4 {
				return errors.New("away") // once the network is there it answers, and then no more
			}
			return nil
		})
		// At once, after one second, after two more, after four more; then once an interval.
		for i, want := range []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 5*time.Minute + 7*time.Second} {
			if got := at[i]; got > want || got < want*8/10 {
				t.Errorf("fetch %d after %s, want %s less a tenth", i, got, want)
			}
		}
		if n := len(at); n < 15 || n > 19 {
			t.Errorf("%d fetches in an hour", n)
		}
	})
}
