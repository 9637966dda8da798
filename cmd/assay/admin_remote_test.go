package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/svid/svidtest"
)

// writeSVID writes certificates and key into one file.
func writeSVID(t *testing.T, path string, s *x509svid.SVID) {
	t.Helper()
	var b bytes.Buffer
	for _, c := range s.Certificates {
		check(t, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(s.PrivateKey)
	check(t, err)
	check(t, pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	check(t, os.WriteFile(path, b.Bytes(), 0o600))
}

func TestAServerElsewhereIsAskedWithAnAdministratorsSVID(t *testing.T) {
	o := newOffice(t)
	admins, foreign := svidtest.NewAt(t, "admins.example.org", o.Now), svidtest.NewAt(t, "admins.example.org", o.Now)
	dir := t.TempDir()
	bundle := filepath.Join(dir, "admins.pem")
	check(t, os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: admins.Bundle().X509Authorities()[0].Raw}), 0o600))
	var address string
	o.serveWith(t, func(c *config.Config, l *issuer.Listeners) {
		var err error
		l.AdminTLS, err = net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		address = l.AdminTLS.Addr().String()
		c.Administration = config.Administration{
			Listen: address, TrustDomain: "admins.example.org", Bundle: bundle,
			Roles: config.Roles{Viewer: []string{"spiffe://admins.example.org/vera"}, Operator: []string{"spiffe://admins.example.org/olga"}},
		}
	})
	for name, a := range map[string]*svidtest.Authority{"vera": admins, "olga": admins, "mallory": foreign} {
		writeSVID(t, filepath.Join(dir, name+".pem"), a.Mint(t, "/"+name))
	}
	root := filepath.Join(o.dir, "bootstrap-root.pem")
	as := func(who string, args ...string) ran {
		return assay(t, nil, append(args, "--admin", address, "--admin-root", root, "--admin-svid", filepath.Join(dir, who+".pem"))...)
	}
	if got := as("vera", "server", "status"); got.code != cli.OK || !strings.Contains(got.stdout, "simulated.example.org") {
		t.Errorf("a viewer looks: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got := as("vera", "agents", "ban", "aws-nitro:i-1", "--reason", "r"); got.code != cli.Denied || !strings.Contains(got.stderr, "is viewer, and this needs operator") {
		t.Errorf("a viewer bans: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got := as("olga", "agents", "ban", "aws-nitro:i-1", "--reason", "r"); got.code != cli.OK {
		t.Errorf("an operator bans: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got := as("vera", "ledger", "verify"); got.code != cli.OK {
		t.Errorf("a viewer verifies the ledger: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got := as("vera", "policy", "status"); got.code != cli.OK {
		t.Errorf("a viewer asks for the policy: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got := as("mallory", "server", "status"); got.code != cli.Untrusted {
		t.Errorf("a stranger: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	// From the environment.
	t.Setenv("ASSAY_ADMIN", address)
	t.Setenv("ASSAY_ADMIN_ROOT", root)
	t.Setenv("ASSAY_ADMIN_SVID", filepath.Join(dir, "vera.pem"))
	if got := assay(t, nil, "agents", "bans"); got.code != cli.OK || !strings.Contains(got.stdout, "aws-nitro:i-1") {
		t.Errorf("by the environment: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	// Somebody else's root: it is not the server that we know.
	other := filepath.Join(dir, "other.pem")
	check(t, os.WriteFile(other, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: foreign.Bundle().X509Authorities()[0].Raw}), 0o600))
	t.Setenv("ASSAY_ADMIN_ROOT", other)
	if got := assay(t, nil, "server", "status"); got.code != cli.Untrusted || !strings.Contains(got.stderr, "does not chain to --admin-root") {
		t.Errorf("another root: %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}
