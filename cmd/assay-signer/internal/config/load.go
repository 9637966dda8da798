package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

const (
	maxConfig     = 1 << 20 // bytes
	maxSocketPath = 107     // what fits into sockaddr_un with its final zero (unix(7))
	// DefaultSessions is how many signatures a token makes at once where the
	// configuration does not say.
	DefaultSessions = 4
)

// Load reads and validates the file. One that cannot be read is a
// [cli.UsageError]; everything wrong inside it is in one [strictyaml.Errors].
func Load(path string) (*Config, error) {
	src, err := cli.ReadFile(path, maxConfig)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "write one as docs/guides/hsm.md shows, or name it with --config"
		}
		return nil, cli.Usagef(hint, "cannot read the configuration: %w", err)
	}
	return Parse(path, src)
}

// Parse validates the content of a configuration file.
func Parse(file string, src []byte) (*Config, error) {
	c := Default()
	doc := strictyaml.Open(file, src)
	if err := doc.Decode(&c); err != nil {
		return nil, err // the struct cannot be decoded into: a mistake of ours
	}
	if doc.Root() == nil || doc.Err() != nil {
		return nil, doc.Err()
	}
	v := validator{doc, &c, filepath.Dir(file)}
	v.socket()
	v.clients()
	v.stores()
	v.keys()
	v.rest()
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return &c, nil
}

type validator struct {
	doc  *strictyaml.Document
	c    *Config
	base string
}

// report adds a problem at a path, in which a number is the place in a list.
func (v validator) report(msg, hint string, path ...string) {
	at := v.doc.Root()
	for _, step := range path {
		next := at.Get(step)
		if i, err := strconv.Atoi(step); err == nil && at.Kind == strictyaml.Sequence && i < len(at.Items) {
			next = at.Items[i]
		}
		if next == nil {
			break
		}
		at = next
	}
	v.doc.Report(at, msg, hint)
}

func (v validator) abs(p *string, path ...string) {
	if *p == "" || filepath.IsAbs(*p) {
		return
	}
	abs, err := filepath.Abs(filepath.Join(v.base, *p))
	if err != nil {
		v.report("the path cannot be made absolute: "+err.Error(), "", path...)
		return
	}
	*p = abs
}

func (v validator) socket() {
	if v.c.Socket == "" {
		v.report("socket is empty", "remove the line for the default", "socket")
		return
	}
	v.abs(&v.c.Socket, "socket")
	if n := len(v.c.Socket); n > maxSocketPath {
		v.report(fmt.Sprintf("the path of the socket has %d bytes; the system takes %d", n, maxSocketPath), "choose a shorter directory", "socket")
	}
}

func (v validator) clients() {
	if len(v.c.Clients) == 0 {
		v.report("clients names nobody: no signature could be asked for", "clients: [{user: assay, purposes: [x509-authority]}]", "clients")
	}
	for i, cl := range v.c.Clients {
		at := []string{"clients", strconv.Itoa(i)}
		if (cl.User == "") == (cl.UID == nil) {
			v.report("a client is a user or a uid, and not both", "user: assay", at...)
		}
		v.purposes(cl.Purposes, at...)
	}
}

func (v validator) purposes(list []signerwire.Purpose, at ...string) {
	if len(list) == 0 {
		v.report("purposes is missing or empty", "purposes: [x509-authority]", at...)
	}
	for i, p := range list {
		if slices.Contains(list[:i], p) {
			v.report(fmt.Sprintf("the purpose %s is there twice", p), "", append(at, "purposes", strconv.Itoa(i))...)
		}
	}
}

func (v validator) stores() {
	if len(v.c.Stores) == 0 {
		v.report("stores is missing or empty", "see docs/guides/hsm.md", "stores")
	}
	for name, s := range v.c.Stores {
		at := []string{"stores", name}
		set := 0
		for _, there := range []bool{s.PKCS11 != nil, s.AWSKMS != nil, s.Vault != nil, s.CloudKMS != nil, s.AzureKMS != nil} {
			if there {
				set++
			}
		}
		if set != 1 {
			v.report("a store is one of pkcs11, awskms, vault, cloudkms and azurekms", "", at...)
			continue
		}
		switch {
		case s.PKCS11 != nil:
			v.pkcs11(s.PKCS11, append(at, "pkcs11")...)
		case s.AWSKMS != nil && s.AWSKMS.Region == "":
			v.report("region is missing", "region: eu-central-1", append(at, "awskms")...)
		case s.Vault != nil:
			v.vault(s.Vault, append(at, "vault")...)
		case s.CloudKMS != nil:
			v.abs(&s.CloudKMS.CredentialsFile, append(at, "cloudkms", "credentials_file")...)
		case s.AzureKMS != nil && s.AzureKMS.Vault == "":
			v.report("vault is missing", "vault: the name of the key vault", append(at, "azurekms")...)
		}
	}
}

