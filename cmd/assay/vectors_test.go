package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/vectors"
)

// manifest is what MANIFEST.json says must come of a recorded document.
type manifest struct {
	Verifies     bool                 `json:"verifies"`
	Kind         string               `json:"kind"` // "enclave" or "NitroTPM"
	Reason       string               `json:"reason"`
	ModuleID     string               `json:"module_id"`
	TimestampMS  int64                `json:"timestamp_ms"`
	PCRs         map[int]attest.Bytes `json:"pcrs"` // those above 2 that are all zero are left out
	PCRsCount    int                  `json:"pcrs_count"`
	Debug        bool                 `json:"debug_mode"`
	PublicKey    attest.Bytes         `json:"public_key"`
	UserData     attest.Bytes         `json:"user_data"`
	Nonce        attest.Bytes         `json:"nonce"`
	PublicKeyLen *int                 `json:"public_key_len"`
	UserDataLen  *int                 `json:"user_data_len"`
	NonceLen     *int                 `json:"nonce_len"`
}

// refusals names, for each recording that must be refused, the check that
// refuses it. The manifest gives the reason in words only.
var refusals = map[string]struct {
	check string
	kind  attest.Kind
	code  int
}{
	"nitro/blocky-selfsigned":           {"cose_unprotected", attest.Malformed, cli.Malformed},
	"nitro/veracruz-bad-signature-2022": {"cose_signature", attest.Untrusted, cli.Untrusted},
	"nitro/oyster-custom-root":          {"chain_root", attest.Untrusted, cli.Untrusted},
	"nitro/nitrotpm-vaportpm-2026":      {"doc_platform", attest.Malformed, cli.Malformed},
}

type recording struct {
	vectors.Vector
	manifest
}

func recordings(t *testing.T) []recording {
	t.Helper()
	var out []recording
	for _, v := range vectors.Load(t, "nitro") {
		if len(v.Expect) == 0 {
			continue // trust anchors
		}
		r := recording{Vector: v}
		if err := json.Unmarshal(v.Expect, &r.manifest); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		if r.VerificationTime == nil {
			t.Fatalf("%s: no verification time", v.Name)
		}
		out = append(out, r)
	}
	if len(out) < 20 {
		t.Fatalf("only %d recordings", len(out))
	}
	return out
}

func (r recording) at() string { return r.VerificationTime.Format(time.RFC3339Nano) }

// documents lists the recording's files that hold a document.
func (r recording) documents() []string {
	var out []string
	for _, f := range r.Files {
		switch filepath.Base(f) {
		case "document.cbor", "nsm-response.bin":
			out = append(out, r.Path(f))
		}
	}
	return out
}

func TestEveryRecordedNitroDocumentEndsAsTheManifestSays(t *testing.T) {
	n := 0
	for _, r := range recordings(t) {
		for _, file := range r.documents() {
			n++
			t.Run(r.Name+"/"+filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				got := assay(t, nil, "evidence", "verify", "--tee", "aws-nitro", "--at", r.at(), "--output", "json", file)
				var v verdict
				got.decode(t, &v)
				if !r.Verifies || r.Kind != "enclave" {
					r.expectRefusal(t, got, v)
					return
				}
				if got.code != cli.OK || !v.Verified || v.Kind != nil || v.Check != nil || v.Error != nil || v.Decision != nil {
					t.Fatalf("exit code %d, want 0 and verified:\n%s", got.code, got.stdout)
				}
				if v.TEE != attest.AWSNitro || v.Binding != "unchecked" || v.Nonce != "unchecked" || v.Revocation != "not_checked" || len(v.Unused) != 0 || !v.At.Equal(*r.VerificationTime) {
					t.Errorf("the verdict is not that of a plain verification:\n%s", got.stdout)
				}
				r.expectClaims(t, v.Claims)
				if warned := strings.HasPrefix(got.stderr, "warning: debug evidence:"); warned != r.Debug || len(v.Warnings) != map[bool]int{true: 1}[r.Debug] {
					t.Errorf("debug is %v, warnings %q, standard error %q", r.Debug, v.Warnings, got.stderr)
				}
			})
		}
	}
	if n != 26 {
		t.Errorf("%d documents, want 26: 25 recordings, one of them in its response too", n)
	}
}

func (r recording) expectRefusal(t *testing.T, got ran, v verdict) {
	t.Helper()
	want, ok := refusals[r.Name]
	if !ok {
		t.Fatalf("the manifest says that it does not verify (%s), and the test does not know which check says so", r.Reason)
	}
	if got.code != want.code || v.Verified || v.Claims != nil || v.Kind == nil || *v.Kind != want.kind || v.Check == nil || *v.Check != want.check || v.Error == nil {
		t.Fatalf("exit code %d, want %d, %s by %s:\n%s", got.code, want.code, want.kind, want.check, got.stdout)
	}
	if got.stderr != "" {
		t.Errorf("JSON output also wrote to standard error: %q", got.stderr)
	}
}

