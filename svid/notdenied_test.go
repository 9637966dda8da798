package svid_test

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

func followed(t *testing.T, a *svidtest.Authority) *svid.DenyList {
	t.Helper()
	l, err := svid.NewDenyList(a.TrustDomain, a.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWhatIsDeniedIsRefusedAtOnceAndAtEveryCheck(t *testing.T) {
	a := authority(t)
	s := a.Mint(t, "/orders")
	l := followed(t, a)
	_, err := svid.Verify(s.Certificates, a.Source(), now, svid.NotDenied(l))
	wantError(t, err, attest.Unavailable, "deny_list")
	if err := l.Update(a.DenyList(t, svid.Denials{}), now); err != nil {
		t.Fatal(err)
	}
	got, err := svid.Verify(s.Certificates, a.Source(), now, svid.NotDenied(l))
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(now, svid.NotDenied(l)); err != nil {
		t.Fatal(err)
	}
	wantError(t, got.Check(now.Add(59*time.Minute+time.Hour), svid.NotDenied(l)), attest.Stale, "chain_validity")

	leaf := s.Certificates[0]
	var serial [svid.SerialSize]byte
	leaf.SerialNumber.FillBytes(serial[:])
	for name, d := range map[string]svid.Denials{
		"by serial": {Sequence: 2, Serials: [][svid.SerialSize]byte{{0x40}, serial, {0x7f, 0xff}}},
		"by key":    {Sequence: 2, Keys: [][32]byte{{}, sha256.Sum256(leaf.RawSubjectPublicKeyInfo), {0xff}}},
		"by policy": {Sequence: 2, Policies: [][32]byte{{}, [32]byte(got.Result.PolicyDigest), {0xff}}},
	} {
		l := followed(t, a)
		if err := l.Update(a.DenyList(t, svid.Denials{}), now); err != nil {
			t.Fatal(err)
		}
		if err := got.Check(now, svid.NotDenied(l)); err != nil {
			t.Fatal(err)
		}
		if err := l.Update(a.DenyList(t, d), now); err != nil {
			t.Fatal(err)
		}
		// What was verified before is refused from now on.
		err := got.Check(now, svid.NotDenied(l))
		if attest.KindOf(err) != attest.Denied || attest.CheckOf(err) != "denied" {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := svid.Verify(a.Mint(t, "/orders").Certificates, a.Source(), now, svid.NotDenied(l)); name != "by policy" && err != nil {
			t.Errorf("%s: another SVID is refused: %v", name, err)
		}
	}
}

func TestTheListOfAnotherTrustDomainSaysNothing(t *testing.T) {
	a, other := authority(t), svidtest.NewAt(t, "other.test", clock)
	l := followed(t, other)
	if err := l.Update(other.DenyList(t, svid.Denials{}), now); err != nil {
		t.Fatal(err)
	}
	wantError(t, l.Update(a.DenyList(t, svid.Denials{}), now), attest.Untrusted, "verifier_root")
	chain := a.Mint(t, "/orders").Certificates
	_, err := svid.Verify(chain, a.Source(), now, svid.NotDenied(l))
	wantError(t, err, attest.Unavailable, "deny_list")
	_, err = svid.Verify(chain, a.Source(), now, svid.NotDenied())
	wantError(t, err, attest.Unavailable, "deny_list")
	_, err = svid.Verify(chain, a.Source(), now, svid.NotDenied(nil, l))
	wantError(t, err, attest.Unavailable, "deny_list")
	both := followed(t, a)
	if err := both.Update(a.DenyList(t, svid.Denials{}), now); err != nil {
		t.Fatal(err)
	}
	if _, err := svid.Verify(chain, a.Source(), now, svid.NotDenied(l, both)); err != nil {
		t.Error(err)
	}
}
