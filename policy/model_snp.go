package policy

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/assay-project/assay/attest"
)

// snpModel makes claims of SEV-SNP guests. A TCB has the layout of its product
// line; whether a chip is masked follows from its id and from who signed; only a
// VLEK names a cloud provider; mitigations came with version 5.
var snpModel = &model{
	blank: func() attest.Claims { return attest.Claims{Platform: attest.AMDSEVSNP, SNP: &attest.SNP{}} },
	put:   func(c *attest.Claims, f *field, v value, ok bool) bool { return putSNP(c.SNP, f, v, ok) },
	tiers: []string{"measurement", "id_key_digest", "author_key_digest", "reported_tcb", "committed_tcb"},
	hubs:  []string{"product", "signing_key", "chip_id", "version"},
	fits:  fitsSNP,
	always: func(name string) bool {
		return name != "csp_id" && name != "launch_mitigations" && name != "current_mitigations"
	},
	vary: func(c *attest.Claims, n int, _ func(string) bool) bool {
		h := sha256.Sum256(fmt.Appendf(nil, "report %d", n))
		c.SNP.ReportID = h[:]
		return true
	},
}

func fitsSNP(hub func(string) (value, bool), f *field, v value, ok bool) bool {
	switch f.name {
	case "csp_id": // a certificate of a VLEK names a provider, one of a VCEK none
		key, _ := hub("signing_key")
		return !ok || key == "vlek"
	case "launch_mitigations", "current_mitigations":
		version, there := hub("version")
		return !ok || there && version >= numeral(5)
	case "current_tcb", "reported_tcb", "committed_tcb", "launch_tcb":
		product, _ := hub("product")
		got, _, _ := strings.Cut(string(v), "\x00")
		return !ok || got == string(product)
	case "chip_id_masked":
		chip, there := hub("chip_id")
		key, _ := hub("signing_key")
		got, has := masked(&attest.SNP{ChipID: attest.Bytes(chip), SigningKey: string(key)})
		return !there && !ok || there && has == ok && (!ok || got == v)
	}
	return true
}

// putSNP sets one claim. A claim that is always there is set to nothing where it
// is taken away, and reads as missing where it can.
func putSNP(s *attest.SNP, f *field, v value, ok bool) bool {
	switch f.kind.(type) {
	case boolean:
		p := snpBits(s)[f.name]
		if p == nil {
			return false
		}
		*p = ok && v == yes
		return ok
	case tcb:
		p := map[string]*attest.TCB{"current_tcb": &s.CurrentTCB, "reported_tcb": &s.ReportedTCB, "committed_tcb": &s.CommittedTCB, "launch_tcb": &s.LaunchTCB}[f.name]
		if !ok {
			*p = attest.TCB{}
			if s.Product != snpHasFMC {
				p.FMC = new(uint8)
			}
			return true
		}
		product, t := tcbOf(v)
		*p = t
		return product == s.Product
	case firmware:
		p := &s.CurrentFirmware
		if f.name == "committed_firmware" {
			p = &s.CommittedFirmware
		}
		*p = attest.Firmware{}
		if ok {
			*p = attest.Firmware{Major: v[0], Minor: v[1], Build: v[2]}
		}
		return ok
	case bitfield:
		p := &s.CurrentMitigations
		if f.name == "launch_mitigations" {
			p = &s.LaunchMitigations
		}
		*p = nil
		if ok {
			n := v.flags()
			*p = &n
		}
		return true
	case number:
		p := map[string]*uint32{"guest_svn": &s.GuestSVN, "vmpl": &s.VMPL, "version": &s.Version}[f.name]
		*p = 0
		if ok {
			*p = uint32(bigEndian(v))
		}
		return ok || f.name == "version"
	case masking:
		got, has := masked(s) // follows from others, which were put before
		return has == ok && (!ok || got == v)
	case enum, text:
		p := map[string]*string{"product": &s.Product, "signing_key": &s.SigningKey, "csp_id": &s.CSPID, "revocation": &s.Revocation}[f.name]
		*p = string(v)
		return (v != "") == ok
	default:
		p := map[string]*attest.Bytes{
			"measurement": &s.Measurement, "host_data": &s.HostData, "id_key_digest": &s.IDKeyDigest, "author_key_digest": &s.AuthorKeyDigest,
			"family_id": &s.FamilyID, "image_id": &s.ImageID, "chip_id": &s.ChipID,
		}[f.name]
		if p == nil {
			return false
		}
		*p = nil
		if ok {
			*p = attest.Bytes(v)
		}
		return true
	}
}

func snpBits(s *attest.SNP) map[string]*bool {
	return map[string]*bool{
		"policy.debug": &s.Policy.Debug, "policy.migrate_ma": &s.Policy.MigrateMA, "policy.smt": &s.Policy.SMT,
		"policy.single_socket": &s.Policy.SingleSocket, "policy.cxl_allow": &s.Policy.CXLAllow, "policy.mem_aes_256_xts": &s.Policy.MemAES256XTS,
		"policy.rapl_dis": &s.Policy.RAPLDis, "policy.ciphertext_hiding": &s.Policy.CiphertextHiding, "policy.page_swap_disable": &s.Policy.PageSwapDisable,
		"platform.smt": &s.Platform.SMT, "platform.tsme": &s.Platform.TSME, "platform.ecc": &s.Platform.ECC, "platform.rapl_dis": &s.Platform.RAPLDis,
		"platform.ciphertext_hiding": &s.Platform.CiphertextHiding, "platform.alias_check": &s.Platform.AliasCheck,
		"provisional": &s.Provisional,
	}
}
