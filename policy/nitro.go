package policy

import (
	"strconv"

	"github.com/assay-project/assay/attest"
)

// nitro is what the language knows of AWS Nitro Enclaves: the platform
// configuration registers pcr0 to pcr31, and debug.
//
//	pcr0  the whole enclave image          pcr3  the IAM role of the parent instance
//	pcr1  kernel and bootstrap             pcr4  the id of the parent instance
//	pcr2  the application                  pcr8  the certificate that signed the image
//
// PCR3 and PCR4 are measured by the Nitro hypervisor from facts that only the
// owner of the AWS account can bring about, so they tell whose enclave it is.
// The others can be repeated by whoever has the image.
var nitro = newTEE(tee{
	platform: attest.AWSNitro,
	model:    nitroModel,
	fields:   nitroFields(),

	claims:       "pcr0 to pcr31, debug",
	measurements: "pcr0 to pcr31 but pcr3 and pcr4",
	describe:     nitroDescriptions(),
	instead: map[string]string{
		"module_id":  "it is new at each launch: pin the owner with pcr3 or pcr4, or ban an instance on the server",
		"timestamp":  "the age of evidence is bounded by max_evidence_age",
		"user_data":  "the protocol's binding is in it, and is checked before policy",
		"nonce":      "the protocol's nonce is in it, and is checked before policy",
		"public_key": "the protocol's key is in it, and is checked before policy",
		"digest":     "it is always SHA384, and is checked before policy",
	},
	root:      "nitro",
	index:     []string{"pcr0", "pcr3", "pcr4", "pcr8", "pcr2"},
	implicit:  []implicitRule{{claim: "debug", values: []value{no}}},
	published: []string{"pcr0", "pcr1", "pcr2", "pcr8"},
	private: map[string]string{
		"pcr3": "PCR3 is the hash of a role's name, which can be guessed from it",
		"pcr4": "PCR4 is the hash of an instance's id, which can be guessed from it",
	},
	owners: "pcr3 (the parent instance's IAM role) or pcr4 (the parent instance), with eq or in",
	device: "/dev/nsm",
	lint:   lintNitro,
})

// nitroPCRs is the number of registers that a document can carry.
const nitroPCRs = 32

func nitroFields() []*field {
	fields := make([]*field, 0, nitroPCRs+1)
	for i := range nitroPCRs {
		f := &field{
			name: "pcr" + strconv.Itoa(i),
			kind: digest{48}, // SHA-384
			get: func(c *attest.Claims) (value, bool) {
				if c.Nitro == nil {
					return "", false
				}
				b, ok := c.Nitro.PCRs[i]
				return value(b), ok
			},
			hint: func(got value, ok bool) string { return nitroHint(i, got, ok) },
		}
		if i == 3 || i == 4 {
			f.owner = func(t test) bool { return t.values() != nil }
		}
		fields = append(fields, f)
	}
	return append(fields, &field{
		name: "debug",
		kind: boolean{},
		get: func(c *attest.Claims) (value, bool) {
			if c.Nitro == nil {
				return "", false
			}
			return truth(c.Nitro.Debug), true
		},
		hint: func(got value, ok bool) string {
			if ok && got == yes {
				return "the enclave was started in debug mode: its console is open to the host and PCR0 to PCR2 are zero; start it without --debug-mode"
			}
			return ""
		},
	})
}

func nitroDescriptions() map[string]string {
	out := map[string]string{"debug": "PCR0, PCR1 and PCR2 are all zero: the enclave runs in debug mode."}
	for i := range nitroPCRs {
		out["pcr"+strconv.Itoa(i)] = "A register that the enclave may extend by itself."
	}
	for name, about := range map[string]string{
		"pcr0": "The enclave image: SHA-384 as the build prints it.",
		"pcr1": "Kernel and bootstrap of the image.",
		"pcr2": "The application in the image.",
		"pcr3": "The IAM role of the parent instance: ownership.",
		"pcr4": "The id of the parent instance: ownership.",
		"pcr8": "The certificate that signed the image.",
	} {
		out[name] = about
	}
	return out
}

// nitroHint says what a register that fails its rule usually means.
func nitroHint(i int, got value, ok bool) string {
	zero := allZero([]byte(got))
	switch {
	case !ok:
		return "the document has no PCR" + strconv.Itoa(i) + ": a missing register never matches"
	case i <= 2 && zero:
		return "an all-zero PCR" + strconv.Itoa(i) + " means that the enclave was started in debug mode"
	case i == 3 && zero:
		return "an all-zero PCR3 means that the parent instance has no IAM role"
	case i == 8 && zero:
		return "an all-zero PCR8 means that the image is not signed"
	}
	switch i {
	case 0:
		return "another image, or another build of it"
	case 1:
		return "another kernel or bootstrap than expected"
	case 2:
		return "another application than expected"
	case 3:
		return "the enclave was launched from an instance under another IAM role"
	case 4:
		return "the enclave was launched from another instance"
	case 8:
		return "the image was signed with another certificate"
	}
	if zero {
		return "the register was never extended"
	}
	return ""
}

// lintNitro finds what only this platform knows.
func lintNitro(w *workload, p *parser) {
	debug := w.find("debug")
	if debug != nil && !debug.implicit && admits(debug, yes) {
		for _, name := range []string{"pcr0", "pcr1", "pcr2"} {
			if w.find(name) != nil {
				p.doc.Report(w.key, "workload "+w.name+" can never match: it wants debug mode and a value for "+name, "in debug mode PCR0, PCR1 and PCR2 are all zero: pin the owner alone, or drop debug")
				return
			}
		}
		p.warn(w.key, CodeDebugAllowed, "workload "+w.name+" admits enclaves in debug mode", "the host can read their console and PCR0 to PCR2 are zero: never where real secrets are")
		return // nothing of the image is measured in debug mode
	}
	for _, name := range []string{"pcr0", "pcr1", "pcr2", "pcr8"} {
		if w.find(name) != nil {
			return
		}
	}
	p.warn(w.key, CodeNoImage, "workload "+w.name+" pins no image: any code of the same owner matches", "add pcr0 (the image) or pcr8 (who signed it)")
}

// admits reports whether a rule over a finite set admits the value.
func admits(r *rule, v value) bool {
	s := r.test.values()
	if s == nil {
		return true
	}
	return s.lists(v)
}
