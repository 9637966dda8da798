package store

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
	"github.com/assay-project/assay/issuer/keys"
)

// vault is the transit engine of a Vault server, over its HTTP API
// (/v1/MOUNT/keys/NAME and /v1/MOUNT/sign/NAME). A ref is NAME/VERSION: a key
// that is rotated there keeps its old version here, until the configuration says
// otherwise.
type vault struct {
	c      config.Vault
	client *http.Client
}

// Limits on what a Vault server is waited and listened for.
const (
	vaultTimeout = 15 * time.Second
	vaultAnswer  = 1 << 20 // bytes
)

func openVault(c config.Vault) (backend, error) {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		Proxy:           http.ProxyFromEnvironment, MaxIdleConnsPerHost: cloudSlots, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
	}
	if c.CAFile != "" {
		roots, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fault(attest.Internal, "vault_ca", "check ca_file", err)
		}
		tr.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !tr.TLSClientConfig.RootCAs.AppendCertsFromPEM(roots) {
			return nil, fault(attest.Internal, "vault_ca", "ca_file holds certificates in PEM", fmt.Errorf("%s holds no certificate", c.CAFile))
		}
	}
	v := &vault{c: c, client: &http.Client{
		Transport: tr, Timeout: vaultTimeout,
		// A redirect would take the token to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if _, err := keys.ReadSecret(c.TokenFile); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *vault) close() error {
	v.client.CloseIdleConnections()
	return nil
}

// transitKey is what Vault says of a key.
type transitKey struct {
	Type       string `json:"type"`
	Exportable bool   `json:"exportable"`
	Imported   bool   `json:"imported_key"`
	Keys       map[string]struct {
		PublicKey string `json:"public_key"`
	} `json:"keys"`
}

func (v *vault) key(ctx context.Context, ref string) (crypto.Signer, error) {
	name, version, ok := strings.Cut(ref, "/")
	n, err := strconv.Atoi(version)
	if !ok || keys.CheckName(name) != nil || err != nil || n < 1 || strconv.Itoa(n) != version {
		return nil, fault(attest.Internal, "key_ref", "ref: NAME/1", fmt.Errorf("ref %q: want the name of a transit key and a version", ref))
	}
	var k transitKey
	if err := v.ask(ctx, http.MethodGet, "keys/"+name, nil, &k); err != nil {
		return nil, err
	}
	if k.Exportable {
		return nil, fault(attest.Denied, "key_origin", "make a key with `assay-signer keys create`", fmt.Errorf("the transit key %s can be exported", name))
	}
	there, ok := k.Keys[version]
	if !ok {
		return nil, fault(attest.Internal, "store_key", "", fmt.Errorf("the transit key %s has no version %d: %w", name, n, fs.ErrNotExist))
	}
	pub, err := transitPublic(k.Type, there.PublicKey)
	if err != nil {
		return nil, fault(attest.Malformed, "store_key", "", fmt.Errorf("the transit key %s: %w", name, err))
	}
	return &transitSigner{v: v, name: name, version: n, pub: pub}, nil
}

func transitPublic(kind, text string) (crypto.PublicKey, error) {
	if kind == "ed25519" {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, errors.New("the public key is not 32 bytes in base64")
		}
		return ed25519.PublicKey(raw), nil
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, fmt.Errorf("no public key in PEM: is a key of type %q one that signs?", kind)
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

func (v *vault) create(ctx context.Context, name string, alg Algorithm) (string, crypto.PublicKey, error) {
	kind := map[Algorithm]string{P256: "ecdsa-p256", P384: "ecdsa-p384", RSA2048: "rsa-2048", RSA3072: "rsa-3072", RSA4096: "rsa-4096", Ed25519: "ed25519"}[alg]
	if err := keys.CheckName(name); err != nil {
		return "", nil, fault(attest.Internal, "store_create", "choose another name", err)
	}
	// Vault answers a create over a key that is there with success.
	switch err := v.ask(ctx, http.MethodGet, "keys/"+name, nil, new(transitKey)); {
	case err == nil:
		return "", nil, fault(attest.Internal, "store_create", "choose another name", fmt.Errorf("the transit key %s: %w", name, fs.ErrExist))
	case !errors.Is(err, fs.ErrNotExist):
		return "", nil, err
	}
	if err := v.ask(ctx, http.MethodPost, "keys/"+name, map[string]any{"type": kind, "exportable": false, "allow_plaintext_backup": false}, nil); err != nil {
		return "", nil, err
	}
	s, err := v.key(ctx, name+"/1")
	if err != nil {
		return "", nil, err
	}
	return name + "/1", s.Public(), nil
}

// transitSigner is one version of a transit key.
type transitSigner struct {
	v       *vault
	name    string
	version int
	pub     crypto.PublicKey
}

// Public implements crypto.Signer.
func (s *transitSigner) Public() crypto.PublicKey { return s.pub }

// Sign implements crypto.Signer.
func (s *transitSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	body := map[string]any{"input": base64.StdEncoding.EncodeToString(digest), "key_version": s.version}
	path := "sign/" + s.name
	if h := opts.HashFunc(); h != 0 {
		body["prehashed"] = true
		path += map[crypto.Hash]string{crypto.SHA256: "/sha2-256", crypto.SHA384: "/sha2-384", crypto.SHA512: "/sha2-512"}[h]
	}
	if _, ok := s.pub.(*rsa.PublicKey); ok {
		body["signature_algorithm"] = "pkcs1v15"
		if _, ok := opts.(*rsa.PSSOptions); ok {
			body["signature_algorithm"], body["salt_length"] = "pss", "hash"
		}
	} else {
		body["marshaling_algorithm"] = "asn1"
	}
	var out struct {
		Signature string `json:"signature"`
	}
	ctx, cancel := context.WithTimeout(context.Background(), vaultTimeout)
	defer cancel()
	if err := s.v.ask(ctx, http.MethodPost, path, body, &out); err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(out.Signature, fmt.Sprintf("vault:v%d:", s.version))
	if !ok {
		return nil, fault(attest.Malformed, "vault_answer", "", fmt.Errorf("the signature %.20q is not one of version %d", out.Signature, s.version))
	}
	return base64.StdEncoding.DecodeString(text)
}

// ask makes one request. data, where not nil, is filled from the answer's data.
func (v *vault) ask(ctx context.Context, method, path string, body map[string]any, data any) error {
	token, err := keys.ReadSecret(v.c.TokenFile)
	if err != nil {
		return err
	}
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(v.c.Address, "/")+"/v1/"+v.c.Mount+"/"+path, send)
	if err != nil {
		return fault(attest.Internal, "vault_request", "check address and mount", err)
	}
	req.Header.Set("X-Vault-Token", string(token))
	req.Header.Set("X-Vault-Request", "true")
	if v.c.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", v.c.Namespace)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return fault(attest.Unavailable, "vault_reach", "check address, ca_file, and that the server runs", err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, vaultAnswer+1))
	if err != nil {
		return fault(attest.Unavailable, "vault_reach", "", err)
	}
	if len(raw) > vaultAnswer {
		return fault(attest.Malformed, "vault_answer", "", fmt.Errorf("the answer has more than %d bytes", vaultAnswer))
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return vaultRefusal(method+" "+path, resp.StatusCode, raw)
	}
	if data == nil {
		return nil
	}
	answer := struct {
		Data any `json:"data"`
	}{data}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fault(attest.Malformed, "vault_answer", "is there a Vault server at this address?", err)
	}
	return nil
}

// vaultRefusal is an answer that is not 200 or 204.
func vaultRefusal(what string, code int, raw []byte) error {
	var said struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(raw, &said) // without a reason, the status alone is told
	err := fmt.Errorf("%s: %d %s %.300q", what, code, http.StatusText(code), strings.TrimSpace(strings.Join(said.Errors, "; ")))
	switch {
	case code == http.StatusNotFound:
		return fault(attest.Internal, "store_key", "is the transit engine mounted there, and the key made?", fmt.Errorf("%w: %w", err, fs.ErrNotExist))
	case code == http.StatusForbidden:
		return fault(attest.Internal, "vault_token", "the token is not valid any more, or its policy lacks read on keys/ and update on sign/", err)
	case code == http.StatusTooManyRequests || code >= 500:
		return fault(attest.Unavailable, "vault_reach", "the server is sealed, standing by or overloaded", err)
	}
	return fault(attest.Internal, "vault_answer", "", err)
}
