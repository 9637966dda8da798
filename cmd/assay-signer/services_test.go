package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/standin"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// serve answers on the loopback.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// signAll signs with every key in each way that it has, and makes certificates.
func signAll(t *testing.T, o *office, store string) {
	t.Helper()
	for _, k := range []struct {
		name, alg string
		purpose   signerwire.Purpose
	}{
		{"x509-1", "P-256", signerwire.X509Authority},
		{"x509-2", "P-384", signerwire.X509Authority},
		{"jwt-1", "RSA-2048", signerwire.JWT},
		{"ck-1", "Ed25519", signerwire.Checkpoint},
	} {
		key := o.get(k.purpose, k.name)
		list, err := o.remote().List(t.Context())
		must(t, err)
		if i := slices.IndexFunc(list, func(l signerwire.Key) bool { return l.Name == k.name }); i < 0 || list[i].Algorithm != k.alg {
			t.Errorf("%s: %s is listed as %+v", store, k.name, list)
		}
		sum := sha256.Sum256([]byte("x"))
		switch key.Public().(type) {
		case ed25519.PublicKey:
			if _, err := key.Sign(rand.Reader, []byte("a whole note"), crypto.Hash(0)); err != nil {
				t.Errorf("%s: Ed25519: %v", store, err)
			}
		case *rsa.PublicKey:
			if _, err := key.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}); err != nil {
				t.Errorf("%s: PSS: %v", store, err)
			}
		}
		if k.alg != "Ed25519" {
			authority(t, key)
		}
	}
}

// createAll has the store make four keys, and enters them.
func createAll(t *testing.T, o *office, name, stores string) {
	t.Helper()
	o.configure(stores)
	var entries []string
	for _, k := range [][3]string{{"x509-1", "x509-authority", "P-256"}, {"x509-2", "x509-authority", "P-384"}, {"jwt-1", "jwt", "RSA-2048"}, {"ck-1", "checkpoint", "Ed25519"}} {
		entries = append(entries, o.must("keys", "create", k[0], "--store", name, "--purpose", k[1], "--algorithm", k[2]))
	}
	o.configure(stores, entries...)
}

func TestKeysInAWSKMSSignThroughItsWireProtocol(t *testing.T) {
	aws := standin.NewAWSKMS()
	o := newOffice(t)
	o.env = append(o.env, "AWS_ENDPOINT_URL_KMS="+serve(t, aws), "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=example-secret-access-key",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1", "AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull)
	createAll(t, o, "aws", "  aws:\n    awskms: {region: eu-central-1}\n")
	s := o.run()
	signAll(t, o, "aws")
	for _, op := range []string{"CreateKey", "CreateAlias", "GetPublicKey", "Sign"} {
		if !slices.Contains(aws.Seen(), op) {
			t.Errorf("the service never saw %s", op)
		}
	}
	if strings.Contains(s.said(), "example-secret-access-key") {
		t.Error("the log holds the secret access key")
	}

	o.configure("  aws:\n    awskms: {region: eu-central-1}\n", "  - {name: a, store: aws, ref: alias/a, purposes: [jwt]}\n")
	o.refused(2, "not an alias", "check")
	o.configure("  aws:\n    awskms: {region: eu-central-1}\n", "  - {name: a, store: aws, ref: 1234abcd-12ab-34cd-56ef-1234567890ab, purposes: [jwt]}\n")
	o.refused(2, "NotFoundException", "check")
}

func TestARefusalOfAWSIsNamed(t *testing.T) {
	aws := standin.NewAWSKMS()
	aws.Deny = true
	o := newOffice(t)
	url := serve(t, aws)
	o.env = append(o.env, "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=x", "AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1")
	o.configure("  aws:\n    awskms: {region: eu-central-1}\n", "  - {name: a, store: aws, ref: 1234abcd-12ab-34cd-56ef-1234567890ab, purposes: [jwt]}\n")
	o.env = append(o.env, "AWS_ENDPOINT_URL_KMS="+url)
	errs := o.refused(2, "AccessDeniedException", "check")
	if !strings.Contains(errs, "hint: the credentials of this machine may not do this") {
		t.Errorf("no hint:\n%s", errs)
	}
	o.env = append(o.env, "AWS_ENDPOINT_URL_KMS=http://127.0.0.1:1")
	o.refused(7, "hint: the service cannot be reached", "check")
}

const vaultToken = "hvs.example-token"

func vaultOffice(t *testing.T, v *standin.Vault) (o *office, stores string) {
	t.Helper()
	o = newOffice(t)
	o.write("token", vaultToken+"\n")
	return o, fmt.Sprintf("  v:\n    vault: {address: %q, token_file: token}\n", serve(t, v))
}

