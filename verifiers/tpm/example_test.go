package tpm_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	pb "github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// An attestation of a real Compute Engine machine (in go-tpm-tools' module) is put
// into Assay's form and verified under Google's roots, with its event log.
func ExampleVerifier_Authenticate() {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tpm-tools").Output()
	if err != nil {
		fmt.Println(err)
		return
	}
	raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "internal/test/attestations/gce-cos-85-nonce9009.pb"))
	if err != nil {
		fmt.Println(err)
		return
	}
	var a pb.Attestation
	if err := proto.Unmarshal(raw, &a); err != nil {
		fmt.Println(err)
		return
	}
	quote := a.GetQuotes()[1] // that of the SHA-256 bank
	digest := digestOf(a.GetEventLog())
	body, err := attest.TPMEvidence{
		Quote: quote.GetQuote(), Signature: quote.GetRawSig(), PCRs: quote.GetPcrs().GetPcrs(),
		AKPublic: a.GetAkPub(), AKCertificate: a.GetAkCert(), EventLogDigest: digest[:],
	}.Encode()
	if err != nil {
		fmt.Println(err)
		return
	}
	evidence := attest.Evidence{Platform: attest.TPM2, Body: body, EventLog: a.GetEventLog()}

	recorded := time.Date(2021, 9, 1, 23, 11, 5, 0, time.UTC)
	verifier, err := tpm.New(tpm.HardwareRoots())
	if err != nil {
		fmt.Println(err)
		return
	}
	claims, err := verifier.Authenticate(context.Background(), evidence, recorded)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(claims.TPM.AKTrust, claims.TPM.Cloud.InstanceName, "secure boot:", *claims.TPM.Boot.SecureBoot)

	// Without the cloud's certificate nothing binds the key to a TPM, unless an
	// operator knows the key.
	certificate, err := x509.ParseCertificate(a.GetAkCert())
	if err != nil {
		fmt.Println(err)
		return
	}
	body, err = attest.TPMEvidence{Quote: quote.GetQuote(), Signature: quote.GetRawSig(), PCRs: quote.GetPcrs().GetPcrs(), AKPublic: a.GetAkPub()}.Encode()
	if err != nil {
		fmt.Println(err)
		return
	}
	evidence = attest.Evidence{Platform: attest.TPM2, Body: body}
	_, err = verifier.Authenticate(context.Background(), evidence, recorded)
	fmt.Println(attest.KindOf(err), attest.CheckOf(err))
	trusting, err := tpm.New(tpm.HardwareRoots(), tpm.WithTrustedAK(certificate.PublicKey))
	if err != nil {
		fmt.Println(err)
		return
	}
	claims, err = trusting.Authenticate(context.Background(), evidence, recorded)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(claims.TPM.AKTrust)
	// Output:
	// certificate cos-test secure boot: true
	// untrusted ak_unactivated
	// operator
}
