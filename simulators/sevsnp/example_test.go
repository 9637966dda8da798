package sevsnp_test

import (
	"crypto/x509"
	"fmt"

	"github.com/google/go-sev-guest/verify"

	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

func Example() {
	a, err := simsnp.NewAuthority(simsnp.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	chip, err := a.Chip(simsnp.Genoa, "rack-4")
	if err != nil {
		fmt.Println(err)
		return
	}
	guest, err := chip.Launch(simsnp.Launch{Measurement: simsnp.MeasurementFromSeed("ledger")})
	if err != nil {
		fmt.Println(err)
		return
	}
	report, err := guest.Report([64]byte{1, 2, 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	leaf, err := x509.ParseCertificate(guest.Endorsements()[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(report), "bytes, signed by", leaf.Subject.CommonName, "under", leaf.Issuer.CommonName)
	fmt.Println("signature:", verify.SnpReportSignature(report, leaf))
	fmt.Println("the leaf is", leaf.CheckSignatureFrom(a.Chain(simsnp.Genoa).ASK) == nil)
	// Output:
	// 1184 bytes, signed by SEV-VCEK under SEV-Genoa
	// signature: <nil>
	// the leaf is true
}
