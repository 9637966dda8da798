package svid

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"io"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// testKey derives a P-256 key from a name. It signs by RFC 6979, so that test
// vectors come out the same every time.
func testKey(t testing.TB, name string) repeatable {
	t.Helper()
	sum := sha256.Sum256([]byte("assay test key: " + name))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return repeatable{k}
}

type repeatable struct{ *ecdsa.PrivateKey }

func (r repeatable) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.PrivateKey.Sign(nil, digest, opts)
}

// register is the value that a test gives to a PCR.
func register(name string) attest.Bytes {
	sum := sha512.Sum384([]byte("assay test register: " + name))
	return sum[:]
}

var (
	issued  = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	expires = issued.Add(time.Hour)
)

// nitroAppraisal is an ordinary enclave, admitted by an ordinary policy.
func nitroAppraisal() Appraisal {
	return Appraisal{
		Claims: attest.Claims{
			Platform: attest.AWSNitro,
			Nitro: &attest.Nitro{
				ModuleID:  "i-0123456789abcdef0-enc0123456789abcdef",
				Timestamp: issued.Add(-2*time.Second + 345*time.Millisecond),
				PCRs: map[int]attest.Bytes{
					0: register("0"), 1: register("1"), 2: register("2"), 3: register("3"),
					4: register("4"), 5: make(attest.Bytes, 48), 8: register("8"),
				},
			},
		},
		Policy:         "prod@7",
		PolicyDigest:   sha256.Sum256([]byte("policy")),
		Ownership:      true,
		Pinned:         []string{"pcr0", "pcr3"},
		Publish:        []string{"pcr0", "pcr1", "pcr2", "pcr8"},
		EvidenceDigest: sha256.Sum256([]byte("evidence")),
	}
}

// debugAppraisal is the same enclave in debug mode: PCR0 to 2 are zero.
func debugAppraisal() Appraisal {
	a := nitroAppraisal()
	a.Claims.Nitro.Debug = true
	for i := range 3 {
		a.Claims.Nitro.PCRs[i] = make(attest.Bytes, 48)
	}
	return a
}

func simulatedAppraisal() Appraisal {
	a := nitroAppraisal()
	a.Claims.Simulated = true
	return a
}

// snpAppraisal is an ordinary guest on a machine of the owner's, admitted by a
// policy with a floor.
func snpAppraisal() Appraisal {
	tcb := attest.TCB{Bootloader: 9, SNP: 23, Microcode: 72}
	fw := attest.Firmware{Major: 1, Minor: 55, Build: 29}
	a := nitroAppraisal()
	a.Claims = attest.Claims{Platform: attest.AMDSEVSNP, SNP: &attest.SNP{
		Version: 3, Product: "genoa", SigningKey: "vcek",
		Measurement: register("measurement"), HostData: register("host data")[:32],
		ReportData: append(register("report data"), register("more")[:16]...), GuestSVN: 4,
		IDKeyDigest: register("id key"), AuthorKeyDigest: make(attest.Bytes, 48),
		FamilyID: register("family")[:16], ImageID: register("image")[:16],
		Policy: attest.SNPPolicy{ABIMajor: 1, ABIMinor: 51}, Platform: attest.SNPPlatform{ECC: true},
		CurrentTCB: tcb, ReportedTCB: tcb, CommittedTCB: tcb, LaunchTCB: tcb, CurrentFirmware: fw, CommittedFirmware: fw,
		ReportID: register("report")[:32], ReportIDMA: register("agent")[:32],
		ChipID: append(register("chip"), register("chip, continued")[:16]...), Revocation: "ok",
	}}
	a.Pinned = []string{"measurement", "product", "reported_tcb", "chip_id"}
	a.Publish = []string{"measurement"}
	return a
}

// snpChanged is the same guest with one fact changed.
func snpChanged(change func(*attest.SNP)) Appraisal {
	a := snpAppraisal()
	change(a.Claims.SNP)
	return a
}

// appraised runs an appraisal for a fixed name, key and salt.
func appraised(t testing.TB, a Appraisal) *Result {
	t.Helper()
	td := "attested.example.org"
	if a.Claims.Simulated {
		td = SimulatedPrefix + td
	}
	id := spiffeid.RequireFromSegments(spiffeid.RequireTrustDomainFromString(td), "payments", "api")
	salt := bytes.NewReader(bytes.Repeat([]byte{0x5a}, saltSize))
	r, err := appraise(a, id, testKey(t, "leaf").Public(), issued, expires, td, salt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantError fails the test unless err is of this kind and check.
func wantError(t testing.TB, err error, kind attest.Kind, check string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s %s", kind, check)
	}
	if attest.KindOf(err) != kind || attest.CheckOf(err) != check {
		t.Fatalf("got %s %s (%v), want %s %s", attest.KindOf(err), attest.CheckOf(err), err, kind, check)
	}
}
