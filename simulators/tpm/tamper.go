package tpm

import (
	"bytes"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// tamper stands between the clients and the TPM, as the host of a machine does
// that belongs to somebody else, and does what faults say.
type tamper struct {
	faults []Fault
	tpm    *TPM
	memory map[string][]byte // what faults keep from one command to the next
}

// newTamper is nil when no fault needs it.
func newTamper(t *TPM, faults []Fault) *tamper {
	var ours []Fault
	for _, f := range faults {
		if f.onCommand != nil || f.onResponse != nil {
			ours = append(ours, f)
		}
	}
	if len(ours) == 0 {
		return nil
	}
	return &tamper{faults: ours, tpm: t, memory: make(map[string][]byte)}
}

// exchange is a command and its response. A fault changes either, or leaves it
// alone: what can't be taken apart goes through as it is.
type exchange struct {
	*tamper
	command  parts
	response parts // in onResponse
	swapped  bool  // the command is another than the client's
}

// send carries a command out, while the TPM's mu is held.
func (t *tamper) send(command []byte) ([]byte, error) {
	c, err := splitCommand(command)
	if err != nil {
		return t.tpm.process.send(command)
	}
	x := &exchange{tamper: t, command: c}
	for _, f := range t.faults {
		x.apply(f.onCommand)
	}
	response, err := t.tpm.process.send(x.command.command())
	if err != nil {
		return nil, err
	}
	if x.response, err = splitResponse(x.command.code, response); err != nil {
		return response, nil
	}
	for _, f := range t.faults {
		x.apply(f.onResponse)
	}
	return x.response.response(), nil
}

// apply does what a fault says. Clients send what they like, and the library
// that takes it apart may panic at it: then the message stays as it was.
func (x *exchange) apply(do func(*exchange)) {
	if do == nil {
		return
	}
	before := *x
	before.command.handles, before.response.handles = slices.Clone(x.command.handles), slices.Clone(x.response.handles)
	defer func() {
		if recover() != nil {
			*x = before
		}
	}()
	do(x)
}

// inner carries out a command of the fault's own.
func (x *exchange) inner() direct { return direct{x.tpm.process} }

// template is the public area that CreatePrimary or Create asks for, and what is
// in front of it and behind it in the parameters: the sensitive part, a TPM2B,
// and creation data.
func (x *exchange) template() (area *tpm2.TPMTPublic, before, behind []byte, ok bool) {
	if x.command.code != ccCreatePrimary && x.command.code != ccCreate {
		return nil, nil, nil, false
	}
	_, rest, err := take2B(x.command.parameters)
	if err != nil {
		return nil, nil, nil, false
	}
	before = x.command.parameters[:len(x.command.parameters)-len(rest)]
	public, behind, err := take2B(rest)
	if err != nil {
		return nil, nil, nil, false
	}
	area, err = tpm2.Unmarshal[tpm2.TPMTPublic](public)
	return area, before, behind, err == nil
}

// retemplate asks for another public area instead.
func (x *exchange) retemplate(area tpm2.TPMTPublic, before, behind []byte) {
	x.command.parameters = append(put2B(slices.Clone(before), tpm2.Marshal(area)), behind...)
}

// attested is the response to Quote or Certify: the attestation and what is
// behind it, the signature.
func (x *exchange) attested(code uint32) (attest, signature []byte, ok bool) {
	if x.command.code != code {
		return nil, nil, false
	}
	attest, signature, err := take2B(x.response.parameters)
	return slices.Clone(attest), slices.Clone(signature), err == nil
}

func (x *exchange) reattest(attest, signature []byte) {
	x.response.parameters = append(put2B(nil, attest), signature...)
}

// qualifying replaces the data that the client has attested: the first parameter
// of Quote and of Certify.
func (x *exchange) qualifying(change func([]byte) []byte) {
	data, rest, err := take2B(x.command.parameters)
	if err != nil {
		return
	}
	x.command.parameters = append(put2B(nil, change(slices.Clone(data))), rest...)
}

// isAK reports whether a template is that of an attestation key.
func isAK(t *tpm2.TPMTPublic) bool {
	return t.ObjectAttributes.Restricted && t.ObjectAttributes.SignEncrypt && !t.ObjectAttributes.Decrypt
}

// isResident reports whether it is that of a key which signs for a workload.
func isResident(t *tpm2.TPMTPublic) bool {
	return !t.ObjectAttributes.Restricted && t.ObjectAttributes.SignEncrypt
}

// isEK reports whether it is that of an endorsement key.
func isEK(t *tpm2.TPMTPublic) bool {
	return t.ObjectAttributes.Restricted && t.ObjectAttributes.Decrypt && t.ObjectAttributes.AdminWithPolicy
}

// flip returns bytes with the last bit changed; nothing becomes one byte.
func flip(b []byte) []byte {
	if len(b) == 0 {
		return []byte{1}
	}
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}
