package tpm_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// checkRefusal fails for an error that no check of the table explains.
func checkRefusal(t *testing.T, got *attest.Claims, err error) {
	t.Helper()
	if got != nil {
		t.Error("claims beside an error")
	}
	if attest.KindOf(err) != kindOf(t, attest.CheckOf(err)) {
		t.Errorf("kind %s: %v", attest.KindOf(err), err)
	}
}

// seeds are good evidence of several kinds.
func seeds(t testing.TB, w *world) []minted {
	t.Helper()
	var out []minted
	for _, o := range []order{
		{}, {ekKind: rsa2048, akKind: rsa2048, resident: 1}, {ekKind: p384, akKind: p384, bank: tpm2.TPMAlgSHA384}, {noEK: true, cloud: w.google}, {noEKCert: true, resident: 2}, {selected: upTo(23)},
	} {
		out = append(out, w.mint(t, o))
	}
	return out
}

// Whatever the body: no panic, no claims beside an error, every error is one of
// the table, and what is admitted is admitted by the library too.
func FuzzBody(f *testing.F) {
	w := newWorld(f)
	for _, m := range seeds(f, w) {
		f.Add(m.evidence.Body)
	}
	v := w.verifier(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		ev := attest.Evidence{Platform: attest.TPM2, Body: body, Endorsements: [][]byte{w.maker.issuer.Raw, w.google.issuer.Raw}}
		got, err := v.AuthenticatePending(t.Context(), ev, epoch)
		if err != nil {
			checkRefusal(t, got, err)
		} else {
			e, err := attest.DecodeTPMEvidence(body)
			if err != nil {
				t.Fatal(err)
			}
			if err := libraryQuote(t, *e); err != nil && !pssSigned(*e) {
				t.Errorf("we admit what the library refuses: %v", err)
			}
		}
		if _, err := tpm.Inspect(ev); err != nil && attest.CheckOf(err) != tpm.CheckBody {
			t.Error(err)
		}
	})
}

