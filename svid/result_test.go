package svid

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/veraison/cmw"
)

func TestASignedResultReadsBackAsItWas(t *testing.T) {
	for name, a := range map[string]Appraisal{
		"ordinary": nitroAppraisal(), "debug": debugAppraisal(), "simulated": simulatedAppraisal(),
	} {
		t.Run(name, func(t *testing.T) {
			r := appraised(t, a)
			key := testKey(t, "verifier")
			cwt, err := r.Sign(key)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes", len(cwt))
			u, err := parseResult(cwt)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*r, u.Result); diff != "" {
				t.Error(diff)
			}
			if err := u.signed.verify(&key.PublicKey); err != nil {
				t.Error(err)
			}
			if err := u.signed.verify(&testKey(t, "other").PublicKey); err == nil {
				t.Error("the signature verifies under another key")
			}
		})
	}
}

func TestTheExtensionIsACMWRecordToAnIndependentReader(t *testing.T) {
	cwt, err := appraised(t, nitroAppraisal()).Sign(testKey(t, "verifier"))
	if err != nil {
		t.Fatal(err)
	}
	ext, err := Extension(cwt)
	if err != nil {
		t.Fatal(err)
	}
	if ext.Critical {
		t.Error("the extension is critical")
	}
	got, err := cmw.DecodeX509Extension(ext)
	if err != nil {
		t.Fatal(err)
	}
	value, err := got.GetMonadValue()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cwt, value); diff != "" {
		t.Error(diff)
	}
	if typ, err := got.GetMonadType(); err != nil || typ != "application/eat+cwt" {
		t.Errorf("type %q, %v", typ, err)
	}
	if ind, err := got.GetMonadIndicator(); err != nil || ind != cmw.AttestationResults {
		t.Errorf("indicator %v, %v", ind, err)
	}
	u, err := ResultFrom(&x509.Certificate{Extensions: []pkix.Extension{ext}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cwt, u.CWT); diff != "" {
		t.Error(diff)
	}
}
