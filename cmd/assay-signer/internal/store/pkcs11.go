//go:build cgo

package store

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"
	"go.step.sm/crypto/kms/apiv1"
	steppkcs11 "go.step.sm/crypto/kms/pkcs11"
	"go.step.sm/crypto/kms/uri"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
	"github.com/assay-project/assay/issuer/keys"
)

// token is one token of an HSM.
//
// A token counts wrong PINs and locks after a few, for good or until its
// security officer comes. So a login is attempted only when the token does not
// already report a wrong one (CKF_USER_PIN_COUNT_LOW; an operator's command may
// still try, but never when it would be the last try), and a PIN that was
// refused is not sent again as long as the process lives.
//
// A session can die: the HSM restarts, the network to it breaks, an
// administrator closes it. The next signature then opens the token again, with
// growing pauses while that fails, and is tried once more.
type token struct {
	c       config.PKCS11
	pin     string
	modules *modules
	log     *slog.Logger
	try     bool

	mu      sync.RWMutex // held for reading while the token is used
	kms     *steppkcs11.PKCS11
	life    int   // grows with each reconnect
	refused error // a PIN was refused: never again
	proven  bool  // the PIN was taken once
	retry   time.Time
	pause   time.Duration
	away    error // why the last reconnect failed
}

// The pauses between attempts to open a token that went away.
const (
	firstPause = time.Second
	longPause  = 30 * time.Second
)

func openToken(_ context.Context, c config.PKCS11, m *modules, o Options) (backend, error) {
	pin, err := readPIN(c)
	if err != nil {
		return nil, err
	}
	t := &token{c: c, pin: pin, modules: m, log: o.Log, try: o.TryPIN}
	if err := t.connect(); err != nil {
		return nil, err
	}
	return t, nil
}

func readPIN(c config.PKCS11) (string, error) {
	if c.PINEnv != "" {
		pin, ok := os.LookupEnv(c.PINEnv)
		if !ok || pin == "" {
			return "", fault(attest.Internal, "pkcs11_pin", "set it, or use pin_file", fmt.Errorf("the environment variable %s is not set", c.PINEnv))
		}
		return pin, nil
	}
	pin, err := keys.ReadSecret(c.PINFile)
	return string(pin), err
}

func (t *token) named() string {
	if t.c.Token != "" {
		return fmt.Sprintf("token %q", t.c.Token)
	}
	return "token with serial " + t.c.Serial
}

// connect opens the module and logs in. The caller holds t.mu, or is alone.
func (t *token) connect() error {
	if t.refused != nil {
		return t.refused
	}
	t.modules.Lock()
	defer t.modules.Unlock()
	if err := t.mayLogIn(); err != nil {
		return err
	}
	v := url.Values{"module-path": {t.c.Module}, "max-sessions": {strconv.Itoa(t.c.Sessions + 1)}}
	if t.c.Token != "" {
		v.Set("token", t.c.Token)
	} else {
		v.Set("serial", t.c.Serial)
	}
	kms, err := steppkcs11.New(context.Background(), apiv1.Options{URI: uri.New(steppkcs11.Scheme, v).String(), Pin: t.pin})
	if err != nil {
		var code p11.Error
		if errors.As(err, &code) {
			switch code {
			case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_PIN_EXPIRED, p11.CKR_PIN_LOCKED:
				t.refused = fault(attest.Internal, "pkcs11_pin",
					"correct the PIN, then run `assay-signer check`: it logs in once, and the token forgets the wrong PIN. Tokens lock after a few",
					fmt.Errorf("the %s refused the PIN (%s); it is not tried again", t.named(), codeName(code)))
				return t.refused
			}
		}
		return fault(attest.Unavailable, "pkcs11_open", "is the HSM reachable, and its module configured?", fmt.Errorf("the %s: %w", t.named(), err))
	}
	t.kms, t.proven = kms, true
	return nil
}

// mayLogIn asks the token how many wrong PINs it has seen, before one is sent.
func (t *token) mayLogIn() error {
	return t.raw(func(m *p11.Ctx) error {
		_, info, err := t.find(m)
		if err != nil {
			return err
		}
		bad := func(hint, what string) error {
			return fault(attest.Internal, "pkcs11_pin", hint, fmt.Errorf("the %s %s; no PIN was sent", t.named(), what))
		}
		switch {
		case info.Flags&p11.CKF_USER_PIN_LOCKED != 0:
			return bad("its security officer must set a new PIN", "has locked the user's PIN")
		case info.Flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
			return bad("log in once with the right PIN by the maker's tool", "would lock with one more wrong PIN")
		case info.Flags&p11.CKF_USER_PIN_COUNT_LOW != 0 && !t.proven && !t.try:
			return bad("correct the PIN, then run `assay-signer check`: it tries the PIN once", "was given a wrong PIN since it was last logged into")
		case info.Flags&p11.CKF_USER_PIN_INITIALIZED == 0:
			return bad("initialise the token first", "has no user PIN yet")
		}
		return nil
	})
}

