package signed_test

import (
	"bytes"
	"testing"

	"github.com/assay-project/assay/policy/signed"
)

// FuzzVerify: no input makes a panic, what verifies is the policy that was
// signed and no other, and what opens has one encoding only.
func FuzzVerify(f *testing.F) {
	alice, bob := p256(f), ed(f)
	one, err := signed.Sign(file, prod(7), alice)
	must(f, err)
	joint, err := signed.SignJoint(file, prod(7), alice, bob)
	must(f, err)
	who := signers(f, 1, alice, bob)
	f.Add(one)
	f.Add(joint)
	f.Add(prod(7))
	f.Add([]byte{0xd2, 0x84})
	f.Add([]byte{0xd8, 0x62, 0x84})
	f.Fuzz(func(t *testing.T, doc []byte) {
		u, err := signed.Open(doc)
		if err != nil {
			if u != nil {
				t.Error("a result and an error")
			}
			if v, err := signed.Verify(file, doc, who); err == nil || v != nil {
				t.Error("what does not open was verified")
			}
			return
		}
		if u.Joint {
			again, err := signed.Merge(doc)
			if err == nil && len(again) > len(doc) {
				t.Error("merging one document with nothing has added to it")
			}
		}
		v, err := signed.Verify(file, doc, who)
		if err == nil && !bytes.Equal(v.Source, prod(7)) {
			t.Errorf("verified what nobody signed: %q", v.Source)
		}
	})
}
