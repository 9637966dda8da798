package tpm_test

import (
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/assay-project/assay/attest"
	simtpm "github.com/assay-project/assay/simulators/tpm"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/tpm"
)

// What stands here runs on a real software TPM (swtpm), with a client that knows
// go-tpm and the specification, and nothing of Assay's agent.

// machines starts simulated machines of one maker, or skips the test loudly.
func machines(t testing.TB) (*simtpm.Authority, tpm.Roots) {
	t.Helper()
	if err := simtpm.Installed(); err != nil {
		t.Skipf("SKIPPED, NOTHING WAS TESTED ON A TPM: %v", err)
	}
	a, err := simtpm.NewAuthority(simtpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := tpm.SimulatedRoots(a.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	return a, r
}

func start(t testing.TB, a *simtpm.Authority, m simtpm.Machine, faults ...simtpm.Fault) *simtpm.TPM {
	t.Helper()
	if len(m.EKs) == 0 && m.State == "" {
		m.EKs = []simtpm.EKKind{simtpm.P256}
	}
	dev, err := a.Start(m, faults...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	return dev
}

// client uses one machine's TPM as an agent would.
type client struct {
	dev  *simtpm.TPM
	kind simtpm.EKKind
	ca   []byte
	bank tpm2.TPMAlgID
}

// ekOf makes the EK again: the same one each time.
func (c client) ekOf(t testing.TB) (handle tpm2.AuthHandle, public []byte) {
	t.Helper()
	template := tpm2.ECCEKTemplate
	switch c.kind {
	case simtpm.P256:
	case simtpm.RSA2048:
		template = tpm2.RSAEKTemplate
	case simtpm.P384: // H-3, which its password authorizes too: the area of the key itself, without the key
		ek, ok := c.dev.EK(c.kind)
		if !ok {
			t.Fatal("no such EK")
		}
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public)
		if err != nil {
			t.Fatal(err)
		}
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
		h, public, name := primary(t, c.dev, tpm2.TPMRHEndorsement, *area)
		return tpm2.AuthHandle{Handle: h, Name: name, Auth: tpm2.PasswordAuth(nil)}, public
	}
	h, area, name := primary(t, c.dev, tpm2.TPMRHEndorsement, template)
	return tpm2.AuthHandle{Handle: h, Name: name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(dev transport.TPM, s tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, PolicySession: s, NonceTPM: nonce}.Execute(dev)
		return err
	})}, area
}

// primary makes a primary key, which is flushed when the test ends.
func primary(t testing.TB, dev transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (tpm2.TPMHandle, []byte, tpm2.TPM2BName) {
	t.Helper()
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	return r.ObjectHandle, r.OutPublic.Bytes(), r.Name
}

func flush(t testing.TB, dev transport.TPM, handles ...tpm2.TPMHandle) {
	t.Helper()
	for _, h := range handles {
		if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(dev); err != nil {
			t.Error(err)
		}
	}
}

func signingTemplate(restricted bool) tpm2.TPMTPublic {
	p := akTemplate()
	p.ObjectAttributes.Restricted, p.ObjectAttributes.STClear = restricted, !restricted
	p.Type = tpm2.TPMAlgECC
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Scheme: ecdsaScheme(), CurveID: tpm2.TPMECCNistP256})
	return p
}

// quoted is what a client sends, and the handles that it holds.
type quoted struct {
	evidence attest.Evidence
	keys     [][]byte // SubjectPublicKeyInfo of the keys to certify
}

