package attest

import "fmt"

// Platform names a kind of attesting environment, as it is written in
// policies, on the command line and inside the binding.
type Platform string

// The platforms of the protocol. A server offers those it has a verifier for.
const (
	AWSNitro  Platform = "aws-nitro"   // AWS Nitro Enclaves
	AMDSEVSNP Platform = "amd-sev-snp" // AMD SEV-SNP guests
	TPM2      Platform = "tpm2"        // machines with a TPM 2.0
)

// Platforms lists every platform that the protocol names, in a stable order.
func Platforms() []Platform { return []Platform{AWSNitro, AMDSEVSNP, TPM2} }

// ParsePlatform accepts exactly the names in [Platforms]. The error is
// [Malformed], check "platform".
func ParsePlatform(s string) (Platform, error) {
	for _, p := range Platforms() {
		if s == string(p) {
			return p, nil
		}
	}
	return "", &Error{
		Kind: Malformed, Check: "platform",
		Err:      fmt.Errorf("unknown platform %q", clip(s, 40)),
		Expected: fmt.Sprintf("one of %v", Platforms()),
	}
}
