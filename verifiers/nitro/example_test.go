package nitro_test

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
)

// A document of a simulated enclave is verified under the simulator's root. For
// real ones, New(HardwareRoots()) is all that changes.
func ExampleVerifier_Authenticate() {
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	aws, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: func() time.Time { return noon }})
	if err != nil {
		fmt.Println(err)
		return
	}
	document, err := aws.Mint(simnitro.Document{ModuleID: "i-0123456789abcdef0-enc0123456789abcdef"})
	if err != nil {
		fmt.Println(err)
		return
	}

	roots, err := nitro.SimulatedRoots(aws.RootPEM())
	if err != nil {
		fmt.Println(err)
		return
	}
	verifier, err := nitro.New(roots)
	if err != nil {
		fmt.Println(err)
		return
	}
	evidence := attest.Evidence{Platform: attest.AWSNitro, Body: document}
	claims, err := verifier.Authenticate(context.Background(), evidence, noon.Add(time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(claims.Nitro.ModuleID, "debug:", claims.Nitro.Debug, "simulated:", claims.Simulated)

	// Ten minutes later the same document is refused, by name.
	_, err = verifier.Authenticate(context.Background(), evidence, noon.Add(10*time.Minute))
	fmt.Println(attest.KindOf(err), attest.CheckOf(err))
	// Output:
	// i-0123456789abcdef0-enc0123456789abcdef debug: false simulated: true
	// stale timestamp_window
}

// Normalize finds the document in what people paste.
func ExampleNormalize() {
	_, err := nitro.Normalize([]byte("MIIB… a certificate, by mistake"))
	fmt.Println(attest.KindOf(err), attest.CheckOf(err))
	doc, err := nitro.Normalize([]byte("8444 a101 3822 a0 40 40\n"))
	fmt.Printf("%x %v\n", doc, err)
	// Output:
	// malformed encoding
	// 8444a1013822a04040 <nil>
}
