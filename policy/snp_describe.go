package policy

// snpDescriptions say in a line what each claim tells, for editors.
func snpDescriptions() map[string]string {
	return map[string]string{
		"measurement":       "The guest's initial memory: firmware, and with it kernel, initrd and command line.",
		"host_data":         "What the host chose to say at launch.",
		"id_key_digest":     "The key that signed the id block: who signed the image.",
		"author_key_digest": "The key that signed the id key.",
		"family_id":         "The family that the author of the image gives to it.",
		"image_id":          "The name that the author of the image gives to it.",
		"guest_svn":         "The security version that the author of the image gives to it.",
		"vmpl":              "The privilege level that asked for the report; 0 is the most privileged.",
		"version":           "The version of the report's format.",
		"product":           "The product line; Bergamo and Siena are of genoa.",
		"signing_key":       "Whether the chip's own key signed, or one that AMD gave to a cloud provider.",
		"csp_id":            "The cloud provider that a VLEK certificate names; missing with a VCEK.",

		"policy.debug":             "The host may read and write the guest's memory.",
		"policy.migrate_ma":        "A migration agent may take the guest over.",
		"policy.smt":               "The launcher allows simultaneous multithreading on the host.",
		"policy.single_socket":     "The launcher demands a single socket.",
		"policy.cxl_allow":         "The launcher allows CXL devices and memory.",
		"policy.mem_aes_256_xts":   "The launcher demands memory encryption with AES-256-XTS.",
		"policy.rapl_dis":          "The launcher demands that power measurement is off.",
		"policy.ciphertext_hiding": "The launcher demands that ciphertext in memory is hidden from the host.",
		"policy.page_swap_disable": "The launcher forbids that pages are moved or swapped.",

		"platform.smt":               "Simultaneous multithreading is on at the host.",
		"platform.tsme":              "Transparent memory encryption is on at the host.",
		"platform.ecc":               "The host's memory corrects errors.",
		"platform.rapl_dis":          "Power measurement is off at the host.",
		"platform.ciphertext_hiding": "Ciphertext in memory is hidden from the host.",
		"platform.alias_check":       "The firmware has checked that memory modules tell the truth about their size.",

		"reported_tcb":        "The firmware and microcode that the signing key was derived for.",
		"current_tcb":         "The firmware and microcode in use.",
		"committed_tcb":       "The firmware and microcode below which the host cannot go back.",
		"launch_tcb":          "The firmware and microcode at the guest's launch.",
		"current_firmware":    "The SNP firmware in use.",
		"committed_firmware":  "The SNP firmware below which the host cannot go back.",
		"provisional":         "Firmware or TCB in use are newer than the committed ones.",
		"launch_mitigations":  "Mitigations at the guest's launch; from report version 5 on.",
		"current_mitigations": "Mitigations in use; from report version 5 on.",
		"revocation":          "Whether a current revocation list covers the chain.",
		"chip_id":             "The chip: ownership, in a set with dedicated: true.",
		"chip_id_masked":      "The host hides its chip id: the field is all zero.",
	}
}
