package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// PCRSelection are the registers that a TPM is to quote.
type PCRSelection struct {
	Bank string // "sha256" or "sha384"
	PCRs []int  // ascending, each 0 to 15: those above can be reset while the machine runs
}

// maxStaticPCR is the last register that only a reset of the machine resets.
const maxStaticPCR = 15

// DefaultPCRs are quoted where nobody says which.
func DefaultPCRs() PCRSelection {
	s := PCRSelection{Bank: "sha256"}
	for i := range maxStaticPCR + 1 {
		s.PCRs = append(s.PCRs, i)
	}
	return s
}

// alg is the bank's algorithm; 0 for a bank that is never quoted.
func (p PCRSelection) alg() tpm2.TPMAlgID {
	switch p.Bank {
	case "sha256":
		return tpm2.TPMAlgSHA256
	case "sha384":
		return tpm2.TPMAlgSHA384
	}
	return 0
}

// Check wants one of the two banks, and static registers, each once, in order.
func (p PCRSelection) Check() error {
	if p.alg() == 0 {
		return fmt.Errorf("PCR bank %q, want sha256 or sha384", clip(p.Bank))
	}
	if len(p.PCRs) == 0 {
		return errors.New("no PCR")
	}
	for i, n := range p.PCRs {
		switch {
		case n < 0 || n > maxStaticPCR:
			return fmt.Errorf("PCR %d, want 0 to %d", n, maxStaticPCR)
		case i > 0 && n <= p.PCRs[i-1]:
			return fmt.Errorf("PCR %d after PCR %d", n, p.PCRs[i-1])
		}
	}
	return nil
}

func selectPCRs(alg tpm2.TPMAlgID, pcrs []int) tpm2.TPMLPCRSelection {
	bits := make([]uint, len(pcrs))
	for i, n := range pcrs {
		bits[i] = uint(n)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: alg, PCRSelect: tpm2.PCClientCompatible.PCRs(bits...)}}}
}

// Evidence quotes the default registers, bound to want.
func (t *TPM) Evidence(ctx context.Context, want attest.Binding) (attest.Evidence, error) {
	return t.Quote(ctx, want, DefaultPCRs(), nil)
}

// Quote asks the TPM for a quote over the registers with qualifyingData = B. keys
// are those of the binding, in its order: the ones that live in this TPM are
// certified with it, and it is all of them or none.
func (t *TPM) Quote(ctx context.Context, want attest.Binding, over PCRSelection, keys []crypto.Signer) (attest.Evidence, error) {
	if len(want.Keys) == 0 || want.B == [32]byte{} {
		return attest.Evidence{}, &attest.Error{Kind: attest.Internal, Check: "tpm", Err: errors.New("a binding without keys or B")}
	}
	resident, err := t.resident(want, keys)
	if err != nil {
		return attest.Evidence{}, &attest.Error{Kind: attest.Internal, Check: "key_residency", Err: err}
	}
	return t.evidence(ctx, want.B, over, resident)
}

// Collect makes evidence outside of an attestation, for the security team: its
// qualifyingData is that of the nonce under a tag which attestation refuses.
func (t *TPM) Collect(ctx context.Context, nonce []byte) (attest.Evidence, error) {
	b, err := attest.CollectedBinding(nonce)
	if err != nil {
		return attest.Evidence{}, err
	}
	return t.evidence(ctx, b, DefaultPCRs(), nil)
}

// resident are the keys of a binding that live in this TPM.
func (t *TPM) resident(want attest.Binding, keys []crypto.Signer) (out []*residentKey, err error) {
	for i, k := range keys {
		own, ok := k.(*residentKey)
		switch {
		case !ok:
			continue
		case own.tpm != t:
			return nil, fmt.Errorf("key %d lives in another TPM", i)
		case i >= len(want.Keys):
			return nil, errors.New("more keys than the binding has")
		}
		spki, err := x509.MarshalPKIXPublicKey(own.Public())
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(spki, want.Keys[i].SPKI) {
			return nil, fmt.Errorf("key %d is not that of the binding", i)
		}
		out = append(out, own)
	}
	if len(out) != 0 && len(out) != len(want.Keys) {
		return nil, fmt.Errorf("%d of %d keys live in the TPM: it is all of them or none", len(out), len(want.Keys))
	}
	return out, nil
}

func (t *TPM) evidence(ctx context.Context, b [32]byte, over PCRSelection, resident []*residentKey) (attest.Evidence, error) {
	if err := over.Check(); err != nil {
		return attest.Evidence{}, &attest.Error{Kind: attest.Internal, Check: "tpm", Err: err}
	}
	log, err := t.eventLog()
	if err != nil {
		return attest.Evidence{}, err
	}
	return withTPM(ctx, t, t.slow, func(s *tpmSession) (attest.Evidence, error) {
		ak, id, err := t.loadAK(s)
		if err != nil {
			return attest.Evidence{}, err
		}
		ev := attest.TPMEvidence{AKPublic: ak.area, AKCertificate: id.akCertificate}
		if id.ek != nil {
			ev.EKPublic = id.ek.area
			if id.ek.certificate != nil {
				ev.EKCertificate = id.ek.certificate.Raw
			}
		}
		for i, k := range resident {
			c, err := s.certify(ak, k.saved, b)
			if err != nil {
				return attest.Evidence{}, fmt.Errorf("certify key %d: %w", i, err)
			}
			ev.Certified = append(ev.Certified, c)
		}
		if err := s.quote(&ev, ak, b, over); err != nil {
			return attest.Evidence{}, err
		}
		if log != nil {
			sum := sha256.Sum256(log)
			ev.EventLogDigest = sum[:]
		}
		body, err := ev.Encode()
		if err != nil {
			return attest.Evidence{}, err
		}
		out := attest.Evidence{Platform: attest.TPM2, Body: body, EventLog: log}
		if id.ek != nil {
			out.Endorsements = id.ek.chain
		}
		return out, nil
	})
}

