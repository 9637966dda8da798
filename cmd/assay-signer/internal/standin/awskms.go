package standin

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// AWSKMS answers the operations of AWS KMS that make and use signing keys:
// CreateKey, CreateAlias, DescribeKey, GetPublicKey and Sign (AWS JSON 1.1: the
// operation is in X-Amz-Target, bytes are base64). It demands a Signature
// Version 4 and does not check it.
type AWSKMS struct {
	keys
	// Deny refuses every operation, as a policy of AWS would.
	Deny bool
}

// NewAWSKMS returns a service without keys.
func NewAWSKMS() *AWSKMS { return &AWSKMS{keys: newKeys()} }

const awsJSON = "application/x-amz-json-1.1"

type awsError struct {
	Type    string `json:"__type"`
	Message string `json:"message"`
}

// ServeHTTP implements http.Handler.
func (a *AWSKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(code int, kind, msg string) { answer(w, code, awsJSON, awsError{kind, msg}) }
	op, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	auth := r.Header.Get("Authorization")
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/" || !ok:
		fail(http.StatusBadRequest, "UnknownOperationException", "no such operation")
		return
	case !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=") || !strings.Contains(auth, "/kms/aws4_request") || r.Header.Get("X-Amz-Date") == "":
		fail(http.StatusBadRequest, "MissingAuthenticationTokenException", "the request is not signed")
		return
	case a.Deny:
		fail(http.StatusBadRequest, "AccessDeniedException", "User is not authorized to perform: kms:"+op)
		return
	}
	var in struct {
		KeyId, KeySpec, KeyUsage, AliasName, TargetKeyId string
		SigningAlgorithm, MessageType                    string
		Message                                          []byte
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err == nil {
		err = json.Unmarshal(body, &in)
	}
	if err != nil {
		fail(http.StatusBadRequest, "SerializationException", err.Error())
		return
	}
	a.saw(op)
	if op == "CreateKey" {
		kind := map[string]string{"ECC_NIST_P256": "P-256", "ECC_NIST_P384": "P-384", "RSA_2048": "RSA-2048", "ECC_NIST_EDWARDS25519": "Ed25519"}[in.KeySpec]
		key, err := generate(kind)
		if err != nil || in.KeyUsage != "SIGN_VERIFY" {
			fail(http.StatusBadRequest, "ValidationException", "KeySpec "+in.KeySpec+", KeyUsage "+in.KeyUsage)
			return
		}
		id := newID()
		a.put(id, key)
		answer(w, http.StatusOK, awsJSON, map[string]any{"KeyMetadata": map[string]any{"KeyId": id, "KeySpec": in.KeySpec, "KeyUsage": in.KeyUsage, "Enabled": true}})
		return
	}
	if op == "CreateAlias" {
		in.KeyId = in.TargetKeyId
	}
	key := a.get(in.KeyId)
	if key == nil {
		fail(http.StatusBadRequest, "NotFoundException", "Key '"+in.KeyId+"' does not exist")
		return
	}
	switch op {
	case "CreateAlias":
		answer(w, http.StatusOK, awsJSON, map[string]any{})
	case "DescribeKey":
		answer(w, http.StatusOK, awsJSON, map[string]any{"KeyMetadata": map[string]any{"KeyId": in.KeyId, "KeyUsage": "SIGN_VERIFY", "Enabled": true, "Origin": "AWS_KMS"}})
	case "GetPublicKey":
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			fail(http.StatusInternalServerError, "KMSInternalException", err.Error())
			return
		}
		answer(w, http.StatusOK, awsJSON, map[string]any{"KeyId": in.KeyId, "PublicKey": spki, "KeyUsage": "SIGN_VERIFY"})
	case "Sign":
		var opts crypto.SignerOpts
		switch in.SigningAlgorithm + " " + in.MessageType {
		case "ECDSA_SHA_256 DIGEST", "RSASSA_PKCS1_V1_5_SHA_256 DIGEST":
			opts = crypto.SHA256
		case "ECDSA_SHA_384 DIGEST":
			opts = crypto.SHA384
		case "RSASSA_PSS_SHA_256 DIGEST":
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		case "ED25519_SHA_512 RAW":
			opts = crypto.Hash(0)
		default:
			fail(http.StatusBadRequest, "ValidationException", in.SigningAlgorithm+" "+in.MessageType)
			return
		}
		sig, err := key.Sign(rand.Reader, in.Message, opts)
		if err != nil {
			fail(http.StatusBadRequest, "InvalidKeyUsageException", err.Error())
			return
		}
		answer(w, http.StatusOK, awsJSON, map[string]any{"KeyId": in.KeyId, "Signature": sig, "SigningAlgorithm": in.SigningAlgorithm})
	default:
		fail(http.StatusBadRequest, "UnknownOperationException", op)
	}
}

// newID draws a key id in the form of AWS's.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
