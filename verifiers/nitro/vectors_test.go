package nitro_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"path"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hf/nitrite"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
	"github.com/assay-project/assay/verifiers/nitro"
)

// expectation is what the manifest says of a recorded document.
type expectation struct {
	Verifies     bool              `json:"verifies"`
	Kind         string            `json:"kind"` // "enclave" or "NitroTPM"
	ModuleID     string            `json:"module_id"`
	TimestampMS  int64             `json:"timestamp_ms"`
	PCRs         map[string]string `json:"pcrs"` // all-zero ones above 2 left out
	PCRsCount    int               `json:"pcrs_count"`
	UserData     *string           `json:"user_data"`
	Nonce        *string           `json:"nonce"`
	PublicKey    *string           `json:"public_key"`
	PublicKeyLen *int              `json:"public_key_len"`
	UserDataLen  *int              `json:"user_data_len"`
	NonceLen     *int              `json:"nonce_len"`
	Debug        bool              `json:"debug_mode"`
}

// recording is one recorded document.
type recording struct {
	name   string
	vector vectors.Vector
	body   []byte
	at     time.Time
	want   expectation
}

// recordings loads every recorded document, or skips the test loudly.
func recordings(t testing.TB) []recording {
	t.Helper()
	var out []recording
	for _, v := range vectors.Load(t, "nitro") {
		if v.VerificationTime == nil {
			continue // the roots
		}
		r := recording{name: path.Base(v.Name), vector: v, body: v.Read(t, "document.cbor"), at: *v.VerificationTime}
		if err := json.Unmarshal(v.Expect, &r.want); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		out = append(out, r)
	}
	if len(out) < 20 {
		t.Fatalf("%d recorded documents, expected at least 20", len(out))
	}
	return out
}

// refusedRecordings are the recordings that must not verify, with the check
// that each must end in.
var refusedRecordings = map[string]string{
	"blocky-selfsigned":           nitro.CheckCOSEUnprotected,
	"oyster-custom-root":          nitro.CheckChainRoot,
	"veracruz-bad-signature-2022": nitro.CheckCOSESignature,
	"nitrotpm-vaportpm-2026":      nitro.CheckDocPlatform,
}

func TestRecordedDocumentsVerifyAsTheManifestSays(t *testing.T) {
	v := hardware(t)
	for _, r := range recordings(t) {
		t.Run(r.name, func(t *testing.T) {
			got, err := v.Authenticate(t.Context(), evidence(r.body), r.at)
			if check, refused := refusedRecordings[r.name]; refused {
				wantRefusal(t, got, err, check)
				return
			}
			if !r.want.Verifies || r.want.Kind != "enclave" {
				t.Fatal("the manifest says that it does not verify, and this test names no check for it")
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r.claims(t, got), got); diff != "" {
				t.Errorf("claims (-manifest +got):\n%s", diff)
			}
		})
	}
}

// claims renders the manifest's expectation as claims. Of byte strings that the
// manifest gives by length only, it takes over the content of got.
func (r recording) claims(t *testing.T, got *attest.Claims) *attest.Claims {
	t.Helper()
	n := &attest.Nitro{
		ModuleID:  r.want.ModuleID,
		Timestamp: time.UnixMilli(r.want.TimestampMS).UTC(),
		PCRs:      make(map[int]attest.Bytes),
		Debug:     r.want.Debug,
		PublicKey: field(t, r.want.PublicKey, r.want.PublicKeyLen, got.Nitro.PublicKey),
		UserData:  field(t, r.want.UserData, r.want.UserDataLen, got.Nitro.UserData),
		Nonce:     field(t, r.want.Nonce, r.want.NonceLen, got.Nitro.Nonce),
	}
	for i := range r.want.PCRsCount {
		n.PCRs[i] = make(attest.Bytes, 48)
	}
	for k, v := range r.want.PCRs {
		var i int
		if err := json.Unmarshal([]byte(k), &i); err != nil {
			t.Fatal(err)
		}
		n.PCRs[i] = unhex(t, v)
	}
	return &attest.Claims{Platform: attest.AWSNitro, Nitro: n}
}

func field(t *testing.T, content *string, length *int, got attest.Bytes) attest.Bytes {
	t.Helper()
	switch {
	case content != nil:
		return unhex(t, *content)
	case length == nil:
		return nil
	case *length == len(got) && got != nil:
		return got
	}
	return make(attest.Bytes, *length)
}

func unhex(t *testing.T, s string) attest.Bytes {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOurClaimsEqualNitritesDocument(t *testing.T) {
	v := hardware(t)
	for _, r := range recordings(t) {
		if _, refused := refusedRecordings[r.name]; refused {
			continue
		}
		got, err := v.Authenticate(t.Context(), evidence(r.body), r.at)
		if err != nil {
			t.Fatal(err)
		}
		res, err := nitrite.Verify(r.body, nitrite.VerifyOptions{CurrentTime: r.at})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fromNitrite(res.Document), *got.Nitro); diff != "" {
			t.Errorf("%s (-nitrite +ours):\n%s", r.name, diff)
		}
	}
}

// fromNitrite puts nitrite's document into our words.
func fromNitrite(d *nitrite.Document) attest.Nitro {
	n := attest.Nitro{
		ModuleID:  d.ModuleID,
		Timestamp: time.UnixMilli(int64(d.Timestamp)).UTC(),
		PCRs:      make(map[int]attest.Bytes),
		PublicKey: d.PublicKey, UserData: d.UserData, Nonce: d.Nonce,
	}
	for i, v := range d.PCRs {
		n.PCRs[int(i)] = v
	}
	zero := make([]byte, 48)
	n.Debug = bytes.Equal(d.PCRs[0], zero) && bytes.Equal(d.PCRs[1], zero) && bytes.Equal(d.PCRs[2], zero)
	return n
}

func TestARecordedDocumentIsStaleToday(t *testing.T) {
	v := hardware(t)
	for _, r := range recordings(t) {
		if _, refused := refusedRecordings[r.name]; refused {
			continue
		}
		got, err := v.Authenticate(t.Context(), evidence(r.body), time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))
		wantRefusal(t, got, err, nitro.CheckChainValidity)
	}
}