// quoteTries is how often registers may change between being read and being quoted.
const quoteTries = 5

// quote quotes registers and reads their values. Somebody may extend one in between:
// then it tries again. Whatever else is wrong with a quote the server says, by name.
func (s *tpmSession) quote(into *attest.TPMEvidence, ak tpmKey, b [32]byte, over PCRSelection) error {
	alg := over.alg()
	for range quoteTries {
		values, err := s.readPCRs(over)
		if err != nil {
			return err
		}
		r, err := tpm2.Quote{SignHandle: ak.auth(), QualifyingData: tpm2.TPM2BData{Buffer: b[:]}, PCRSelect: selectPCRs(alg, over.PCRs)}.Execute(s)
		if err != nil {
			return fmt.Errorf("TPM2_Quote: %w", err)
		}
		into.Quote, into.Signature, into.PCRs = r.Quoted.Bytes(), tpm2.Marshal(r.Signature), values
		if about, err := r.Quoted.Contents(); err == nil {
			if q, err := about.Attested.Quote(); err == nil && !agrees(q.PCRDigest.Buffer, values, over.PCRs) {
				continue
			}
		}
		return nil
	}
	return nil
}

// agrees reports whether the values are what was quoted, in the digest of the
// signing key.
func agrees(digest []byte, values map[uint32][]byte, pcrs []int) bool {
	var all []byte
	for _, n := range pcrs {
		all = append(all, values[uint32(n)]...)
	}
	switch len(digest) {
	case sha256.Size:
		sum := sha256.Sum256(all)
		return bytes.Equal(digest, sum[:])
	case sha512.Size384:
		sum := sha512.Sum384(all)
		return bytes.Equal(digest, sum[:])
	case sha512.Size:
		sum := sha512.Sum512(all)
		return bytes.Equal(digest, sum[:])
	}
	return false
}

var errNoBank = errors.New("the TPM does not have the bank of PCRs")

// readPCRs reads registers; a TPM gives some of them at once.
func (s *tpmSession) readPCRs(over PCRSelection) (map[uint32][]byte, error) {
	alg := over.alg()
	out := map[uint32][]byte{}
	for left := over.PCRs; len(left) > 0; {
		r, err := tpm2.PCRRead{PCRSelectionIn: selectPCRs(alg, left)}.Execute(s)
		if errors.Is(err, tpm2.TPMRCHash) || errors.Is(err, tpm2.TPMRCValue) {
			return nil, fmt.Errorf("%w: %s (%w)", errNoBank, over.Bank, err)
		}
		if err != nil {
			return nil, fmt.Errorf("TPM2_PCR_Read: %w", err)
		}
		got := selected(r.PCRSelectionOut, alg, left)
		if len(got) == 0 {
			return nil, fmt.Errorf("%w: %s", errNoBank, over.Bank)
		}
		if len(got) != len(r.PCRValues.Digests) {
			return nil, nonsense("TPM2_PCR_Read selects %d registers and gives %d values", len(got), len(r.PCRValues.Digests))
		}
		for i, n := range got {
			out[uint32(n)] = r.PCRValues.Digests[i].Buffer
		}
		left = slices.DeleteFunc(slices.Clone(left), func(n int) bool { return slices.Contains(got, n) })
	}
	return out, nil
}

// selected lists those of the registers that a selection has.
func selected(l tpm2.TPMLPCRSelection, alg tpm2.TPMAlgID, of []int) (out []int) {
	for _, one := range l.PCRSelections {
		if one.Hash != alg {
			continue
		}
		for _, n := range of {
			if n/8 < len(one.PCRSelect) && one.PCRSelect[n/8]&(1<<(n%8)) != 0 {
				out = append(out, n)
			}
		}
	}
	return out
}

// certify has the attestation key vouch for a key of the NULL hierarchy.
func (s *tpmSession) certify(ak tpmKey, k savedKey, b [32]byte) (attest.TPMCertified, error) {
	own, err := s.load(k)
	if err != nil {
		return attest.TPMCertified{}, err
	}
	r, err := tpm2.Certify{ObjectHandle: own.auth(), SignHandle: ak.auth(), QualifyingData: tpm2.TPM2BData{Buffer: b[:]}}.Execute(s)
	if err != nil {
		return attest.TPMCertified{}, fmt.Errorf("TPM2_Certify: %w", err)
	}
	return attest.TPMCertified{Public: k.area, Attest: r.CertifyInfo.Bytes(), Signature: tpm2.Marshal(r.Signature)}, s.flush(own.handle)
}
