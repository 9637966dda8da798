package config

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// maxToken is the longest life of any token: it cannot be taken back.
const maxToken = 24 * time.Hour

// jwt: the issuer is compared by relying parties byte by byte, so that it must be
// written in the one way.
func (v validator) jwt() {
	j := v.c.JWT
	v.between("jwt.max_ttl", j.MaxTTL, time.Second, maxToken)
	if j.Issuer == "" {
		return
	}
	if err := checkIssuer(j.Issuer); err != "" {
		v.report("jwt.issuer "+err, "for example issuer: https://oidc.example.org", "jwt", "issuer")
	}
}

func checkIssuer(s string) (wrong string) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Sprintf("%.100q is not a URL", s)
	case u.Scheme != "https":
		return "is not an https URL: no cloud takes another"
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "":
		return "is not a host and a path, and nothing else"
	case strings.HasSuffix(s, "/"):
		return "ends with a slash: relying parties compare it byte by byte"
	case strings.ToLower(u.Host) != u.Host:
		return "has capitals in its host: relying parties compare it byte by byte"
	case u.String() != s:
		return fmt.Sprintf("is not written as relying parties compare it: %.100q", u.String())
	case u.Path != "" && !plainPath(u.EscapedPath()):
		return "has a path of more than segments of letters, digits and -._~: clients and proxies would rewrite it"
	case len(s) > 255:
		return fmt.Sprintf("has %d bytes, want at most 255", len(s))
	}
	return ""
}

// plainPath reports whether a path is the same to every client and proxy: no segment
// is empty or only dots, or can be escaped.
func plainPath(path string) bool {
	for _, segment := range strings.Split(path, "/")[1:] {
		if strings.Trim(segment, ".") == "" || strings.Trim(segment, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") != "" {
			return false
		}
	}
	return true
}