// Whatever the quote: what is read of it is what go-tpm reads, to the last byte.
func FuzzQuote(f *testing.F) {
	w := newWorld(f)
	for _, m := range seeds(f, w) {
		f.Add(m.body.Quote)
		for _, c := range m.body.Certified {
			f.Add(c.Attest)
		}
	}
	good := w.mint(f, order{noEK: true, cloud: w.google})
	f.Fuzz(func(t *testing.T, quote []byte) {
		e := good.body
		e.Quote = quote
		body, err := e.Encode()
		if err != nil {
			return // empty, or too large for the format
		}
		u, err := tpm.Inspect(attest.Evidence{Platform: attest.TPM2, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		if u.Quote == nil {
			if kindOf(t, attest.CheckOf(u.Malformed)) != attest.Malformed {
				t.Errorf("%v", u.Malformed)
			}
			return
		}
		a, err := tpm2.Unmarshal[tpm2.TPMSAttest](quote)
		if err != nil {
			t.Fatalf("we read what go-tpm does not: %v", err)
		}
		if !bytes.Equal(a.ExtraData.Buffer, u.Quote.ExtraData) || !bytes.Equal(a.QualifiedSigner.Buffer, u.Quote.QualifiedSigner) || a.ClockInfo.ResetCount != u.Quote.ResetCount ||
			a.ClockInfo.RestartCount != u.Quote.RestartCount || a.ClockInfo.Clock != u.Quote.Clock || a.FirmwareVersion != u.Quote.Firmware || bool(a.ClockInfo.Safe) != u.Quote.Safe {
			t.Errorf("go-tpm reads %+v, we %+v", a, u.Quote)
		}
		info, err := a.Attested.Quote()
		if err != nil || !bytes.Equal(info.PCRDigest.Buffer, u.Quote.PCRDigest) {
			t.Errorf("go-tpm reads %+v, %v", info, err)
		}
		if again := tpm2.Marshal(*a); !bytes.Equal(again, quote) {
			t.Errorf("go-tpm writes %x for %x", again, quote)
		}
	})
}

// Whatever the public area: what is read of it is what go-tpm reads, to the last
// byte, with the same name and the same key.
func FuzzPublic(f *testing.F) {
	w := newWorld(f)
	for _, m := range seeds(f, w) {
		f.Add(m.body.AKPublic)
		f.Add(m.ekArea)
		for _, c := range m.body.Certified {
			f.Add(c.Public)
		}
	}
	for _, kind := range []string{p521} {
		f.Add(w.mint(f, order{akKind: kind}).body.AKPublic)
	}
	good := w.mint(f, order{noEK: true, cloud: w.google})
	f.Fuzz(func(t *testing.T, area []byte) {
		e := good.body
		e.AKPublic, e.EKPublic = area, area
		body, err := e.Encode()
		if err != nil {
			return
		}
		u, err := tpm.Inspect(attest.Evidence{Platform: attest.TPM2, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		if u.AK == nil {
			if attest.CheckOf(u.Malformed) != tpm.CheckAKStructure {
				t.Errorf("%v", u.Malformed)
			}
			return
		}
		p, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
		if err != nil {
			t.Fatalf("we read what go-tpm does not: %v", err)
		}
		name, err := tpm2.ObjectName(p)
		if err != nil || !bytes.Equal(name.Buffer, u.AK.Name) {
			t.Errorf("name %x, %v; ours %s", name.Buffer, err, u.AK.Name)
		}
		if u.AK.SPKI != nil {
			key, err := tpm2.Pub(*p)
			if err != nil {
				t.Fatal(err)
			}
			if sum := digestOf(spkiOf(t, key)); !bytes.Equal(sum[:], u.AK.SPKI) {
				t.Error("another key")
			}
		}
		v := w.verifier(t)
		got, err := v.AuthenticatePending(t.Context(), attest.Evidence{Platform: attest.TPM2, Body: body, Endorsements: good.evidence.Endorsements}, epoch)
		if err == nil {
			t.Error("one area is AK and EK") // no key is both
		} else {
			checkRefusal(t, got, err)
		}
	})
}

// Whatever answers the credential challenge: only the proof passes.
func FuzzCredentialProof(f *testing.F) {
	w := newWorld(f)
	_, b := challenge(f, nil)
	m := w.mint(f, order{extra: b.B[:]})
	f.Add([]byte{})
	f.Add(make([]byte, 32))
	f.Add(tpm.Proof(make([]byte, 32), b.B))
	f.Fuzz(func(t *testing.T, answer []byte) {
		v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
		c, err := v.AuthenticatePending(t.Context(), m.evidence, epoch)
		if err != nil {
			t.Fatal(err)
		}
		err = v.Activate(t.Context(), m.evidence, c, b, func(context.Context, []byte) ([]byte, error) { return answer, nil }, epoch)
		if attest.CheckOf(err) != tpm.CheckCredentialProof || c.TPM.AKTrust != "" {
			t.Errorf("%v", err)
		}
		// The right one, with the answer behind or in front of it.
		err = v.Activate(t.Context(), m.evidence, c, b, func(ctx context.Context, credential []byte) ([]byte, error) {
			p, err := m.exchange(b)(ctx, credential)
			return append(p, answer...), err
		}, epoch)
		if (err == nil) != (len(answer) == 0) {
			t.Errorf("%d bytes behind the proof: %v", len(answer), err)
		}
	})
}

// Whatever comes along as a certificate: no panic, and one that nobody signed
// admits nothing.
func FuzzCertificate(f *testing.F) {
	w := newWorld(f)
	good := w.mint(f, order{cloud: w.google})
	for _, der := range [][]byte{good.body.EKCertificate, good.body.AKCertificate, w.maker.issuer.Raw, append(bytes.Clone(good.body.EKCertificate), 0, 0), {0x30, 0}} {
		f.Add(der)
	}
	v := w.verifier(f, tpm.WithCacheSize(0))
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, change := range []func(*attest.TPMEvidence){
			func(e *attest.TPMEvidence) { e.EKCertificate = der },
			func(e *attest.TPMEvidence) { e.AKCertificate = der },
		} {
			e := good.body
			change(&e)
			body, err := e.Encode()
			if err != nil {
				continue
			}
			got, err := v.AuthenticatePending(t.Context(), attest.Evidence{Platform: attest.TPM2, Body: body, Endorsements: [][]byte{w.maker.issuer.Raw, w.google.issuer.Raw, der}}, epoch)
			if err != nil {
				checkRefusal(t, got, err)
				continue
			}
			trimmed := bytes.TrimRight(der, "\x00")
			if len(der) != 0 && !bytes.HasPrefix(trimmed, bytes.TrimRight(good.body.EKCertificate, "\x00")) && !bytes.HasPrefix(trimmed, bytes.TrimRight(good.body.AKCertificate, "\x00")) {
				c, err := parseCertificate(trimmed)
				if err != nil || c.CheckSignatureFrom(w.maker.issuer) != nil && c.CheckSignatureFrom(w.google.issuer) != nil {
					t.Error("a certificate that nobody signed was admitted") // seeds are made anew in each process
				}
			}
		}
	})
}