// attest quotes for a binding. resident makes the SVID key in the TPM, in a
// hierarchy; the key is known only then, so bind is told of it.
func (c client) attest(t testing.TB, resident tpm2.TPMHandle, bind func(spki []byte) attest.Binding) (quoted, attest.Binding) {
	t.Helper()
	ek, ekArea := c.ekOf(t)
	ak, akArea, akName := primary(t, c.dev, tpm2.TPMRHEndorsement, signingTemplate(true))
	var q quoted
	e := attest.TPMEvidence{AKPublic: akArea, EKPublic: ekArea, PCRs: make(map[uint32][]byte)}
	signer := tpm2.AuthHandle{Handle: ak, Name: akName, Auth: tpm2.PasswordAuth(nil)}
	spki := []byte("a key in software")
	var key tpm2.TPMHandle
	var keyArea []byte
	var keyName tpm2.TPM2BName
	if resident != 0 {
		key, keyArea, keyName = primary(t, c.dev, resident, signingTemplate(false))
		spki = spkiOf(t, publicOf(t, keyArea))
	}
	b := bind(spki)
	if resident != 0 {
		r, err := tpm2.Certify{
			ObjectHandle: tpm2.AuthHandle{Handle: key, Name: keyName, Auth: tpm2.PasswordAuth(nil)}, SignHandle: signer,
			QualifyingData: tpm2.TPM2BData{Buffer: b.B[:]}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(c.dev)
		if err != nil {
			t.Fatal(err)
		}
		e.Certified = []attest.TPMCertified{{Public: keyArea, Attest: r.CertifyInfo.Bytes(), Signature: tpm2.Marshal(r.Signature)}}
		flush(t, c.dev, key)
	}
	bank := or(c.bank, tpm2.TPMAlgSHA256)
	for _, half := range [][]int{{0, 1, 2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14, 15}} { // at most 8 digests at a time
		r, err := tpm2.PCRRead{PCRSelectionIn: *selections(tpm2.TPMSPCRSelection{Hash: bank, PCRSelect: bitmap(half)})}.Execute(c.dev)
		if err != nil {
			t.Fatal(err)
		}
		for i, d := range r.PCRValues.Digests {
			e.PCRs[uint32(half[i])] = d.Buffer
		}
	}
	r, err := tpm2.Quote{SignHandle: signer, QualifyingData: tpm2.TPM2BData{Buffer: b.B[:]}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: *selections(tpm2.TPMSPCRSelection{Hash: bank, PCRSelect: bitmap(upTo(15))})}.Execute(c.dev)
	if err != nil {
		t.Fatal(err)
	}
	e.Quote, e.Signature = r.Quoted.Bytes(), tpm2.Marshal(r.Signature)
	e.EKCertificate = c.certificate(t)
	log := c.dev.EventLog()
	sum := digestOf(log)
	e.EventLogDigest = sum[:]
	flush(t, c.dev, ak, ek.Handle)
	q.evidence = evidence(t, e, log, c.ca)
	q.keys = [][]byte{spki}
	return q, b
}

func publicOf(t testing.TB, area []byte) crypto.PublicKey {
	t.Helper()
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		t.Fatal(err)
	}
	k, err := tpm2.Pub(*p)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// certificate reads the EK certificate from NV memory (EK Credential Profile,
// section 2.2.1.4), or nil.
func (c client) certificate(t testing.TB) []byte {
	t.Helper()
	index := map[simtpm.EKKind]tpm2.TPMHandle{simtpm.P256: 0x01c0000a, simtpm.RSA2048: 0x01c00002, simtpm.P384: 0x01c00016}[c.kind]
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c.dev)
	if err != nil {
		return nil
	}
	info, err := public.NVPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for len(out) < int(info.DataSize) {
		r, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size: min(512, info.DataSize-uint16(len(out))), Offset: uint16(len(out)),
		}.Execute(c.dev)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r.Data.Buffer...)
	}
	return out
}

// activate answers a second round with TPM2_ActivateCredential.
func (c client) activate(t testing.TB, b attest.Binding, rounds *int) verifiers.Exchange {
	return func(_ context.Context, credential []byte) ([]byte, error) {
		*rounds++
		n := binary.BigEndian.Uint16(credential)
		object, rest := credential[2:2+n], credential[2+n:]
		if int(binary.BigEndian.Uint16(rest)) != len(rest)-2 {
			return nil, errors.New("the credential has another length than it says")
		}
		ek, _ := c.ekOf(t)
		ak, _, akName := primary(t, c.dev, tpm2.TPMRHEndorsement, signingTemplate(true))
		defer flush(t, c.dev, ak, ek.Handle)
		command := tpm2.ActivateCredential{
			ActivateHandle: tpm2.AuthHandle{Handle: ak, Name: akName, Auth: tpm2.PasswordAuth(nil)}, KeyHandle: ek,
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: object}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: rest[2:]},
		}
		r, err := command.Execute(c.dev)
		for range 5 {
			if !errors.Is(err, tpm2.TPMRCRetry) { // the TPM asks to be asked again
				break
			}
			r, err = command.Execute(c.dev)
		}
		if err != nil {
			return nil, err
		}
		return tpm.Proof(r.CertInfo.Buffer, b.B), nil
	}
}

