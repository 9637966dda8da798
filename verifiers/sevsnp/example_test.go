package sevsnp_test

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// A report of a simulated guest is verified under the simulator's roots. For real
// ones, New(HardwareRoots()) is all that changes.
func ExampleVerifier_Authenticate() {
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	amd, err := simsnp.NewAuthority(simsnp.Options{Now: func() time.Time { return noon }})
	if err != nil {
		fmt.Println(err)
		return
	}
	chip, err := amd.Chip(simsnp.Turin, "host-1")
	if err != nil {
		fmt.Println(err)
		return
	}
	guest, err := chip.Launch(simsnp.Launch{Measurement: simsnp.MeasurementFromSeed("ledger")})
	if err != nil {
		fmt.Println(err)
		return
	}
	extended, err := guest.ExtendedReport([64]byte{})
	if err != nil {
		fmt.Println(err)
		return
	}

	roots, err := sevsnp.SimulatedRoots(amd.RootsPEM())
	if err != nil {
		fmt.Println(err)
		return
	}
	verifier, err := sevsnp.New(roots)
	if err != nil {
		fmt.Println(err)
		return
	}
	report, endorsements, err := sevsnp.ParseExtendedReport(extended)
	if err != nil {
		fmt.Println(err)
		return
	}
	evidence := attest.Evidence{Platform: attest.AMDSEVSNP, Body: report, Endorsements: endorsements}
	claims, err := verifier.Authenticate(context.Background(), evidence, noon)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(claims.SNP.Product, claims.SNP.ReportedTCB, "debug:", claims.SNP.Policy.Debug, "revocation:", claims.SNP.Revocation)

	// Without the endorsement, the same report says nothing that can be verified.
	evidence.Endorsements = nil
	_, err = verifier.Authenticate(context.Background(), evidence, noon)
	fmt.Println(attest.KindOf(err), attest.CheckOf(err))
	// Output:
	// turin fmc 1, bl 1, tee 1, snp 4, ucode 81 debug: false revocation: not_checked
	// untrusted endorsement_missing
}
