package svid

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
}
