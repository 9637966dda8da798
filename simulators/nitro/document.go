package nitro

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Document is what an attestation document says. The zero Document is good: it
// is filled with an enclave of the authority's own, at the authority's time.
type Document struct {
	ModuleID  string         // "i-…-enc…"; "" = one that the authority keeps
	Digest    string         // "" = "SHA384", the only one there is
	Timestamp time.Time      // zero = the authority's clock; millisecond precision
	PCRs      map[int][]byte // the locked registers; nil = those of an image named "default"
	PublicKey []byte         // nil = CBOR null, here and below
	UserData  []byte
	Nonce     []byte

	// FreshLeaf asks for a new leaf certificate. Without it an enclave's documents
	// share a leaf for its three hours, as on EC2.
	FreshLeaf bool
	// Indefinite writes the payload as an indefinite-length map, as newer NSMs do.
	Indefinite bool
	// Tagged puts COSE tag 18 in front (RFC 9052, section 4.2). The NSM does not;
	// tools that pass documents on sometimes do.
	Tagged bool
}

// draft is a document in the making. The hooks of a [Fault] change it between
// the steps.
type draft struct {
	authority *Authority
	at        time.Time // the honest time, before any fault moved the document's own
	doc       Document

	bundle []*node // root, regional, zonal, instance
	leaf   *node

	certificate []byte   // DER as it goes into the payload
	cabundle    [][]byte // the same
	fields      []field  // the payload, in order
	payload     []byte   // what is signed

	tags        []uint64 // outermost first
	protected   []byte   // the encoded protected header map
	unprotected []byte   // an encoded item
	signer      crypto.Signer
	signature   []byte
	document    []byte
}

// field is one entry of the payload map; both parts are encoded items.
type field struct{ key, value []byte }

// algES384 is COSE's number for ECDSA with SHA-384 (RFC 9053, section 2.1).
const algES384 = -35

// Mint makes an attestation document: an untagged COSE_Sign1 as the NSM emits
// it, in the hardware's own steps, and lets each fault change what is its.
// Several faults can be combined, but then no check is promised, and some
// exclude each other, which is an error. So is a time outside the root's life.
func (a *Authority) Mint(d Document, faults ...Fault) ([]byte, error) {
	m, err := a.draft(d)
	if err != nil {
		return nil, err
	}
	// 1. what the document says, 2. the certificates, 3. the payload, 4. the COSE
	// headers, 5. the signature, 6. the finished bytes.
	steps := []struct {
		do   hook
		hook func(Fault) hook
	}{
		{nothing, func(f Fault) hook { return f.onDocument }},
		{func(d *draft) error { return d.certify(faults) }, func(f Fault) hook { return f.onChain }},
		{(*draft).encode, func(f Fault) hook { return f.onPayload }},
		{(*draft).headers, func(f Fault) hook { return f.onHeaders }},
		{(*draft).sign, func(f Fault) hook { return f.onSigned }},
		{(*draft).assemble, func(f Fault) hook { return f.onFinished }},
	}
	for _, s := range steps {
		if err := s.do(m); err != nil {
			return nil, err
		}
		for _, f := range faults {
			if hook := s.hook(f); hook != nil {
				if err := hook(m); err != nil {
					return nil, fmt.Errorf("nitro: fault %s: %w", f.Name, err)
				}
			}
		}
	}
	return m.document, nil
}

// hook is a step, or a fault's change after it.
type hook func(*draft) error

func nothing(*draft) error { return nil }

// draft fills in what the document leaves open.
func (a *Authority) draft(d Document) (*draft, error) {
	if d.Timestamp.IsZero() {
		d.Timestamp = a.now()
	}
	if d.Timestamp.Before(a.root.cert.NotBefore.Add(regionalAge)) || d.Timestamp.After(a.root.cert.NotAfter.Add(-regionalLifetime)) {
		return nil, fmt.Errorf("nitro: a document of %s is outside the life of the simulated root (%s to %s)",
			d.Timestamp.UTC().Format(time.RFC3339), a.root.cert.NotBefore.Format(time.RFC3339), a.root.cert.NotAfter.Format(time.RFC3339))
	}
	if d.ModuleID == "" {
		id, err := a.defaultModule(d.Timestamp)
		if err != nil {
			return nil, err
		}
		d.ModuleID = id
	}
	if d.Digest == "" {
		d.Digest = "SHA384"
	}
	if d.PCRs == nil {
		d.PCRs = Launch{Image: ImageFromSeed("default"), InstanceID: InstanceOf(d.ModuleID)}.PCRs()
	}
	d.PCRs = maps.Clone(d.PCRs)
	return &draft{authority: a, at: d.Timestamp, doc: d}, nil
}