// find returns the slot of the token.
func (t *token) find(m *p11.Ctx) (uint, p11.TokenInfo, error) {
	slots, err := m.GetSlotList(true)
	if err != nil {
		return 0, p11.TokenInfo{}, fault(attest.Unavailable, "pkcs11_open", "", fmt.Errorf("%s lists no slots: %w", t.c.Module, err))
	}
	var slot uint
	var found []p11.TokenInfo
	for _, s := range slots {
		info, err := m.GetTokenInfo(s)
		if err != nil {
			continue // an empty or broken slot beside ours
		}
		if t.c.Token != "" && info.Label == t.c.Token || t.c.Serial != "" && info.SerialNumber == t.c.Serial {
			slot = s
			found = append(found, info)
		}
	}
	switch len(found) {
	case 0:
		return 0, p11.TokenInfo{}, fault(attest.Unavailable, "pkcs11_token", "`softhsm2-util --show-slots`, `pkcs11-tool --list-slots` or the maker's tool lists what there is", fmt.Errorf("%s has no %s", t.c.Module, t.named()))
	case 1:
		return slot, found[0], nil
	}
	return 0, p11.TokenInfo{}, fault(attest.Internal, "pkcs11_token", "name it by its serial number", fmt.Errorf("%s has %d tokens with the label %q", t.c.Module, len(found), t.c.Token))
}

// raw calls f with the module itself, initialised. What go.step.sm/crypto has
// initialised already is left so.
func (t *token) raw(f func(*p11.Ctx) error) error {
	m := p11.New(t.c.Module)
	if m == nil {
		return fault(attest.Internal, "pkcs11_module", "is it the right library, and for this architecture?", fmt.Errorf("%s cannot be loaded", t.c.Module))
	}
	defer m.Destroy()
	switch err := m.Initialize(); {
	case err == nil:
		defer func() { _ = m.Finalize() }()
	case !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)):
		return fault(attest.Unavailable, "pkcs11_module", "look at the module's own log and configuration", fmt.Errorf("%s: %w", t.c.Module, err))
	}
	return f(m)
}

// reference is what a ref says: CKA_LABEL and CKA_ID, in the manner of RFC 7512.
type reference struct {
	label string
	id    []byte
}

func parseRef(ref string) (reference, error) {
	var r reference
	for _, part := range strings.Split(ref, ";") {
		k, v, ok := strings.Cut(part, "=")
		switch {
		case ok && k == "object" && r.label == "" && keys.CheckName(v) == nil:
			r.label = v
		case ok && k == "id" && r.id == nil && v != "" && len(v) <= 128:
			id, err := hex.DecodeString(v)
			if err != nil {
				return r, badRef(ref)
			}
			r.id = id
		default:
			return r, badRef(ref)
		}
	}
	if r.label == "" || r.id == nil {
		return r, badRef(ref)
	}
	return r, nil
}

func badRef(ref string) error {
	return fault(attest.Internal, "key_ref", "ref: object=LABEL;id=HEX: the key's CKA_LABEL (a-z, 0-9 and '-') and CKA_ID", fmt.Errorf("ref %.200q is not the name of an object", ref))
}

func (r reference) uri() string {
	return steppkcs11.Scheme + ":id=" + hex.EncodeToString(r.id) + ";object=" + r.label
}

// find counts the private keys of that name, and reads what the token says of
// the one.
func (r reference) find(m *p11.Ctx, s p11.SessionHandle) (n int, facts map[uint]bool, err error) {
	want := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_LABEL, r.label)}
	if r.id != nil {
		want = append(want, p11.NewAttribute(p11.CKA_ID, r.id))
	}
	if err := m.FindObjectsInit(s, want); err != nil {
		return 0, nil, err
	}
	found, _, err := m.FindObjects(s, 8)
	if err := errors.Join(err, m.FindObjectsFinal(s)); err != nil {
		return 0, nil, err
	}
	if len(found) != 1 {
		return len(found), nil, nil
	}
	facts = map[uint]bool{}
	for _, a := range []uint{p11.CKA_LOCAL, p11.CKA_SENSITIVE, p11.CKA_ALWAYS_SENSITIVE, p11.CKA_EXTRACTABLE, p11.CKA_NEVER_EXTRACTABLE} {
		got, err := m.GetAttributeValue(s, found[0], []*p11.Attribute{p11.NewAttribute(a, nil)})
		if err != nil {
			return 0, nil, fmt.Errorf("attribute %#x: %w", a, err)
		}
		facts[a] = len(got) == 1 && len(got[0].Value) == 1 && got[0].Value[0] != 0
	}
	return 1, facts, nil
}

