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
		{"AMD", "AMDTPM (RSA)", "https://ftpm.amd.com/pki/aia/264D39A23CEB5D5B49D610044EEBD121", "67bd2472a546751caca5f358a78f80727531671338960a9bcfdfbe6a34d0c6a1"},
		{"Google", "EK/AK CA Root", "https://privateca-content-62d71773-0000-21da-852e-f4f5e80d7778.storage.googleapis.com/032bf9d39db4fa06aade/ca.crt", "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2"},
		{"Google", "tpm_ek_v1_cloud_host_root", "https://pki.goog/cloud_integrity/tpm_ek_root_1.crt", "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf"},
		{"Infineon", "Infineon OPTIGA(TM) RSA Root CA", "https://pki.infineon.com/OptigaRsaRootCA/OptigaRsaRootCA.crt", "899e35474c9807eb4c7f2f7a12da0028fb250cd02154d0009fca7d9c66574f3b"},
		{"Infineon", "Infineon OPTIGA(TM) RSA Root CA 2", "https://pki.infineon.com/OptigaRsaRootCA2/OptigaRsaRootCA2.crt", "b413c71580af3ec5efe83fad31db2d4af4612355e3b01e50903b10763d738894"},
		{"Infineon", "Infineon OPTIGA(TM) RSA Root CA 3", "https://pki.infineon.com/OptigaRsaRootCA3/OptigaRsaRootCA3.crt", "976b0579c016741b0003bf8055e920ab08f72abc819547b3480b0c141e956b70"},
		{"Infineon", "Infineon OPTIGA(TM) ECC Root CA", "https://www.infineon.com/assets/row/public/documents/30/67/infineon-optigatm-trust-ecc-root-ca-certificates-en.cer", "cfeb02fecd55ad7a73c6e1d11985d4c47dee248ab63dcb66091a2489660443c3"},
		{"Infineon", "Infineon OPTIGA(TM) ECC Root CA 2", "https://pki.infineon.com/OptigaEccRootCA2/OptigaEccRootCA2.crt", "ee0c827555c4e9012037df4257bb8aaa26084a17b13ede41cd7895c8d6c11190"},
		{"Infineon", "Infineon OPTIGA(TM) ECC Root CA 3", "https://pki.infineon.com/OptigaEccRootCA3/OptigaEccRootCA3.crt", "5a84cc3476221cce5be81af8d755d175fea03d208b3412a231710c56774542fd"},
		{"Intel", "OnDie CA RootCA (PTT)", "https://tsci.intel.com/content/OnDieCA/certs/OnDie_CA_RootCA_Certificate.cer", "beb40bb7507b33967226aa80e084749fbb6593893c642e818d682e9a8d07fc24"},
		{"Microsoft", "Microsoft TPM Root Certificate Authority 2014", "https://www.microsoft.com/pkiops/certs/Microsoft%20TPM%20Root%20Certificate%20Authority%202014.crt", "870c7a35ceab3d59979f2c6a524042d404cb71518004350925fb2ced79a999da"},
		{"Microsoft", "Azure Virtual TPM Root Certificate Authority 2023", "https://www.microsoft.com/pkiops/certs/Azure%20Virtual%20TPM%20Root%20Certificate%20Authority%202023.crt", "e6c596b17f8ffefba5c300f714cfb1260c6028704ecf7becc4ab5018efb00e95"},
		{"Microsoft", "Microsoft Pluton Root CA 2021", "https://www.microsoft.com/pkiops/certs/Microsoft%20Pluton%20Root%20CA%202021.crt", "32ab5fe7cb4396659fcb621ca14c6fb8fc2420f64050637d77e45a86c5d3916e"},
		{"Nuvoton", "Nuvoton TPM Root CA 2111", "https://www.nuvoton.com/security/NTC-TPM-EK-Cert/Nuvoton%20TPM%20Root%20CA%202111.cer", "cd8185ff8995ed09811970090a8c36fafab34ef87f47fa51fdb9ecf95c9c2e04"},
		{"STMicroelectronics", "GlobalSign Trusted Platform Module Root CA", "https://secure.globalsign.com/cacert/gstpmroot.crt", "f27bf02c6e00c73d915eeb6a6a2f5fbf0c31ae0393149e6b5c31e41b113841c3"},
		{"STMicroelectronics", "GlobalSign Trusted Platform Module ECC Root CA", "https://secure.globalsign.com/cacert/tpmeccroot.crt", "5a8c7b5eb888cfce9322068e80e82b28b554ffeb7fdc9638dcb3763077401d26"},
		{"STMicroelectronics", "STSAFE RSA Root CA 02", "https://sw-center.st.com/STSAFE/STSAFERsaRootCA02.crt", "c8f179943356e13d9d84b100201cefabbf408880241e5329e60d950ce1dea623"},
		{"STMicroelectronics", "STSAFE ECC Root CA 02", "https://sw-center.st.com/STSAFE/STSAFEEccRootCA02.crt", "fd1e7b68accd825636b27b3177c67402d463a7f04c97b6c47ab705fcdc1a04f6"},
	}
}