func (v validator) pkcs11(p *PKCS11, at ...string) {
	if !filepath.IsAbs(p.Module) {
		v.report("module is not the absolute path of a PKCS#11 library", "for example module: /usr/lib/softhsm/libsofthsm2.so", at...)
	}
	if (p.Token == "") == (p.Serial == "") {
		v.report("a token is named by token (its label) or by serial, and not by both", "token: assay", at...)
	}
	if (p.PINFile == "") == (p.PINEnv == "") {
		v.report("the PIN comes from pin_file or from pin_env, and not from both", "pin_file: hsm.pin", at...)
	}
	v.abs(&p.PINFile, append(at, "pin_file")...)
	if p.Sessions == 0 {
		p.Sessions = DefaultSessions
	}
	if p.Sessions < 1 || p.Sessions > 64 {
		v.report(fmt.Sprintf("sessions is %d, want 1 to 64", p.Sessions), "", append(at, "sessions")...)
	}
}

func (v validator) vault(s *Vault, at ...string) {
	u, err := url.Parse(s.Address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/"):
		v.report("address is not the URL of a server", "for example address: https://vault.example.org:8200", append(at, "address")...)
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		v.report("address is not https", "the token would travel in the clear; http is taken on the loopback only", append(at, "address")...)
	}
	if s.Mount == "" {
		s.Mount = "transit"
	}
	if !plainPath(s.Mount) {
		v.report("mount is not the path of an engine", "for example mount: transit", append(at, "mount")...)
	}
	if s.TokenFile == "" {
		v.report("token_file is missing", "token_file: vault.token", at...)
	}
	v.abs(&s.TokenFile, append(at, "token_file")...)
	v.abs(&s.CAFile, append(at, "ca_file")...)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// plainPath accepts segments of letters, digits, '-', '_' and '.', none of which
// climbs.
func plainPath(s string) bool {
	for _, part := range strings.Split(s, "/") {
		if part == "" || strings.Trim(part, ".") == "" {
			return false
		}
		for _, c := range []byte(part) {
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
			if !letter && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
				return false
			}
		}
	}
	return true
}

func (v validator) keys() {
	if len(v.c.Keys) > signerwire.MaxKeys {
		v.report(fmt.Sprintf("%d keys, at most %d", len(v.c.Keys), signerwire.MaxKeys), "run another signer for the rest", "keys")
	}
	seen := map[string]bool{}
	refs := map[[2]string]string{}
	for i, k := range v.c.Keys {
		at := []string{"keys", strconv.Itoa(i)}
		if err := keys.CheckName(k.Name); err != nil {
			v.report(strings.TrimPrefix(err.Error(), "keys: "), "", append(at, "name")...)
		}
		if seen[k.Name] {
			v.report(fmt.Sprintf("the key %s is there twice", k.Name), "", append(at, "name")...)
		}
		seen[k.Name] = true
		if _, ok := v.c.Stores[k.Store]; !ok {
			v.report(fmt.Sprintf("there is no store %q", k.Store), "name one of stores", append(at, "store")...)
		}
		if k.Ref == "" {
			v.report("ref is missing", "`assay-signer keys create` prints it", at...)
		} else if other, ok := refs[[2]string{k.Store, k.Ref}]; ok {
			v.report(fmt.Sprintf("this is the key %s under another name", other), "give one key all its purposes, or make another", append(at, "ref")...)
		}
		refs[[2]string{k.Store, k.Ref}] = k.Name
		v.purposes(k.Purposes, at...)
	}
}

func (v validator) rest() {
	if d := v.c.RequestTimeout; d < 100*time.Millisecond || d > time.Minute {
		v.report(fmt.Sprintf("request_timeout is %v, want 100ms to 1m", d), "", "request_timeout")
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(v.c.Log.Level)); err != nil || !slices.Contains([]string{"debug", "info", "warn", "error"}, v.c.Log.Level) {
		v.report("log.level is not debug, info, warn or error", "", "log", "level")
	}
	if f := v.c.Log.Format; f != "text" && f != "json" {
		v.report("log.format is not text or json", "", "log", "format")
	}
}
