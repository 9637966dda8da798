package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha1" // two recordings are signed with it
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"math/big"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/vectors"
)

// tpmRecording is a recorded quote.
type tpmRecording struct {
	vectors.Vector
	at        time.Time
	ak        string // file
	verifies  bool
	extraData string
	pcrs      *bool // whether there are values that match
}

func tpmRecordings(t *testing.T) []tpmRecording {
	t.Helper()
	var out []tpmRecording
	for _, tee := range []string{"tpm", "azure"} {
		for _, v := range vectors.Load(t, tee) {
			if !slices.ContainsFunc(v.Files, func(f string) bool { return path.Base(f) == "quote.bin" || path.Base(f) == "attestation.pb" }) {
				continue // trust anchors, and one confidential VM without a quote
			}
			r := tpmRecording{Vector: v, at: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)}
			if v.VerificationTime != nil {
				r.at = *v.VerificationTime
			}
			type quote struct {
				ExtraData string `json:"extra_data"`
				AKFile    string `json:"ak_file"`
				PCRs      *bool  `json:"pcr_values_match_digest"`
			}
			var want struct {
				quote
				Verifies bool   `json:"verifies"`
				Quote    *quote `json:"tpm_quote"`
			}
			check(t, json.Unmarshal(v.Expect, &want))
			q := want.quote
			if want.Quote != nil {
				q = *want.Quote
			}
			r.verifies, r.extraData, r.pcrs = want.Verifies, q.ExtraData, q.PCRs
			if q.AKFile != "" {
				r.ak = r.file(t, q.AKFile)
			}
			out = append(out, r)
		}
	}
	if len(out) < 18 {
		t.Fatalf("only %d recordings", len(out))
	}
	return out
}

// file is the path of a recording's file, or "".
func (r tpmRecording) file(t *testing.T, base string) string {
	t.Helper()
	for _, f := range r.Files {
		if path.Base(f) == base {
			return r.Path(f)
		}
	}
	return ""
}

// forms are the ways in which the recording can be imported: the quote's own files,
// with each file of registers, and the file that the tool wrote.
func (r tpmRecording) forms(t *testing.T) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	for _, f := range r.Files {
		switch base := path.Base(f); base {
		case "pcrs.json", "pcr_blob.tpm2tools.bin":
			args := []string{"--quote", r.file(t, "quote.bin"), "--signature", r.file(t, "signature.bin"), "--ak", r.ak, "--pcrs", r.Path(f)}
			if log := r.file(t, "eventlog.bin"); log != "" {
				args = append(args, "--event-log", log)
			}
			out["quote with "+base] = args
		case "attestation.pb", "dump.json", "fixture.json":
			out[base] = []string{r.Path(f)}
		case "evidence.json": // of Trustee and others: the AK is in it
			out[base] = []string{r.Path(f)}
		case "parsec-evidence.cbor":
			out[base] = []string{r.Path(f), "--ak", r.ak}
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s: no form", r.Name)
	}
	return out
}

// tpmRefusals names, for each recording that must be refused although its quote is
// good, the check that refuses it.
var tpmRefusals = map[string]string{
	"tpm/windows-gce-shielded-sha1":    "pcr_bank",       // SHA-1 throughout
	"tpm/gce-debian10-sha1bank-rsa":    "pcr_bank",       // a SHA-1 bank under a SHA-256 signature
	"tpm/keylime-swtpm-pcr16":          "pcr_resettable", // nothing but PCR 16
	"tpm/parsec-ecc-quote-and-certify": "pcr_values",     // no values come with it
}

// What a cloud's certificate vouches for without --ak.
var tpmVouched = []string{"tpm/gce-cos-85-no-nonce", "tpm/gce-cos-85-nonce9009", "tpm/gcp-amd-vtpm-2026 fixture.json"}