// run is one attestation through a Set.
func (c client) run(t testing.TB, v *tpm.Verifier, resident tpm2.TPMHandle) (*attest.TPM, int, error) {
	t.Helper()
	q, b := c.attest(t, resident, func(spki []byte) attest.Binding { _, b := challenge(t, [][]byte{spki}); return b })
	return verifyAt(t, v, q, c.activate(t, b, new(int)), time.Now())
}

func verifyAt(t testing.TB, v *tpm.Verifier, q quoted, x verifiers.Exchange, now time.Time) (*attest.TPM, int, error) {
	t.Helper()
	s, err := verifiers.NewSet(v)
	if err != nil {
		t.Fatal(err)
	}
	ch, _ := challenge(t, q.keys)
	rounds := 0
	got, err := s.Verify(t.Context(), q.evidence, ch, counted(x, &rounds), now)
	if err != nil {
		return nil, rounds, err
	}
	c := got.Claims()
	return c.TPM, rounds, nil
}

func TestTheLifeOfAMachineOnASoftwareTPM(t *testing.T) {
	a, roots := machines(t)
	for _, kind := range simtpm.EKKinds() {
		t.Run(string(kind), func(t *testing.T) {
			v := verifierOver(t, roots, tpm.WithBindings(new(tpm.MemoryBindings)))
			c := client{dev: start(t, a, simtpm.Machine{EKs: []simtpm.EKKind{kind}, Padding: 200}), kind: kind, ca: a.Intermediate().Raw}
			step := func(what string, resident tpm2.TPMHandle, rounds int, cleared bool) *attest.TPM {
				t.Helper()
				got, n, err := c.run(t, v, resident)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if n != rounds || got.Cleared != cleared || got.AKTrust != attest.AKActivated || got.Clock == nil || got.EKCertificate.Manufacturer != simtpm.Manufacturer {
					t.Errorf("%s: %d rounds, want %d; %+v", what, n, rounds, got)
				}
				if got.Boot == nil || got.Boot.SecureBoot == nil || !*got.Boot.SecureBoot {
					t.Errorf("%s: boot %+v", what, got.Boot)
				}
				return got
			}
			first := step("enrol", tpm2.TPMRHNull, 1, false)
			if first.KeyResidency != attest.ResidentTPM || len(first.Certified) != 1 {
				t.Errorf("%+v", first)
			}
			if again := step("renew", tpm2.TPMRHNull, 0, false); again.Clock.ResetCount != first.Clock.ResetCount {
				t.Errorf("clock %+v, and then %+v", first.Clock, again.Clock)
			}
			if soft := step("renew with a key in software", 0, 0, false); soft.KeyResidency != attest.ResidentSoftware {
				t.Errorf("%+v", soft)
			}
			c.bank = tpm2.TPMAlgSHA384
			if _, _, err := c.run(t, v, 0); attest.CheckOf(err) != tpm.CheckBindingBank {
				t.Errorf("a quote of the other bank: %v", err)
			}
			c.bank = 0
			if err := c.dev.Resume(); err != nil {
				t.Fatal(err)
			}
			if got := step("after a resume", tpm2.TPMRHNull, 0, false); got.Clock.RestartCount == first.Clock.RestartCount {
				t.Errorf("clock %+v, and then %+v", first.Clock, got.Clock)
			}
			if err := c.dev.Reset(simtpm.Boot{Image: "another"}); err != nil {
				t.Fatal(err)
			}
			if got := step("after a reboot", tpm2.TPMRHNull, 0, false); got.Clock.ResetCount != first.Clock.ResetCount+1 || string(got.EK) != string(first.EK) || string(got.AK) != string(first.AK) {
				t.Errorf("clock %+v, and then %+v", first.Clock, got.Clock)
			}
			if err := c.dev.Clear(); err != nil {
				t.Fatal(err)
			}
			if got := step("after it was cleared", tpm2.TPMRHNull, 1, true); string(got.AK) != string(first.AK) {
				t.Error("the AK has another name after it was cleared")
			}
			step("renew after that", tpm2.TPMRHNull, 0, false)
			if got, _, err := c.run(t, v, tpm2.TPMRHOwner); got != nil || attest.CheckOf(err) != tpm.CheckCertifyHierarchy {
				t.Errorf("a key of the owner's hierarchy: %v", err)
			}
		})
	}
}

