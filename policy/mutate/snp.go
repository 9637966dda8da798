package mutate

import (
	"fmt"

	"github.com/assay-project/assay/attest"
)

// snp makes mutants of an SEV-SNP guest.
func snp(g granted) []ClaimMutant {
	with := func(name string, edit func(s *attest.SNP), why string, unless ...string) ClaimMutant {
		return ClaimMutant{Name: name, Claims: of(g.claims, func(c *attest.Claims) { edit(c.SNP) }), Unless: unless, Why: why}
	}
	const signer = "the signer is pinned: any image of theirs is meant"
	const image = "the image itself is pinned, whoever signed it"
	out := []ClaimMutant{
		with("a guest that its host can debug", func(s *attest.SNP) { s.Policy.Debug = true }, ""),
		with("a guest that a migration agent can take over", func(s *attest.SNP) { s.Policy.MigrateMA = true }, ""),
		with("vmpl 3", func(s *attest.SNP) { s.VMPL = 3 }, ""),
		with("another image", func(s *attest.SNP) { s.Measurement = other(48) }, signer, "id_key_digest", "author_key_digest"),
		with("another image without an id block", func(s *attest.SNP) {
			s.Measurement, s.IDKeyDigest, s.AuthorKeyDigest = other(48), make(attest.Bytes, 48), make(attest.Bytes, 48)
		}, ""),
		with("another image, signed by somebody else", func(s *attest.SNP) { s.Measurement, s.IDKeyDigest, s.AuthorKeyDigest = other(48), other(48), other(48) }, ""),
		with("the image signed by somebody else", func(s *attest.SNP) { s.IDKeyDigest, s.AuthorKeyDigest = other(48), other(48) }, image, "measurement"),
		with("somebody else's machine", func(s *attest.SNP) { s.ChipID = other(64) }, "", waived),
		with("a chip that the host masks", func(s *attest.SNP) { s.ChipID = make(attest.Bytes, 64) }, ""),
		with("a chip that the host masks, signed by a VLEK", func(s *attest.SNP) {
			s.ChipID, s.SigningKey, s.CSPID = make(attest.Bytes, 64), "vlek", "another provider"
		}, "", waived),
	}
	return append(out, olderFirmware(g, with)...)
}

// olderFirmware has each component of the TCB that the key was derived from one
// less.
func olderFirmware(g granted, with func(string, func(*attest.SNP), string, ...string) ClaimMutant) []ClaimMutant {
	var out []ClaimMutant
	older := func(name string, part func(s *attest.SNP) *uint8) {
		c := g.claims.SNP.ReportedTCB
		s := attest.SNP{ReportedTCB: c}
		if p := part(&s); p == nil || *p == 0 {
			return // there is nothing older
		}
		out = append(out, with(fmt.Sprintf("reported_tcb: %s one less", name), func(s *attest.SNP) { *part(s)-- }, ""))
	}
	if g.claims.SNP.ReportedTCB.FMC != nil && *g.claims.SNP.ReportedTCB.FMC > 0 {
		out = append(out, with("reported_tcb: fmc one less", func(s *attest.SNP) { *s.ReportedTCB.FMC-- }, ""))
	}
	older("bl", func(s *attest.SNP) *uint8 { return &s.ReportedTCB.Bootloader })
	older("tee", func(s *attest.SNP) *uint8 { return &s.ReportedTCB.TEE })
	older("snp", func(s *attest.SNP) *uint8 { return &s.ReportedTCB.SNP })
	older("ucode", func(s *attest.SNP) *uint8 { return &s.ReportedTCB.Microcode })
	return out
}
