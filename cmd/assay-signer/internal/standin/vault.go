package standin

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// Vault answers what the transit engine of a Vault server does under
// /v1/transit: making and reading a key (keys/NAME), and signing with it
// (sign/NAME, sign/NAME/HASH). It takes one token.
type Vault struct {
	keys
	token string
	// Sealed makes every answer 503, as a sealed server's is.
	Sealed atomic.Bool
	// Hold, where it is set, is waited for before each signature.
	Hold atomic.Pointer[chan struct{}]
	// Exportable says that keys can be exported.
	Exportable atomic.Bool
}

// NewVault returns a server without keys, that takes the token.
func NewVault(token string) *Vault { return &Vault{keys: newKeys(), token: token} }

// ServeHTTP implements http.Handler.
func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(code int, errs ...string) {
		if errs == nil {
			errs = []string{}
		}
		answer(w, code, "application/json", map[string]any{"errors": errs})
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/transit/")
	switch {
	case v.Sealed.Load():
		fail(http.StatusServiceUnavailable, "Vault is sealed")
		return
	case r.Header.Get("X-Vault-Token") != v.token:
		fail(http.StatusForbidden, "permission denied")
		return
	case !ok:
		fail(http.StatusNotFound, "no handler for route")
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		return
	}
	var in struct {
		Type        string `json:"type"`
		Input       []byte `json:"input"`
		Prehashed   bool   `json:"prehashed"`
		KeyVersion  int    `json:"key_version"`
		Marshaling  string `json:"marshaling_algorithm"`
		Algorithm   string `json:"signature_algorithm"`
		SaltLength  string `json:"salt_length"`
		Exportable  bool   `json:"exportable"`
		PlainBackup bool   `json:"allow_plaintext_backup"`
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &in); err != nil {
			fail(http.StatusBadRequest, err.Error())
			return
		}
	}
	parts := strings.Split(path, "/")
	v.saw(r.Method + " " + parts[0])
	switch {
	case len(parts) == 2 && parts[0] == "keys" && r.Method == http.MethodPost:
		kind := map[string]string{"ecdsa-p256": "P-256", "ecdsa-p384": "P-384", "rsa-2048": "RSA-2048", "ed25519": "Ed25519"}[in.Type]
		key, err := generate(kind)
		if err != nil || in.Exportable || in.PlainBackup {
			fail(http.StatusBadRequest, "unknown key type "+in.Type)
			return
		}
		v.put(parts[1], key)
		w.WriteHeader(http.StatusNoContent)
	case len(parts) == 2 && parts[0] == "keys" && r.Method == http.MethodGet:
		key := v.get(parts[1])
		if key == nil {
			fail(http.StatusNotFound)
			return
		}
		kind, text := described(key)
		answer(w, http.StatusOK, "application/json", map[string]any{"data": map[string]any{
			"name": parts[1], "type": kind, "latest_version": 1, "exportable": v.Exportable.Load(),
			"keys": map[string]any{"1": map[string]any{"public_key": text, "creation_time": "2026-01-01T00:00:00Z"}},
		}})
	case len(parts) >= 2 && parts[0] == "sign" && r.Method == http.MethodPost:
		if hold := v.Hold.Load(); hold != nil {
			select {
			case <-*hold:
			case <-r.Context().Done():
				return
			}
		}
		key := v.get(parts[1])
		if key == nil || in.KeyVersion != 1 {
			fail(http.StatusBadRequest, "signing key not found")
			return
		}
		var opts crypto.SignerOpts
		h := crypto.Hash(0)
		if len(parts) == 3 {
			h = map[string]crypto.Hash{"sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512}[parts[2]]
		}
		opts = h
		_, isEd := key.(ed25519.PrivateKey)
		_, isRSA := key.(*rsa.PrivateKey)
		switch {
		case isEd == in.Prehashed || isEd != (h == 0):
			fail(http.StatusBadRequest, "prehashed and hash algorithm do not go together")
			return
		case isRSA && in.Algorithm == "pss" && in.SaltLength == "hash":
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}
		case isRSA && in.Algorithm != "pkcs1v15", !isRSA && in.Marshaling != "asn1":
			fail(http.StatusBadRequest, "signature_algorithm or marshaling_algorithm")
			return
		}
		sig, err := key.Sign(rand.Reader, in.Input, opts)
		if err != nil {
			fail(http.StatusBadRequest, err.Error())
			return
		}
		answer(w, http.StatusOK, "application/json", map[string]any{"data": map[string]any{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(sig), "key_version": 1}})
	default:
		fail(http.StatusNotFound, "unsupported path")
	}
}

// described is a key as the engine shows it.
func described(key crypto.Signer) (kind, public string) {
	if pub, ok := key.Public().(ed25519.PublicKey); ok {
		return "ed25519", base64.StdEncoding.EncodeToString(pub)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", ""
	}
	kind = "ecdsa-p256"
	if _, ok := key.(*rsa.PrivateKey); ok {
		kind = "rsa-2048"
	}
	return kind, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