func TestAnotherSoftwareTPMCannotAnswerForTheFirst(t *testing.T) {
	a, roots := machines(t)
	v := verifierOver(t, roots)
	first := client{dev: start(t, a, simtpm.Machine{}), kind: simtpm.P256, ca: a.Intermediate().Raw}
	second := client{dev: start(t, a, simtpm.Machine{}), kind: simtpm.P256, ca: a.Intermediate().Raw}
	bind := func(spki []byte) attest.Binding { _, b := challenge(t, [][]byte{spki}); return b }
	q, b := first.attest(t, 0, bind)
	refused := func(x verifiers.Exchange) verifiers.Exchange {
		return func(ctx context.Context, credential []byte) ([]byte, error) {
			if _, err := x(ctx, credential); err == nil {
				t.Error("the second TPM opened the first one's credential")
			}
			return make([]byte, 32), nil
		}
	}
	if got, _, err := verifyAt(t, v, q, refused(second.activate(t, b, new(int))), time.Now()); got != nil || attest.CheckOf(err) != tpm.CheckCredentialProof {
		t.Errorf("%v", err)
	}
	// The second one's AK and quote, with the first one's EK and certificate.
	theirs, b := second.attest(t, 0, bind)
	mixed, err := attest.DecodeTPMEvidence(theirs.evidence.Body)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := attest.DecodeTPMEvidence(q.evidence.Body)
	if err != nil {
		t.Fatal(err)
	}
	mixed.EKPublic, mixed.EKCertificate = ours.EKPublic, ours.EKCertificate
	theirs.evidence = evidence(t, *mixed, theirs.evidence.EventLog, first.ca)
	for name, c := range map[string]client{"with the first TPM's help": first, "alone": second} {
		if got, _, err := verifyAt(t, v, theirs, refused(c.activate(t, b, new(int))), time.Now()); got != nil || attest.CheckOf(err) != tpm.CheckCredentialProof {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// persistent answers something also where the TPM refuses.
func persistent(x verifiers.Exchange) verifiers.Exchange {
	return func(ctx context.Context, credential []byte) ([]byte, error) {
		proof, err := x(ctx, credential)
		if err != nil {
			return make([]byte, 32), nil
		}
		return proof, nil
	}
}

// Every fault of the simulator ends in the check that it names.
func TestEveryFaultOfTheSimulatorEndsInItsCheck(t *testing.T) {
	a, roots := machines(t)
	named := 0
	for _, f := range simtpm.Faults() {
		t.Run(f.Name, func(t *testing.T) {
			c := client{dev: start(t, a, simtpm.Machine{}, f), kind: simtpm.P256, ca: a.Intermediate().Raw}
			v := verifierOver(t, roots, tpm.WithBindings(new(tpm.MemoryBindings)))
			resident := tpm2.TPMHandle(0)
			if f.Resident {
				resident = tpm2.TPMRHNull
			}
			if f.Name == "quote-replayed" {
				c.attest(t, 0, func([]byte) attest.Binding { return attest.Binding{} })
			}
			q, b := c.attest(t, resident, func(spki []byte) attest.Binding { _, b := challenge(t, [][]byte{spki}); return b })
			got, _, err := verifyAt(t, v, q, persistent(c.activate(t, b, new(int))), time.Now())
			if f.Check == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			named++
			if got != nil || attest.CheckOf(err) != f.Check || attest.KindOf(err).String() != f.Kind || kindOf(t, f.Check) != attest.KindOf(err) {
				t.Errorf("want %s (%s), got %v", f.Check, f.Kind, err)
			}
		})
	}
	if named < 30 {
		t.Errorf("%d faults", named)
	}
}