func TestKeysInVaultTransitSignThroughItsWireProtocol(t *testing.T) {
	v := standin.NewVault(vaultToken)
	o, stores := vaultOffice(t, v)
	createAll(t, o, "v", stores)
	o.refused(2, "file already exists", "keys", "create", "x509-1b", "--ref", "x509-1", "--store", "v", "--purpose", "jwt")
	s := o.run()
	signAll(t, o, "v")
	key := o.get(signerwire.X509Authority, "x509-1")

	v.Sealed.Store(true)
	if err := key.sign(); attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "vault_reach" {
		t.Errorf("sealed: %v", err)
	}
	v.Sealed.Store(false)
	if err := key.sign(); err != nil {
		t.Errorf("unsealed again: %v", err)
	}
	o.write("token", "hvs.revoked\n")
	if err := key.sign(); attest.CheckOf(err) != "vault_token" {
		t.Errorf("a token that is not valid: %v", err)
	}
	o.write("token", vaultToken)
	if err := key.sign(); err != nil {
		t.Errorf("after the token was renewed in its file: %v", err)
	}
	if strings.Contains(s.said(), "hvs.") {
		t.Error("the log holds a token")
	}
	v.Exportable.Store(true)
	o.refused(2, "can be exported", "check")
}

func TestAStoreThatHangsDelaysItsOwnKeyAndNoLongerThanTheTimeout(t *testing.T) {
	slow, fast := standin.NewVault(vaultToken), standin.NewVault(vaultToken)
	o := newOffice(t)
	o.write("token", vaultToken)
	stores := fmt.Sprintf("  slow:\n    vault: {address: %q, token_file: token}\n  fast:\n    vault: {address: %q, token_file: token}\n", serve(t, slow), serve(t, fast))
	o.configure(stores)
	o.configure(stores, o.must("keys", "create", "a", "--store", "slow", "--purpose", "jwt"), o.must("keys", "create", "b", "--store", "fast", "--purpose", "jwt"))
	o.run()
	a, b := o.get(signerwire.JWT, "a"), o.get(signerwire.JWT, "b")
	hold := make(chan struct{})
	slow.Hold.Store(&hold)
	begin := time.Now()
	hung := make(chan error)
	go func() { hung <- a.sign() }()
	if err := b.sign(); err != nil {
		t.Errorf("another store's key: %v", err)
	}
	if err := <-hung; attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "signer_timeout" || time.Since(begin) > 8*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	close(hold)
	if err := a.sign(); err != nil {
		t.Errorf("when it answers again: %v", err)
	}
}

func TestBytesThatAreNoRequestEndTheConnectionAndNothingElse(t *testing.T) {
	v := standin.NewVault(vaultToken)
	o, stores := vaultOffice(t, v)
	o.configure(stores)
	o.configure(stores, o.must("keys", "create", "a", "--store", "v", "--purpose", "jwt"))
	o.run()
	for name, tt := range map[string]struct{ bytes, check string }{
		"a frame too large":   {"\x7f\xff\xff\xff", "signer_frame"},
		"an empty frame":      {"\x00\x00\x00\x00", "signer_frame"},
		"another version":     {"\x00\x00\x00\x02\x02\x01", "signer_version"},
		"an unknown request":  {"\x00\x00\x00\x02\x01\x77", "signer_message"},
		"a response":          {"\x00\x00\x00\x05\x01\x82\x00\x01\x00", "signer_message"},
		"HTTP":                {"GET / HTTP/1.1\r\n\r\n", "signer_frame"},
		"bytes after request": {"\x00\x00\x00\x03\x01\x01\x00", "signer_message"},
	} {
		answers := talk(t, o.socket(), []byte(tt.bytes))
		if len(answers) != 1 {
			t.Errorf("%s: %d answers", name, len(answers))
			continue
		}
		if f, ok := answers[0].(signerwire.Failure); !ok || f.Check != tt.check || f.Kind != attest.Malformed {
			t.Errorf("%s: %+v, want check %s", name, answers[0], tt.check)
		}
	}
	if answers := talk(t, o.socket(), []byte("\x00\x00")); len(answers) != 0 {
		t.Errorf("an end within a frame: %+v", answers)
	}
	two := "\x00\x00\x00\x02\x01\x01"
	if answers := talk(t, o.socket(), []byte(two+two)); len(answers) != 2 {
		t.Errorf("two requests: %+v", answers)
	}
	if err := o.get(signerwire.JWT, "a").sign(); err != nil {
		t.Errorf("and after all that: %v", err)
	}
}

func TestConnectionsAreCountedAndGivenBack(t *testing.T) {
	v := standin.NewVault(vaultToken)
	o, stores := vaultOffice(t, v)
	o.configure(stores)
	o.configure(stores, o.must("keys", "create", "a", "--store", "v", "--purpose", "jwt"))
	o.run()
	for range 200 { // far more than may be open at once
		r, err := keys.NewRemote(o.socket())
		must(t, err)
		for attempt := 0; ; attempt++ {
			if _, err = r.List(t.Context()); err == nil {
				break
			}
			if attempt == 50 {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		r.CloseIdle()
	}
}