// inspect looks a name up. The login is the process's (PKCS#11 v2.40, section
// 2.7), so a session of our own sees private objects. The caller holds t.mu.
func (t *token) inspect(r reference) (n int, facts map[uint]bool, err error) {
	t.modules.Lock()
	defer t.modules.Unlock()
	err = t.raw(func(m *p11.Ctx) error {
		slot, _, err := t.find(m)
		if err != nil {
			return err
		}
		s, err := m.OpenSession(slot, p11.CKF_SERIAL_SESSION)
		if err != nil {
			return err
		}
		defer func() { _ = m.CloseSession(s) }()
		n, facts, err = r.find(m, s)
		return err
	})
	return n, facts, err
}

// key finds a key and makes sure that the token made it, and keeps it:
//
//	store_key   there is one private key with that label and id, and not two
//	key_origin  CKA_LOCAL and CKA_NEVER_EXTRACTABLE, CKA_ALWAYS_SENSITIVE: it was never
//	            anywhere else
func (t *token) key(_ context.Context, ref string) (crypto.Signer, error) {
	r, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.kms == nil {
		return nil, t.gone()
	}
	if err := t.checkOrigin(r); err != nil {
		return nil, err
	}
	s, err := t.kms.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: r.uri()})
	if err != nil {
		return nil, fault(attest.Internal, "store_key", "", fmt.Errorf("%s: %w", ref, err))
	}
	return &tokenKey{token: t, ref: r, pub: s.Public(), life: t.life, signer: s}, nil
}

func (t *token) checkOrigin(r reference) error {
	n, facts, err := t.inspect(r)
	switch {
	case err != nil:
		return fault(attest.Unavailable, "store_key", "", fmt.Errorf("the %s: looking for %s: %w", t.named(), r.uri(), err))
	case n == 0:
		return fault(attest.Internal, "store_key", "make it with `assay-signer keys create`, or mend ref", fmt.Errorf("the %s has no private key %s: %w", t.named(), r.uri(), fs.ErrNotExist))
	case n > 1:
		return fault(attest.Internal, "store_key", "remove or rename all but one", fmt.Errorf("the %s has %d private keys %s", t.named(), n, r.uri()))
	case t.c.AllowImported:
		return nil
	}
	for _, want := range []struct {
		attr  uint
		value bool
		what  string
	}{
		{p11.CKA_LOCAL, true, "was not made in the token (CKA_LOCAL is false)"},
		{p11.CKA_EXTRACTABLE, false, "can be taken out of the token (CKA_EXTRACTABLE is true)"},
		{p11.CKA_NEVER_EXTRACTABLE, true, "could once be taken out of the token (CKA_NEVER_EXTRACTABLE is false)"},
		{p11.CKA_SENSITIVE, true, "can be read (CKA_SENSITIVE is false)"},
		{p11.CKA_ALWAYS_SENSITIVE, true, "could once be read (CKA_ALWAYS_SENSITIVE is false)"},
	} {
		if facts[want.attr] != want.value {
			return fault(attest.Denied, "key_origin", "make a key with `assay-signer keys create`; allow_imported: true takes this one", fmt.Errorf("the key %s %s", r.uri(), want.what))
		}
	}
	return nil
}

// create makes a key pair in the token. Both halves are named by label, and by
// an id that is drawn.
func (t *token) create(_ context.Context, name string, alg Algorithm) (string, crypto.PublicKey, error) {
	if err := keys.CheckName(name); err != nil {
		return "", nil, fault(attest.Internal, "store_create", "choose another name", err)
	}
	if alg == Ed25519 {
		return "", nil, fault(attest.Internal, "store_create", "PKCS#11 is used with ECDSA and RSA; keep the checkpoint key in a file, in AWS KMS or in Vault", errors.New("no Ed25519 keys in a PKCS#11 store"))
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	switch n, _, err := t.inspect(reference{label: name}); {
	case err != nil:
		return "", nil, fault(attest.Unavailable, "store_create", "", err)
	case n > 0:
		return "", nil, fault(attest.Internal, "store_create", "choose another name", fmt.Errorf("the %s holds a private key %s: %w", t.named(), name, fs.ErrExist))
	}
	r := reference{label: name, id: make([]byte, 8)}
	_, _ = rand.Read(r.id) // crypto/rand.Read never fails (Go 1.24)
	req := apiv1.CreateKeyRequest{Name: r.uri()}
	req.SignatureAlgorithm, req.Bits = alg.step()
	made, err := t.kms.CreateKey(&req)
	if err != nil {
		return "", nil, fault(attest.Internal, "store_create", "", fmt.Errorf("the %s: %w", t.named(), err))
	}
	if err := t.checkOrigin(r); err != nil {
		return "", nil, err
	}
	return "object=" + r.label + ";id=" + hex.EncodeToString(r.id), made.PublicKey, nil
}

func (t *token) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kms == nil {
		return nil
	}
	t.modules.Lock()
	defer t.modules.Unlock()
	err := t.kms.Close()
	t.kms = nil
	return err
}

