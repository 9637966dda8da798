package nitro_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/nitro"
)

// negative is one case that must end in its check.
type negative checktest.Case

// faultCases are the simulator's faults: each document is right but for one
// thing. They run cold, each with a verifier of its own.
func faultCases(t *testing.T) []negative {
	a, _ := simulated(t)
	_, b := challenge(t)
	var out []negative
	for _, f := range simnitro.Faults() {
		if f.Check == "" {
			continue
		}
		out = append(out, negative{f.Name, f.Check, func(t *testing.T) (*attest.Claims, error) {
			if want := kindOf(t, f.Check).String(); f.Kind != want {
				t.Errorf("the simulator expects kind %s, the table says %s", f.Kind, want)
			}
			v := verifierOf(t, a)
			got, err := v.Authenticate(t.Context(), evidence(mint(t, a, answer(b), f)), epoch)
			if f.Stage == simnitro.StageBound {
				if err != nil {
					t.Fatalf("refused before the binding was looked at: %v", err)
				}
				return nil, v.Bound(got, b)
			}
			return got, err
		}})
	}
	return out
}

// callerCases are the checks that no document can fail.
func callerCases(t *testing.T) []negative {
	a, v := simulated(t)
	_, b := challenge(t)
	good := mint(t, a, answer(b))
	claims, err := v.Authenticate(t.Context(), evidence(good), epoch)
	if err != nil {
		t.Fatal(err)
	}
	authenticate := func(ctx context.Context, ev attest.Evidence, at time.Time) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) { return v.Authenticate(ctx, ev, at) }
	}
	bound := func(c *attest.Claims, b attest.Binding) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) { return nil, v.Bound(c, b) }
	}
	normalize := func(raw string) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) {
			_, err := nitro.Normalize([]byte(raw))
			return nil, err
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	noKeys, noB, noNonce, noSPKI := b, b, b, b
	noKeys.Keys = nil
	noB.B = [32]byte{}
	noNonce.Nonce = [32]byte{}
	noSPKI.Keys = []attest.BoundKey{{}}
	return []negative{
		{"another platform", nitro.CheckPlatform, authenticate(t.Context(), attest.Evidence{Platform: attest.TPM2, Body: good}, epoch)},
		{"no platform", nitro.CheckPlatform, authenticate(t.Context(), attest.Evidence{Body: good}, epoch)},
		{"no time", nitro.CheckTime, authenticate(t.Context(), evidence(good), time.Time{})},
		{"cancelled", nitro.CheckContext, authenticate(cancelled, evidence(good), epoch)},
		{"no claims", nitro.CheckBinding, bound(nil, b)},
		{"claims without an enclave", nitro.CheckBinding, bound(&attest.Claims{Platform: attest.AWSNitro}, b)},
		{"claims of another platform", nitro.CheckBinding, bound(&attest.Claims{Platform: attest.TPM2, Nitro: claims.Nitro}, b)},
		{"binding without keys", nitro.CheckBinding, bound(claims, noKeys)},
		{"binding with an empty key", nitro.CheckBinding, bound(claims, noSPKI)},
		{"binding without B", nitro.CheckBinding, bound(claims, noB)},
		{"binding without nonce", nitro.CheckBinding, bound(claims, noNonce)},
		{"empty file", nitro.CheckEncoding, normalize("")},
		{"a sentence", nitro.CheckEncoding, normalize("this is not a document")},
		{"an error of the NSM", nitro.CheckEncoding, normalize("\xa1\x65Error\x6cInvalidIndex")},
		{"a response without document", nitro.CheckEncoding, normalize("\xa1\x6bAttestation\xa0")},
		{"too large a file", nitro.CheckEncoding, normalize(strings.Repeat("8", 1<<20))},
	}
}

// coveredElsewhere names checks whose negative test needs the inside of the
// package.
var coveredElsewhere = map[string]string{
	nitro.CheckPanic: "TestAPanicOfNitriteIsAMalformedError",
}

func TestEveryCheckRefusesForItsOwnReasonAlone(t *testing.T) {
	cases := append(faultCases(t), callerCases(t)...)
	checktest.EachRefuses(t, nitro.Checks(), cases, coveredElsewhere)
}

// The same faults with everything warm: a known chain must not excuse anything.
func TestEveryFaultIsRefusedWithAWarmChainToo(t *testing.T) {
	a, v := simulated(t)
	_, b := challenge(t)
	for _, f := range simnitro.Faults() {
		if _, err := v.Authenticate(t.Context(), evidence(mint(t, a, answer(b))), epoch); err != nil {
			t.Fatal(err)
		}
		got, err := v.Authenticate(t.Context(), evidence(mint(t, a, answer(b), f)), epoch)
		switch {
		case f.Check == "" || f.Stage == simnitro.StageBound:
			if err != nil {
				t.Errorf("%s: %v", f.Name, err)
			}
		default:
			t.Run(f.Name, func(t *testing.T) { wantRefusal(t, got, err, f.Check) })
		}
	}
}