func TestEveryRecordedQuoteEndsAsTheManifestSays(t *testing.T) {
	forms := 0
	for _, r := range tpmRecordings(t) {
		for form, args := range r.forms(t) {
			t.Run(r.Name+" "+form, func(t *testing.T) {
				forms++
				file := filepath.Join(t.TempDir(), "quote.json")
				if got := assay(t, nil, append([]string{"evidence", "import", "--to", file}, args...)...); got.code != cli.OK {
					t.Fatalf("import: exit code %d\n%s", got.code, got.stderr)
				}
				raw, err := os.ReadFile(file)
				check(t, err)
				var e tpmEvidence
				check(t, strictJSON(raw, &e))
				if !r.verifies {
					t.Fatal("the manifest says that it does not verify: what must become of it?")
				}
				signature, digest := goodQuote(t, &e)
				if !signature || digest != (r.pcrs == nil && r.ak == "" || r.pcrs != nil && *r.pcrs) {
					t.Errorf("signature good: %v, registers match: %v", signature, digest)
				}
				r.verify(t, file, form)
			})
		}
	}
	if forms < 24 {
		t.Errorf("only %d forms", forms)
	}
}

// verify has the command verify an imported recording, without and with --ak.
func (r tpmRecording) verify(t *testing.T, file, form string) {
	t.Helper()
	run := func(more ...string) (ran, verdict) {
		t.Helper()
		args := []string{"evidence", "verify", "--tee", "tpm2", "--at", r.at.Format(time.RFC3339Nano), "--output", "json"}
		got := assay(t, nil, append(append(args, more...), file)...)
		var v verdict
		got.decode(t, &v)
		return got, v
	}
	certified := slices.Contains(tpmVouched, r.Name) || slices.Contains(tpmVouched, r.Name+" "+form)
	got, v := run()
	want := tpmRefusals[r.Name]
	switch {
	case certified:
		if got.code != cli.OK || v.Claims.TPM.AKTrust != attest.AKCertificate || v.Claims.TPM.Cloud == nil || v.Claims.TPM.Clock == nil {
			t.Errorf("certified: exit code %d\n%s", got.code, got.stdout)
		}
	case want != "":
		if v.Check == nil || *v.Check != want {
			t.Errorf("want %s\n%s", want, got.stdout)
		}
	case v.Check == nil || *v.Check != "ak_unactivated":
		t.Errorf("nobody vouches for its AK\n%s", got.stdout)
	}
	if r.ak == "" {
		return
	}
	got, v = run("--ak", r.ak)
	if want != "" {
		if v.Check == nil || *v.Check != want || v.Claims != nil {
			t.Errorf("with --ak, want %s\n%s", want, got.stdout)
		}
		return
	}
	if got.code != cli.OK || !v.Verified {
		t.Fatalf("with --ak: exit code %d\n%s", got.code, got.stdout)
	}
	if v.Claims.TPM.ExtraData.String() != r.extraData {
		t.Errorf("extra data %s, want %s", v.Claims.TPM.ExtraData, r.extraData)
	}
	for i := range v.Claims.TPM.PCRs {
		if i > 15 {
			t.Errorf("PCR %d is a claim", i)
		}
	}
	if r.extraData != "" {
		if got, _ := run("--ak", r.ak, "--nonce", r.extraData); got.code != cli.OK {
			t.Errorf("its nonce: exit code %d", got.code)
		}
		if got, v := run("--ak", r.ak, "--nonce", "00"+r.extraData); got.code != cli.Untrusted || *v.Check != "binding_nonce" {
			t.Errorf("another nonce: exit code %d", got.code)
		}
	}
}

// goodQuote checks signature and register digest with nothing but the standard
// library, of quotes too that Assay refuses.
func goodQuote(t *testing.T, e *tpmEvidence) (signature, digest bool) {
	t.Helper()
	var key crypto.PublicKey
	var err error
	if e.AKPublic[0] == 0x30 {
		key, err = x509.ParsePKIXPublicKey(e.AKPublic)
	} else {
		key, err = publicKey(e.AKPublic)
	}
	check(t, err)
	hash := map[uint16]crypto.Hash{0x0004: crypto.SHA1, 0x000b: crypto.SHA256, 0x000c: crypto.SHA384}[binary.BigEndian.Uint16(e.Signature[2:])]
	sum := func(b []byte) []byte {
		h := hash.New()
		_, _ = h.Write(b)
		return h.Sum(nil)
	}
	size := binary.BigEndian.Uint16(e.Signature[4:])
	first, rest := e.Signature[6:6+size], e.Signature[6+size:]
	switch k := key.(type) {
	case *rsa.PublicKey:
		signature = rsa.VerifyPKCS1v15(k, hash, sum(e.Quote), first) == nil
	case *ecdsa.PublicKey:
		signature = ecdsa.Verify(k, sum(e.Quote), new(big.Int).SetBytes(first), new(big.Int).SetBytes(rest[2:]))
	}
	q, err := parseTPMQuote(e.Quote)
	check(t, err)
	var all []byte
	for _, i := range q.Banks[0].PCRs {
		all = append(all, e.PCRs[strconv.Itoa(i)]...)
	}
	return signature, bytes.Equal(sum(all), q.Digest)
}

