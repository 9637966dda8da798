package policy

import "strconv"

// tpmDescriptions say in a line what each claim tells, for editors.
func tpmDescriptions() map[string]string {
	out := map[string]string{
		"bank":                 "The hash of the quoted registers.",
		"ek":                   "SHA-256 of the endorsement key's public part: whose TPM it is. Ownership.",
		"ek_inventory":         "The group of the server's inventory that the TPM is in. Ownership.",
		"ek_certified":         "A certificate under a pinned manufacturer's root vouches for the endorsement key.",
		"manufacturer":         "The TPM's manufacturer, as its certificate names it.",
		"model":                "The TPM's model, as its certificate names it.",
		"version":              "The TPM's version, as its certificate names it.",
		"ak_trust":             "What vouches for the attestation key.",
		"cloud.provider":       "The cloud that certified the attestation key.",
		"cloud.project_id":     "The project that launched the machine. Ownership.",
		"cloud.project_number": "The number of the project that launched the machine. Ownership.",
		"cloud.zone":           "The zone that the machine runs in.",
		"cloud.instance_id":    "The machine's id in its cloud.",
		"cloud.instance_name":  "The machine's name in its cloud.",
		"key_residency":        "Whether the SVIDs' keys live in the TPM.",
		"tpm_cleared":          "The TPM was cleared since it was last seen.",
		"safe":                 "The TPM's clock has not gone back; false for a while after a power cut.",
		"clock.firmware":       "The version of the TPM's firmware.",
		"clock.reset_count":    "How often the machine was started since the TPM was cleared.",
		"clock.restart_count":  "How often the machine was suspended since it was started.",
		"secure_boot":          "Secure boot was on, out of the event log.",
		"boot.firmware":        "The machine's firmware version, out of the event log.",
		"boot.loaders":         "Every EFI application that was started, out of the event log.",
		"boot.command_line":    "The kernel's command line, out of the event log.",
		"boot.grub_files":      "Every file that GRUB or the EFI stub read, out of the event log.",
	}
	for _, section := range unified {
		out["boot.unified."+section] = "The section ." + section + " of the unified kernel image, out of the event log."
	}
	for _, name := range []string{"pk", "kek", "db", "dbx"} {
		out["boot.keys."+name] = "The secure boot variable " + name + ", out of the event log."
	}
	for i := range tpmPCRs {
		out["pcr"+strconv.Itoa(i)] = "A register that only a reset of the machine clears."
	}
	for name, about := range map[string]string{
		"pcr0": "The firmware.", "pcr1": "The firmware's configuration.", "pcr4": "Boot loader and kernel.",
		"pcr7": "Secure boot: its state and keys, and which of them vouched for what was loaded.",
		"pcr8": "GRUB's commands and the kernel's command line.", "pcr9": "Files that GRUB read, and the initrd.",
		"pcr11": "The unified kernel image.",
	} {
		out[name] = about
	}
	return out
}