func TestADebugEnclaveVerifiesAndSaysSo(t *testing.T) {
	a, v := simulated(t)
	got, err := v.Authenticate(t.Context(), evidence(mint(t, a, simnitro.Document{}, faultNamed(t, "debug"))), epoch)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Nitro.Debug || !got.Debug() {
		t.Error("debug is false for PCR0 to PCR2 all zero")
	}
	honest, err := v.Authenticate(t.Context(), evidence(mint(t, a, simnitro.Document{})), epoch)
	if err != nil {
		t.Fatal(err)
	}
	if honest.Nitro.Debug {
		t.Error("debug is true for an enclave with measurements")
	}
}

func TestRegistersThatAreMissingCountAsDebug(t *testing.T) {
	a, v := simulated(t)
	full := make([]byte, 48)
	full[7] = 1
	for name, c := range map[string]struct {
		pcrs  map[int][]byte
		debug bool
	}{
		"only PCR8":       {map[int][]byte{8: full}, true},
		"PCR0 zero alone": {map[int][]byte{0: make([]byte, 48)}, true},
		"PCR1 set alone":  {map[int][]byte{1: full}, false},
	} {
		got, err := v.Authenticate(t.Context(), evidence(mint(t, a, simnitro.Document{PCRs: c.pcrs})), epoch)
		if err != nil {
			t.Fatal(name, err)
		}
		if got.Nitro.Debug != c.debug {
			t.Errorf("%s: debug %t, want %t", name, got.Nitro.Debug, c.debug)
		}
	}
}

func TestClaimsAreWhatTheEnclaveSaid(t *testing.T) {
	a, v := simulated(t)
	_, b := challenge(t)
	d := answer(b)
	d.ModuleID = "i-0123456789abcdef0-enc0123456789abcdef"
	d.PCRs = map[int][]byte{0: make([]byte, 48), 31: make([]byte, 48)}
	d.PCRs[0][0], d.PCRs[31][47] = 1, 0xff
	d.Timestamp = epoch.Add(-4*time.Minute - 123*time.Millisecond)
	want := &attest.Claims{Platform: attest.AWSNitro, Simulated: true, Nitro: &attest.Nitro{
		ModuleID: d.ModuleID, Timestamp: d.Timestamp,
		PCRs:      map[int]attest.Bytes{0: d.PCRs[0], 31: d.PCRs[31]},
		PublicKey: d.PublicKey, UserData: d.UserData, Nonce: d.Nonce,
	}}
	for name, change := range map[string]func(*simnitro.Document){
		"plain":                 func(*simnitro.Document) {},
		"indefinite-length map": func(d *simnitro.Document) { d.Indefinite = true },
		"tag 18":                func(d *simnitro.Document) { d.Tagged = true },
	} {
		d := d
		change(&d)
		got, err := v.Authenticate(t.Context(), evidence(mint(t, a, d)), epoch)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-said +claimed):\n%s", name, diff)
		}
		if err := v.Bound(got, b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAbsentAndEmptyFieldsAreNotTheSame(t *testing.T) {
	a, v := simulated(t)
	got, err := v.Authenticate(t.Context(), evidence(mint(t, a, simnitro.Document{UserData: []byte{}})), epoch)
	if err != nil {
		t.Fatal(err)
	}
	if got.Nitro.UserData == nil || len(got.Nitro.UserData) != 0 {
		t.Errorf("empty user_data became %v", got.Nitro.UserData)
	}
	if got.Nitro.Nonce != nil || got.Nitro.PublicKey != nil {
		t.Error("null became something")
	}
}

func TestClaimsDoNotShareMemoryWithTheEvidence(t *testing.T) {
	a, v := simulated(t)
	_, b := challenge(t)
	body := mint(t, a, answer(b))
	got, err := v.Authenticate(t.Context(), evidence(body), epoch)
	if err != nil {
		t.Fatal(err)
	}
	clear(body)
	if err := v.Bound(got, b); err != nil {
		t.Errorf("the claims changed with the evidence: %v", err)
	}
}

func TestTheTableOfChecksIsComplete(t *testing.T) { checktest.Whole(t, nitro.Checks()) }

func TestTheSpecificationListsEveryCheckWithItsKind(t *testing.T) {
	checktest.Specified(t, nitro.Checks(), "nitro-checks.md", checktest.NameAndKind)
}