func TestRecordingsThatAreMarkedNegativeAreRefused(t *testing.T) {
	for _, r := range tpmRecordings(t) {
		quote, sig, check, extra := r.file(t, "quote.bin"), r.file(t, "signature.bin"), "quote_signature", []string{}
		switch r.Name {
		case "tpm/cmc-rsa-quote":
			sig = r.file(t, "signature-invalid.bin")
		case "azure/snp-milan-v2-trustee":
			quote, sig = r.file(t, "quote-foreign.bin"), r.file(t, "quote-foreign.sig")
			check = "pcr_digest quote_signature"
		case "tpm/azure-trusted-launch-2026":
			extra, check = []string{"--ak-cert", r.file(t, "foreign_ak_cert.der")}, "ak_certificate_key"
		default:
			continue
		}
		file := filepath.Join(t.TempDir(), "quote.json")
		args := append([]string{"evidence", "import", "--quote", quote, "--signature", sig, "--pcrs", r.file(t, "pcrs.json"), "--ak", r.ak, "--to", file}, extra...)
		if got := assay(t, nil, args...); got.code != cli.OK {
			t.Fatalf("%s: import: %s", r.Name, got.stderr)
		}
		got := assay(t, nil, "evidence", "verify", "--tee", "tpm2", "--at", r.at.Format(time.RFC3339), "--ak", r.ak, "--output", "json", file)
		var v verdict
		got.decode(t, &v)
		if got.code != cli.Untrusted || v.Check == nil || !slices.Contains(strings.Fields(check), *v.Check) {
			t.Errorf("%s: want %s\n%s", r.Name, check, got.stdout)
		}
	}
}

// An Azure AK's certificate, out of NV memory with its padding, under the roots that
// an operator keeps in a directory.
func TestARecordedAzureCertificateVouchesForItsKey(t *testing.T) {
	roots := filepath.Join(t.TempDir(), "roots")
	check(t, os.MkdirAll(filepath.Join(roots, "azure"), 0o700))
	for _, v := range vectors.Load(t, "azure") {
		if v.Name != "azure/roots" {
			continue
		}
		for _, f := range v.Files {
			b, err := os.ReadFile(v.Path(f))
			check(t, err)
			check(t, os.WriteFile(filepath.Join(roots, "azure", path.Base(f)), b, 0o600))
		}
	}
	n := 0
	for _, r := range tpmRecordings(t) {
		if r.Name != "azure/snp-milan-v3-cleanroom" {
			continue
		}
		for _, cert := range []string{"ak_cert.der", "ak_cert.nv-padded.bin"} {
			n++
			file := filepath.Join(t.TempDir(), "quote.json")
			got := assay(t, nil, "evidence", "import", "--quote", r.file(t, "quote.bin"), "--signature", r.file(t, "signature.bin"), "--pcrs", r.file(t, "pcrs.json"), "--ak-cert", r.file(t, cert), "--to", file)
			if got.code != cli.OK || got.stderr != "" {
				t.Fatalf("%s: %s", cert, got.stderr)
			}
			got = assay(t, nil, "evidence", "verify", "--tee", "tpm2", "--at", r.at.Add(time.Hour).Format(time.RFC3339), "--tpm-roots", roots, "--nonce", r.extraData, "--output", "json", file)
			var v verdict
			got.decode(t, &v)
			if got.code != cli.OK || v.Claims.TPM.AKTrust != attest.AKCertificate || v.Claims.TPM.Cloud.Provider != "azure" || v.Claims.TPM.Clock == nil {
				t.Errorf("%s: exit code %d\n%s", cert, got.code, got.stdout)
			}
		}
	}
	if n != 2 {
		t.Errorf("%d certificates", n)
	}
}
