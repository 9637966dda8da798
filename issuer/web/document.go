package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Content is a document as it is now.
type Content struct {
	Type string // media type: "application/json"
	Body []byte
	// MaxAge is how long anybody may keep it; 0 is not without asking again.
	MaxAge time.Duration
}

// Document serves what get returns. The entity tag is a digest of the body, so
// that it is the same at every server of a trust domain. An error of get is 503
// without a word of why: the caller logs it.
func Document(get func(ctx context.Context) (Content, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := get(r.Context())
		if err != nil {
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Retry-After", "10")
			fail(w, http.StatusServiceUnavailable)
			return
		}
		sum := sha256.Sum256(c.Body)
		tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:18]) + `"`
		h := w.Header()
		h.Set("ETag", tag)
		h.Set("Cache-Control", cacheControl(c.MaxAge))
		if matches(r.Header.Values("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", c.Type)
		h.Set("Content-Length", strconv.Itoa(len(c.Body)))
		w.WriteHeader(http.StatusOK)
		if r.Method != http.MethodHead {
			_, _ = bytes.NewReader(c.Body).WriteTo(w) // a client that went away is no error of ours
		}
	})
}

func cacheControl(age time.Duration) string {
	if age < time.Second {
		return "no-cache"
	}
	return fmt.Sprintf("public, max-age=%d", int64(age/time.Second))
}

// matches reports whether one of the tags of If-None-Match is the document's, by
// weak comparison (RFC 9110, section 13.1.2). Lists end at a bound: who sends more
// gets the document.
func matches(fields []string, tag string) bool {
	const most = 32
	n := 0
	for _, f := range fields {
		for part := range strings.SplitSeq(f, ",") {
			if n++; n > most {
				return false
			}
			part = strings.TrimSpace(part)
			if part == "*" || strings.TrimPrefix(part, "W/") == tag {
				return true
			}
		}
	}
	return false
}
