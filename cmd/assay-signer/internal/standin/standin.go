// Package standin holds stand-ins for services that tests cannot reach: AWS KMS
// and Vault's transit engine, each speaking its wire protocol on the loopback,
// with keys in memory. They are not those services: they show that requests and
// answers are understood, and nothing of what AWS or Vault promise.
//
// Only tests use them.
package standin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
)

// keys are private keys by their names.
type keys struct {
	mu   sync.Mutex
	all  map[string]crypto.Signer
	seen []string
}

func newKeys() keys { return keys{all: map[string]crypto.Signer{}} }

func (k *keys) get(name string) crypto.Signer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all[name]
}

func (k *keys) put(name string, s crypto.Signer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all[name] = s
}

func (k *keys) saw(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = append(k.seen, what)
}

// Seen lists the operations that were asked for, in order.
func (k *keys) Seen() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.seen...)
}

// generate makes a key of the kinds that both services have.
func generate(kind string) (crypto.Signer, error) {
	switch kind {
	case "P-256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "RSA-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "Ed25519":
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	}
	return nil, fmt.Errorf("no keys of kind %q", kind)
}

func answer(w http.ResponseWriter, code int, contentType string, v any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
