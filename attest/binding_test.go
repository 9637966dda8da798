package attest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

// vector is one entry of docs/spec/binding-vector.json.
type vector struct {
	Comment     string       `json:"comment"`
	TEE         string       `json:"tee"`
	TrustDomain string       `json:"trust_domain"`
	ServerID    string       `json:"server_id"`
	Exporter    attest.Bytes `json:"exporter"`
	Nonce       attest.Bytes `json:"nonce"`
	Keys        []struct {
		SPKI        attest.Bytes `json:"spki"`
		RequestedID string       `json:"requested_id"`
	} `json:"keys"`
	Purpose string       `json:"purpose"`
	CBOR    attest.Bytes `json:"cbor"`
	Binding attest.Bytes `json:"binding"`
	Nitro   attest.Bytes `json:"nitro_user_data"`
	Renewal attest.Bytes `json:"renewal_message"`
}

func (v vector) challenge() attest.Challenge {
	c := attest.Challenge{
		Platform: attest.Platform(v.TEE), TrustDomain: v.TrustDomain, ServerID: v.ServerID,
		Exporter: [32]byte(v.Exporter), Nonce: attest.Nonce(v.Nonce), Purpose: attest.Purpose(v.Purpose),
	}
	for _, k := range v.Keys {
		c.Keys = append(c.Keys, attest.BoundKey{SPKI: k.SPKI, RequestedID: k.RequestedID})
	}
	return c
}

func vectors(t *testing.T) []vector {
	t.Helper()
	src, err := os.ReadFile("../docs/spec/binding-vector.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Comment string   `json:"comment"`
		Vectors []vector `json:"vectors"`
	}
	dec := json.NewDecoder(bytes.NewReader(src))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) < 2 {
		t.Fatalf("%d vectors", len(file.Vectors))
	}
	return file.Vectors
}

func TestTheBindingIsThatOfThePublishedVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Comment, func(t *testing.T) {
			got, err := v.challenge().Binding()
			if err != nil {
				t.Fatal(err)
			}
			if got.B != [32]byte(v.Binding) {
				t.Errorf("got %x, published %s", got.B, v.Binding)
			}
		})
	}
}

// The published encoding is the one that the specification describes, read by
// a decoder that knows nothing of package attest.
func TestThePublishedVectorsSayWhatTheSpecificationSays(t *testing.T) {
	for _, v := range vectors(t) {
		if sum := sha256.Sum256(v.CBOR); !bytes.Equal(sum[:], v.Binding) {
			t.Errorf("%s: SHA-256 of the encoding is %x", v.Comment, sum)
		}
		var got []any
		if err := cbor.Unmarshal(v.CBOR, &got); err != nil {
			t.Fatal(err)
		}
		var keys []any
		for _, k := range v.Keys {
			sum := sha256.Sum256(k.SPKI)
			keys = append(keys, []any{sum[:], k.RequestedID})
		}
		want := []any{"assay/v1 binding", v.TEE, v.TrustDomain, v.ServerID, []byte(v.Exporter), []byte(v.Nonce), keys, v.Purpose}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", v.Comment, d)
		}
		if v.TEE == "aws-nitro" && !bytes.Equal(v.Nitro, append([]byte("assay/v1\x00"), v.Binding...)) {
			t.Errorf("%s: nitro_user_data is %s", v.Comment, v.Nitro)
		}
		if v.Purpose == "renew" && !bytes.Equal(v.Renewal, append([]byte("assay/v1 renew\x00"), v.Binding...)) {
			t.Errorf("%s: renewal_message is %s", v.Comment, v.Renewal)
		}
	}
}
