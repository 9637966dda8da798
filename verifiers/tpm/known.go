package tpm

// KnownRoot is a root certificate that is published by its owner: how to get it,
// and how to know that one has got it.
type KnownRoot struct {
	Vendor string
	Name   string // the common name
	URL    string // the owner's
	SHA256 string // of the DER, lower-case hex
}

// KnownRoots lists published roots of TPM makers and clouds. An operator who needs
// one fetches it from its owner, compares the fingerprint, and puts it into the
// directory of roots; only Google's are built in. See docs/spec/tpm-checks.md for
// how each fingerprint is known.
func KnownRoots() []KnownRoot {
	return []KnownRoot{
		{"Google", "EK/AK CA Root", "https://privateca-content-62d71773-0000-21da-852e-f4f5e80d7778.storage.googleapis.com/032bf9d39db4fa06aade/ca.crt", "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2"},
		{"Google", "tpm_ek_v1_cloud_host_root", "https://pki.goog/cloud_integrity/tpm_ek_root_1.crt", "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf"},
	}
}
