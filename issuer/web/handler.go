package web

import (
	"net/http"
	"strconv"
)

// Handler serves routes by their exact paths, and to GET and HEAD alone. Whatever
// else is asked for is answered with a constant.
func Handler(routes map[string]http.Handler) http.Handler {
	table := make(map[string]http.Handler, len(routes))
	for path, h := range routes {
		table[path] = h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		switch h, ok := table[r.URL.Path]; {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			w.Header().Set("Connection", "close") // there may be a body, which nobody reads
			fail(w, http.StatusMethodNotAllowed)
		case r.ContentLength != 0: // -1 is a body of unknown length
			w.Header().Set("Connection", "close")
			fail(w, http.StatusRequestEntityTooLarge)
		case !ok || r.URL.RawPath != "": // a path has one spelling
			fail(w, http.StatusNotFound)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// fail answers with a status and its name.
func fail(w http.ResponseWriter, code int) {
	body := http.StatusText(code) + "\n"
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write([]byte(body)) // a client that went away is no error of ours
}