func (r recording) expectClaims(t *testing.T, c *attest.Claims) {
	t.Helper()
	if c == nil || c.Nitro == nil || c.Simulated {
		t.Fatalf("claims %+v, want those of hardware", c)
	}
	pcrs := make(map[int]attest.Bytes)
	for i := range r.PCRsCount {
		pcrs[i] = make(attest.Bytes, 48)
	}
	for i, v := range r.PCRs {
		pcrs[i] = v
	}
	if diff := cmp.Diff(pcrs, c.Nitro.PCRs); diff != "" {
		t.Errorf("PCRs (-want +got):\n%s", diff)
	}
	if c.Nitro.ModuleID != r.ModuleID || c.Nitro.Timestamp.UnixMilli() != r.TimestampMS || c.Nitro.Debug != r.Debug {
		t.Errorf("claims %+v, want module %s, timestamp %d, debug %v", c.Nitro, r.ModuleID, r.TimestampMS, r.Debug)
	}
	for _, f := range []struct {
		name      string
		got, want attest.Bytes
		size      *int
	}{
		{"public_key", c.Nitro.PublicKey, r.PublicKey, r.PublicKeyLen},
		{"user_data", c.Nitro.UserData, r.UserData, r.UserDataLen},
		{"nonce", c.Nitro.Nonce, r.Nonce, r.NonceLen},
	} {
		switch {
		case f.size == nil && f.got != nil:
			t.Errorf("%s is %s, want null", f.name, f.got)
		case f.size != nil && len(f.got) != *f.size:
			t.Errorf("%s has %d bytes, want %d", f.name, len(f.got), *f.size)
		case f.want != nil && f.got.String() != f.want.String():
			t.Errorf("%s is %s, want %s", f.name, f.got, f.want)
		}
	}
}

func TestRecordedDocumentsVerifyInHexAndBase64AndFromStandardInput(t *testing.T) {
	for _, r := range recordings(t) {
		if !r.Verifies || r.Kind != "enclave" {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			doc := r.Read(t, "document.cbor")
			for name, form := range map[string]string{
				"binary":  string(doc),
				"hex":     hex.EncodeToString(doc) + "\n",
				"base64":  base64.StdEncoding.EncodeToString(doc) + "\n",
				"wrapped": wrap(base64.StdEncoding.EncodeToString(doc)),
				"url":     base64.RawURLEncoding.EncodeToString(doc),
			} {
				got := assay(t, []byte(form), "evidence", "verify", "--tee", "aws-nitro", "--at", r.at(), "--output", "json", "-")
				var v verdict
				got.decode(t, &v)
				if got.code != cli.OK || v.Claims == nil || v.Claims.Nitro.ModuleID != r.ModuleID {
					t.Errorf("%s: exit code %d\n%s", name, got.code, got.stdout)
				}
			}
		})
	}
}

func wrap(s string) string {
	var b strings.Builder
	for len(s) > 64 {
		b.WriteString(s[:64] + "\r\n")
		s = s[64:]
	}
	return b.String() + s + "\n"
}

func TestARecordedDocumentIsStaleNowAndTheHintSaysWhatToDo(t *testing.T) {
	for _, r := range recordings(t) {
		if !r.Verifies || r.Kind != "enclave" {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			file := r.documents()[0]
			got := assay(t, nil, "evidence", "verify", "--tee", "aws-nitro", file)
			second := time.UnixMilli(r.TimestampMS).UTC().Format(time.RFC3339)
			hint := "hint: recorded evidence is verified at the time it was made: --at " + second + " (that is the evidence's own word, unverified)\n"
			if got.code != cli.Stale || !strings.HasPrefix(got.stdout, "REFUSED: ") || !strings.HasPrefix(got.stderr, "error: chain_validity: ") || !strings.HasSuffix(got.stderr, hint) {
				t.Fatalf("exit code %d, want %d and the hint\n%s\n%s", got.code, cli.Stale, got.stdout, got.stderr)
			}
			// What the hint says has to work.
			if got := assay(t, nil, "evidence", "verify", "--tee", "aws-nitro", "--at", second, file); got.code != cli.OK {
				t.Errorf("at the time that the hint names: exit code %d\n%s", got.code, got.stderr)
			}
		})
	}
}

func TestInspectShowsEveryRecordingAndNeverCallsItVerified(t *testing.T) {
	for _, r := range recordings(t) {
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			for _, file := range r.documents() {
				got := assay(t, nil, "evidence", "inspect", "--tee", "aws-nitro", file)
				if got.code != cli.OK || !strings.HasPrefix(got.stdout, "NOT VERIFIED: ") || strings.Count(got.stdout, "VERIFIED") != 1 || !strings.Contains(got.stdout, r.ModuleID) {
					t.Fatalf("exit code %d:\n%s%s", got.code, got.stdout, got.stderr)
				}
				for i, v := range r.PCRs {
					if v.String() != strings.Repeat("00", 48) && !strings.Contains(got.stdout, fmt.Sprint(i)+" ") || !zero(v) && !strings.Contains(got.stdout, v.String()) {
						t.Errorf("PCR%d is not shown:\n%s", i, got.stdout)
					}
				}
				var j struct {
					Verified   *bool
					TEE        string
					Unverified struct {
						ModuleID string `json:"module_id"`
					}
				}
				assay(t, nil, "evidence", "inspect", "--tee", "aws-nitro", "--output", "json", file).decode(t, &j)
				if j.Verified == nil || *j.Verified || j.TEE != "aws-nitro" || j.Unverified.ModuleID != r.ModuleID {
					t.Errorf("JSON %+v", j)
				}
			}
		})
	}
}

func TestThePinnedRootGivenByNameIsStillTheHardwareRoot(t *testing.T) {
	root := filepath.Join(vectors.Dir(t), "nitro", "roots", "aws-nitro-root-g1.pem")
	if _, err := os.Stat(root); err != nil {
		t.Fatal(err)
	}
	for _, r := range recordings(t) {
		if r.Name != "nitro/anjuna-prod-2023" {
			continue
		}
		got := assay(t, nil, "evidence", "verify", "--tee", "aws-nitro", "--at", r.at(), "--roots", root, "--output", "json", r.documents()[0])
		var v verdict
		got.decode(t, &v)
		if got.code != cli.OK || !v.Verified || v.Claims.Simulated {
			t.Fatalf("exit code %d\n%s", got.code, got.stdout)
		}
		return
	}
	t.Fatal("the recording is gone")
}
