package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// nvChunk is how much one command writes into NV.
const nvChunk = 1024

// manufacture makes the endorsement keys and writes their certificates, where
// the machine is new; r is nil then. Where faults of certificates come or go, it
// writes others.
func (t *TPM) manufacture(r *record) error {
	root := t.authority.RootDigest()
	next := record{Version: recordVersion, Root: root[:], Faults: certificateFaults(t.faults)}
	kinds := t.machine.EKs
	switch {
	case r != nil:
		kinds = r.kinds()
	case len(kinds) == 0:
		kinds = []EKKind{P256, RSA2048}
	}
	t.eks = nil
	for _, k := range kinds {
		e, err := t.persist(k)
		if err != nil {
			return fmt.Errorf("tpm: endorsement key %s: %w", k, err)
		}
		t.eks = append(t.eks, *e)
	}
	if r != nil {
		known, err := r.eks()
		if err != nil {
			return err
		}
		for i := range t.eks {
			if !bytes.Equal(known[i].Public, t.eks[i].Public) {
				return fmt.Errorf("tpm: the TPM in %s is not the one that was made: remove the directory to make another", t.state.dir)
			}
			t.eks[i].Certificate = known[i].Certificate
		}
		if slices.Equal(r.Faults, next.Faults) {
			return nil
		}
	}
	for i := range t.eks {
		e := &t.eks[i]
		key, err := publicKey(e.Public)
		if err != nil {
			return err
		}
		if e.Certificate, err = t.authority.ekCertificate(key, t.faults); err != nil {
			return err
		}
		if err := t.writeCertificate(*e); err != nil {
			return err
		}
		next.EKs = append(next.EKs, recordedEK{Kind: e.Kind, Public: e.Public, Certificate: e.Certificate})
	}
	if err := t.writeNV(nvChain, t.authority.intermediate.cert.Raw); err != nil {
		return err
	}
	return t.state.write(next)
}

// provision makes the endorsement keys persistent again after TPM2_Clear.
func (t *TPM) provision() error {
	for _, e := range t.eks {
		if _, err := t.persist(e.Kind); err != nil {
			return fmt.Errorf("tpm: endorsement key %s: %w", e.Kind, err)
		}
	}
	return nil
}

// persist makes a key from the endorsement seed and its template, which always
// gives the same, and keeps it at its handle, unless it is there.
func (t *TPM) persist(k EKKind) (*EK, error) {
	place, err := k.place()
	if err != nil {
		return nil, err
	}
	there, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(place.handle)}.Execute(direct{t.process})
	if err == nil {
		return newEK(k, there.OutPublic.Bytes())
	}
	if !errors.Is(err, tpm2.TPMRCHandle) {
		return nil, err
	}
	template, err := k.template()
	if err != nil {
		return nil, err
	}
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(direct{t.process})
	if err != nil {
		return nil, err
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
		PersistentHandle: tpm2.TPMHandle(place.handle),
	}.Execute(direct{t.process})
	if _, flushed := (tpm2.FlushContext{FlushHandle: made.ObjectHandle}).Execute(direct{t.process}); err == nil {
		err = flushed
	}
	if err != nil {
		return nil, err
	}
	return newEK(k, made.OutPublic.Bytes())
}

// writeCertificate puts a certificate where the profile says, with what follows
// it; none removes it.
func (t *TPM) writeCertificate(e EK) error {
	place, err := e.Kind.place()
	if err != nil {
		return err
	}
	if len(e.Certificate) == 0 {
		return t.removeNV(place.nv)
	}
	return t.writeNV(place.nv, append(slices.Clone(e.Certificate), make([]byte, t.machine.Padding)...))
}

// writeNV defines an index as manufacturers do: the platform's, readable by
// everybody, and left alone by TPM2_Clear.
func (t *TPM) writeNV(index uint32, content []byte) error {
	if err := t.removeNV(index); err != nil {
		return err
	}
	public := tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(content)),
		Attributes: tpm2.TPMANV{
			PPWrite: true, WriteDefine: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, PlatformCreate: true,
		},
	}
	_, err := tpm2.NVDefineSpace{AuthHandle: t.platformAuth(), PublicInfo: tpm2.New2B(public)}.Execute(direct{t.process})
	if err != nil {
		return fmt.Errorf("tpm: defining NV index 0x%08x of %d bytes: %w", index, len(content), err)
	}
	for at := 0; at < len(content); at += nvChunk {
		handle, err := t.nv(index)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: t.platformAuth(), NVIndex: handle, Offset: uint16(at),
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: content[at:min(at+nvChunk, len(content))]},
		}.Execute(direct{t.process})
		if err != nil {
			return fmt.Errorf("tpm: writing NV index 0x%08x: %w", index, err)
		}
	}
	return nil
}

// removeNV removes an index if it is there.
func (t *TPM) removeNV(index uint32) error {
	handle, err := t.nv(index)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := (tpm2.NVUndefineSpace{AuthHandle: t.platformAuth(), NVIndex: *handle}).Execute(direct{t.process}); err != nil {
		return fmt.Errorf("tpm: removing NV index 0x%08x: %w", index, err)
	}
	return nil
}

// nv is an index with its name.
func (t *TPM) nv(index uint32) (*tpm2.NamedHandle, error) {
	there, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(direct{t.process})
	if err != nil {
		return nil, err
	}
	return &tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: there.NVName}, nil
}