func (t *token) gone() error {
	return fault(attest.Unavailable, "pkcs11_open", "the signer goes on trying", fmt.Errorf("the %s went away: %w", t.named(), t.away))
}

// reconnect opens the token again, unless somebody else has since life.
func (t *token) reconnect(life int, why error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life != life {
		return nil
	}
	now := time.Now()
	if now.Before(t.retry) {
		return t.gone()
	}
	t.log.Warn("the token's session died: opening it again", slog.String("token", t.named()), slog.String("error", why.Error()))
	if t.kms != nil {
		t.modules.Lock()
		_ = t.kms.Close() // it is dead
		t.modules.Unlock()
		t.kms = nil
	}
	if err := t.connect(); err != nil {
		t.away = err
		t.pause = min(max(2*t.pause, firstPause), longPause)
		t.retry = now.Add(t.pause)
		t.log.Error("the token cannot be opened", slog.String("token", t.named()), slog.String("error", err.Error()), slog.Duration("next_attempt_in", t.pause))
		if t.refused != nil {
			return t.refused
		}
		return t.gone()
	}
	t.life++
	t.pause, t.retry, t.away = 0, time.Time{}, nil
	t.log.Info("the token is open again", slog.String("token", t.named()))
	return nil
}

// tokenKey is a key of a token, over the lives of its sessions.
type tokenKey struct {
	token *token
	ref   reference
	pub   crypto.PublicKey

	mu     sync.Mutex
	life   int // of the token, in which signer was found
	signer crypto.Signer
}

// Public implements crypto.Signer.
func (k *tokenKey) Public() crypto.PublicKey { return k.pub }

// Sign implements crypto.Signer.
func (k *tokenKey) Sign(rnd io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, life, err := k.once(rnd, digest, opts)
	if err == nil || !dead(err) {
		return sig, signFault(err)
	}
	if err := k.token.reconnect(life, err); err != nil {
		return nil, err
	}
	sig, _, err = k.once(rnd, digest, opts)
	return sig, signFault(err)
}

// once signs with the session there is.
func (k *tokenKey) once(rnd io.Reader, digest []byte, opts crypto.SignerOpts) (sig []byte, life int, err error) {
	k.token.mu.RLock()
	defer k.token.mu.RUnlock()
	life = k.token.life
	if k.token.kms == nil {
		return nil, life, errAway
	}
	s, err := k.current()
	if err != nil {
		return nil, life, err
	}
	sig, err = s.Sign(rnd, digest, opts)
	return sig, life, err
}

// current returns the signer of this life of the token. The caller holds the
// token's lock.
func (k *tokenKey) current() (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.life == k.token.life {
		return k.signer, nil
	}
	s, err := k.token.kms.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: k.ref.uri()})
	if err != nil {
		return nil, err
	}
	if pub, ok := k.pub.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(s.Public()) {
		return nil, fault(attest.Internal, "store_key", "somebody replaced the key in the token, or the token itself", fmt.Errorf("the %s holds another key as %s than when this process started", k.token.named(), k.ref.uri()))
	}
	k.signer, k.life = s, k.token.life
	return s, nil
}

var errAway = errors.New("the token is not open")

// dead says whether an error means that the session, the login or the token is
// gone, so that opening the token again may help.
func dead(err error) bool {
	var code p11.Error
	if errors.Is(err, errAway) || strings.Contains(err.Error(), "context is closed") {
		return true
	}
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_CRYPTOKI_NOT_INITIALIZED,
		p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED, p11.CKR_GENERAL_ERROR,
		p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID:
		return true
	}
	return false
}

// signFault names the error of a signature.
func signFault(err error) error {
	var e *attest.Error
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case dead(err):
		return fault(attest.Unavailable, "pkcs11_sign", "is the HSM reachable?", err)
	}
	return fault(attest.Internal, "pkcs11_sign", "", err)
}

func codeName(code p11.Error) string { return strings.TrimPrefix(code.Error(), "pkcs11: ") }
