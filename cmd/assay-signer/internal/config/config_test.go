package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

const whole = `socket: signer.sock
socket_group: assay
request_timeout: 3s
clients:
  - user: assay
    purposes: [x509-authority]
  - uid: 991
    purposes: [jwt, verifier]
stores:
  hsm:
    pkcs11: {module: /usr/lib/softhsm/libsofthsm2.so, token: assay, pin_file: hsm.pin}
  cloud:
    awskms: {region: eu-central-1}
  v:
    vault: {address: "https://vault.example.org:8200", token_file: /run/vault/token}
keys:
  - {name: x509-1, store: hsm, ref: "object=x509-1;id=0a", purposes: [x509-authority]}
  - {name: jwt-1, store: cloud, ref: 1234abcd, purposes: [jwt]}
log: {level: debug, format: json}
`

func TestAWholeConfigurationIsReadAsItIsWritten(t *testing.T) {
	got, err := Parse("/etc/assay/assay-signer.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	uid := uint32(991)
	want := &Config{
		Socket: "/etc/assay/signer.sock", SocketGroup: "assay", RequestTimeout: 3 * time.Second,
		Clients: []Client{{User: "assay", Purposes: []signerwire.Purpose{signerwire.X509Authority}}, {UID: &uid, Purposes: []signerwire.Purpose{signerwire.JWT, signerwire.Verifier}}},
		Stores: map[string]Store{
			"hsm":   {PKCS11: &PKCS11{Module: "/usr/lib/softhsm/libsofthsm2.so", Token: "assay", PINFile: "/etc/assay/hsm.pin", Sessions: DefaultSessions}},
			"cloud": {AWSKMS: &AWSKMS{Region: "eu-central-1"}},
			"v":     {Vault: &Vault{Address: "https://vault.example.org:8200", Mount: "transit", TokenFile: "/run/vault/token"}},
		},
		Keys: []Key{
			{Name: "x509-1", Store: "hsm", Ref: "object=x509-1;id=0a", Purposes: []signerwire.Purpose{signerwire.X509Authority}},
			{Name: "jwt-1", Store: "cloud", Ref: "1234abcd", Purposes: []signerwire.Purpose{signerwire.JWT}},
		},
		Log: Log{Level: "debug", Format: "json"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEveryMistakeInTheConfigurationIsReportedWhereItIs(t *testing.T) {
	for _, tt := range []struct{ name, old, with, line, want string }{
		{"an unknown key", "socket_group: assay", "sockets: x", "2:", "unknown key"},
		{"an empty socket", "socket: signer.sock", `socket: ""`, "1:", "socket is empty"},
		{"a socket too long", "socket: signer.sock", "socket: /" + strings.Repeat("a", 120), "1:", "the system takes 107"},
		{"a client of two users", "  - uid: 991", "  - uid: 991\n    user: x", "7:", "a user or a uid"},
		{"an unknown purpose", "[jwt, verifier]", "[jwt, everything]", "8:", "is not a purpose"},
		{"a purpose twice", "[jwt, verifier]", "[jwt, jwt]", "8:", "there twice"},
		{"a client for nothing", "    purposes: [jwt, verifier]\n", "", "7:", "purposes is missing"},
		{"a store of two kinds", "    awskms: {region: eu-central-1}", "    awskms: {region: eu-central-1}\n    azurekms: {vault: x}", "13:", "a store is one of"},
		{"a PIN in the file", "pin_file: hsm.pin", "pin: 1234", "11:", "unknown key"},
		{"no PIN", ", pin_file: hsm.pin", "", "11:", "pin_file or from pin_env"},
		{"two PINs", "pin_file: hsm.pin", "pin_file: hsm.pin, pin_env: PIN", "11:", "pin_file or from pin_env"},
		{"a module by its name", "/usr/lib/softhsm/libsofthsm2.so", "libsofthsm2.so", "11:", "absolute path"},
		{"two names of a token", "token: assay", "token: assay, serial: x", "11:", "by token (its label) or by serial"},
		{"too many sessions", "token: assay", "token: assay, sessions: 65", "11:", "want 1 to 64"},
		{"no region", "{region: eu-central-1}", "{profile: x}", "13:", "region is missing"},
		{"a token in the clear", "https://vault", "http://vault", "15:", "address is not https"},
		{"a password in the address", "https://vault", "https://u:p@vault", "15:", "not the URL of a server"},
		{"a mount that climbs", "token_file: /run/vault/token", "token_file: t, mount: a/../sys", "15:", "mount is not the path"},
		{"no token", ", token_file: /run/vault/token", "", "15:", "token_file is missing"},
		{"a key in no store", "store: cloud", "store: clowd", "18:", "there is no store"},
		{"a key twice", "name: jwt-1", "name: x509-1", "18:", "is there twice"},
		{"one key under two names", "{name: jwt-1, store: cloud, ref: 1234abcd,", `{name: jwt-1, store: hsm, ref: "object=x509-1;id=0a",`, "18:", "the key x509-1 under another name"},
		{"a name that is a path", "name: jwt-1", "name: ../jwt", "18:", "is not a key name"},
		{"no ref", "ref: 1234abcd, ", "", "18:", "ref is missing"},
		{"a key for nothing", "purposes: [jwt]}", "purposes: []}", "18:", "purposes is missing or empty"},
		{"no time", "request_timeout: 3s", "request_timeout: 1ms", "3:", "want 100ms to 1m"},
		{"an unknown level", "level: debug", "level: loud", "19:", "log.level"},
		{"an unknown format", "format: json", "format: xml", "19:", "log.format"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := strings.Replace(whole, tt.old, tt.with, 1)
			if src == whole {
				t.Fatalf("%q is not in the file", tt.old)
			}
			c, err := Parse("f", []byte(src))
			var errs strictyaml.Errors
			if c != nil || !errors.As(err, &errs) || len(errs) != 1 {
				t.Fatalf("%v: want one error", err)
			}
			if got := errs[0].Error(); !strings.HasPrefix(got, "f:"+tt.line) || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want line %s and %q", got, tt.line, tt.want)
			}
		})
	}
}

func TestAConfigurationOfNothingNamesWhatIsMissing(t *testing.T) {
	_, err := Parse("f", nil)
	var errs strictyaml.Errors
	if !errors.As(err, &errs) || len(errs) != 2 {
		t.Fatalf("%v: want clients and stores", err)
	}
	if err := strictyaml.Check(new(Config)); err != nil {
		t.Error(err)
	}
}

func TestHTTPIsTakenOnTheLoopbackOnly(t *testing.T) {
	for address, ok := range map[string]bool{
		"http://127.0.0.1:8200": true, "http://[::1]:8200": true, "http://localhost:8200": true,
		"http://10.0.0.1:8200": false, "http://localhost.example.org": false, "ftp://127.0.0.1": false, "https://vault/v1": false,
	} {
		_, err := Parse("f", []byte(strings.Replace(whole, "https://vault.example.org:8200", address, 1)))
		if (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}