// certify chooses the certificates. A fault that changes a blueprint gets a
// chain of its own, which no later document sees.
func (d *draft) certify(faults []Fault) error {
	var err error
	planned := slices.ContainsFunc(faults, func(f Fault) bool { return f.onPlan != nil })
	root := d.authority.root
	if planned {
		p, perr := d.authority.plan(d.doc.ModuleID, d.at)
		if perr != nil {
			return perr
		}
		for _, f := range faults {
			if f.onPlan == nil {
				continue
			}
			if err := f.onPlan(d, p); err != nil {
				return fmt.Errorf("nitro: fault %s: %w", f.Name, err)
			}
		}
		d.bundle, d.leaf, err = p.build(root)
	} else {
		d.bundle, d.leaf, err = d.authority.chain(d.doc.ModuleID, d.at, d.doc.FreshLeaf)
	}
	if err != nil {
		return err
	}
	d.certificate = slices.Clone(d.leaf.der)
	for _, n := range d.bundle {
		d.cabundle = append(d.cabundle, slices.Clone(n.der))
	}
	d.signer = d.leaf.key
	return nil
}

// encode writes the payload's fields in the device's order (AWS, "Attestation
// document specification"), unless a fault has written them already.
func (d *draft) encode() error {
	items := make([][]byte, 0, len(d.cabundle))
	for _, c := range d.cabundle {
		items = append(items, cborBytes(c))
	}
	d.fields = []field{
		{cborText("module_id"), cborText(d.doc.ModuleID)},
		{cborText("digest"), cborText(d.doc.Digest)},
		{cborText("timestamp"), cborInt(d.doc.Timestamp.UnixMilli())},
		{cborText("pcrs"), encodePCRs(d.doc.PCRs)},
		{cborText("certificate"), cborBytes(d.certificate)},
		{cborText("cabundle"), cborArray(items...)},
		{cborText("public_key"), cborOptional(d.doc.PublicKey)},
		{cborText("user_data"), cborOptional(d.doc.UserData)},
		{cborText("nonce"), cborOptional(d.doc.Nonce)},
	}
	return nil
}

// encodePCRs writes the registers in the order of their index.
func encodePCRs(pcrs map[int][]byte) []byte {
	pairs := make([]pair, 0, len(pcrs))
	for _, i := range slices.Sorted(maps.Keys(pcrs)) {
		pairs = append(pairs, pair{cborInt(int64(i)), cborBytes(pcrs[i])})
	}
	return cborMap(pairs...)
}

// set replaces the value of a field.
func (d *draft) set(key string, value []byte) error {
	for i := range d.fields {
		if string(d.fields[i].key) == string(cborText(key)) {
			d.fields[i].value = value
			return nil
		}
	}
	return fmt.Errorf("no field %q", key)
}

// remove takes a field out.
func (d *draft) remove(key string) error {
	n := len(d.fields)
	d.fields = slices.DeleteFunc(d.fields, func(f field) bool { return string(f.key) == string(cborText(key)) })
	if len(d.fields) != n-1 {
		return fmt.Errorf("no field %q", key)
	}
	return nil
}

// headers joins the payload and writes the COSE headers: {1: -35} protected,
// nothing unprotected.
func (d *draft) headers() error {
	d.protected = cborMap(pair{cborUint(1), cborInt(algES384)})
	d.unprotected = cborMap()
	if d.doc.Tagged {
		d.tags = []uint64{18}
	}
	if d.doc.Indefinite {
		d.payload = []byte{cborIndefiniteMap}
	} else {
		d.payload = head(majorMap, uint64(len(d.fields)))
	}
	for _, f := range d.fields {
		d.payload = append(append(d.payload, f.key...), f.value...)
	}
	if d.doc.Indefinite {
		d.payload = append(d.payload, cborBreak)
	}
	return nil
}

// sign signs the Sig_structure of RFC 9052, section 4.4.
func (d *draft) sign() error {
	tbs := cborArray(cborText("Signature1"), cborBytes(d.protected), cborBytes(nil), cborBytes(d.payload))
	sum := sha512.Sum384(tbs)
	key, ok := d.signer.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("nitro: the leaf key is not an ECDSA key")
	}
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return err
	}
	// ES384 is r ‖ s, 48 bytes each (RFC 9053, section 2.1). A P-521 key needs
	// more; what a verifier must refuse before it looks at the signature has room
	// for any 96 bytes.
	d.signature = make([]byte, 96)
	if r.BitLen() <= 384 && s.BitLen() <= 384 {
		r.FillBytes(d.signature[:48])
		s.FillBytes(d.signature[48:])
		return nil
	}
	_, err = rand.Read(d.signature)
	return err
}

// assemble writes the COSE_Sign1 array.
func (d *draft) assemble() error {
	d.document = nil
	for _, t := range d.tags {
		d.document = append(d.document, head(majorTag, t)...)
	}
	d.document = append(d.document, cborArray(
		cborBytes(d.protected), d.unprotected, cborBytes(d.payload), cborBytes(d.signature))...)
	return nil
}
