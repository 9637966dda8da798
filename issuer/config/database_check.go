package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// database: a URL of PostgreSQL, or the key=value form of libpq. The driver reads
// the rest, and says what it cannot.
func (v validator) database() {
	d := &v.c.Database
	switch {
	case d.URL == "":
		if d.PasswordFile != "" {
			v.report("database.password_file without a database", "set database.url, or remove the line", "database", "password_file")
		}
		return
	case strings.HasPrefix(d.URL, "postgres://"), strings.HasPrefix(d.URL, "postgresql://"):
		u, err := url.Parse(d.URL)
		if err != nil {
			v.report("database.url is not a URL", "postgres://USER@HOST/NAME?sslmode=verify-full", "database", "url") // the error would hold the password
			return
		}
		if _, has := u.User.Password(); has && d.PasswordFile != "" {
			v.report("two passwords: in database.url and in database.password_file", "keep the file", "database", "password_file")
		}
	case strings.Contains(d.URL, "://"):
		v.report(fmt.Sprintf("database.url has the scheme %.20q", strings.SplitN(d.URL, "://", 2)[0]), "PostgreSQL is served: postgres://USER@HOST/NAME?sslmode=verify-full", "database", "url")
	case !strings.Contains(d.URL, "="):
		v.report("database.url is neither a URL nor key=value", "postgres://USER@HOST/NAME?sslmode=verify-full, or \"host=… dbname=…\"", "database", "url")
	}
}

// keys: where an authority's keys are has to be said exactly.
func (v validator) keys() {
	l := v.c.Keys.Location
	if l == "" || filepath.IsAbs(l) {
		return
	}
	u, err := url.Parse(l)
	switch {
	case err != nil, u.Scheme != "signer" && u.Scheme != "file":
		v.report("keys.location is not where keys can be", "signer:///run/assay-signer/signer.sock, or \"\" for the data directory", "keys", "location")
	case u.Host != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || !filepath.IsAbs(u.Path):
		v.report("keys.location is not a scheme and an absolute path", "three slashes: signer:///run/assay-signer/signer.sock", "keys", "location")
	case u.Scheme == "signer" && len(u.Path) > maxSocketPath:
		v.report(fmt.Sprintf("the path of the signer's socket has %d bytes; the system takes %d", len(u.Path), maxSocketPath), "choose a shorter directory", "keys", "location")
	}
}

// server: the name is part of the ledger's origin and of authorities' rows.
func (v validator) server() {
	if err := CheckServer(v.c.Server); err != nil {
		v.report("server is not a server's name: "+err.Error(), "for example server: eu-1", "server")
	}
}

// CheckServer says what is wrong with the name of a server, if anything.
func CheckServer(name string) error {
	if len(name) < 1 || len(name) > 63 {
		return fmt.Errorf("%d bytes, want 1 to 63", len(name))
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%.63q, want a-z, 0-9 and -", name)
		}
	}
	if name[0] == '-' || name[len(name)-1] == '-' {
		return fmt.Errorf("%q begins or ends with -", name)
	}
	return nil
}
