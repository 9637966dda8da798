package tpm

import (
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// certifyFaults are those of workloads' keys that live in the TPM, and of what
// the AK says of them.
func certifyFaults() []Fault {
	all := []Fault{
		untrusted("certify-signature-flipped", "certify_signature", "the signature over the key has a wrong bit").response(func(x *exchange) {
			if attest, signature, ok := x.attested(ccCertify); ok {
				x.reattest(attest, flip(signature))
			}
		}),
		untrusted("certify-is-a-quote", "certify_type", "the AK quotes a register instead of certifying the key").command(certifyByQuote).response(func(x *exchange) {
			if x.swapped { // the client has sent two authorizations
				x.response.authorizations = append(slices.Clone(x.response.authorizations), x.response.authorizations...)
			}
		}),
		untrusted("certify-other-key", "certify_name", "the AK certifies itself, and not the key").command(func(x *exchange) {
			if x.command.code == ccCertify && len(x.command.handles) == 2 {
				x.command.handles[0] = x.command.handles[1]
			}
		}),
		untrusted("resident-owner-hierarchy", "certify_hierarchy", "the key is one of the owner's, and can be made again after a reboot").command(func(x *exchange) {
			if area, _, _, ok := x.template(); ok && isResident(area) && x.command.code == ccCreatePrimary {
				x.command.handles[0] = uint32(tpm2.TPMRHOwner)
			}
		}),
		untrusted("resident-not-fixed", "certify_key_attributes", "the key can be duplicated out of the TPM").command(
			changeTemplate(isResident, func(t *tpm2.TPMTPublic) { t.ObjectAttributes.FixedTPM, t.ObjectAttributes.FixedParent = false, false })),
		untrusted("resident-not-stclear", "certify_key_attributes", "a saved copy of the key outlives a suspended boot").command(
			changeTemplate(isResident, func(t *tpm2.TPMTPublic) { t.ObjectAttributes.STClear = false })),
		untrusted("certify-other-data", "binding_certify", "the AK certifies the key over other data").command(func(x *exchange) {
			if x.command.code == ccCertify {
				x.qualifying(flip)
			}
		}),
	}
	for i := range all {
		all[i].Resident = true
	}
	return all
}

// certifyByQuote has the AK quote PCR0: the handle is the signer, and parameters
// the data, the scheme and a selection. The response looks like Certify's.
func certifyByQuote(x *exchange) {
	if x.command.code != ccCertify || len(x.command.handles) != 2 {
		return
	}
	_, second, ok := splitAuthorization(x.command.authorizations, 4)
	if !ok || len(second) == 0 {
		return
	}
	x.command.code, x.swapped = ccQuote, true
	x.command.handles = x.command.handles[1:]
	x.command.authorizations = second
	x.command.parameters = append(slices.Clone(x.command.parameters), tpm2.Marshal(selection(tpm2.TPMAlgSHA256, 1, 0, 0))...)
}
