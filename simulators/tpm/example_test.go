package tpm_test

import (
	"crypto"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"

	simtpm "github.com/assay-project/assay/simulators/tpm"
)

func ExampleMeasurements() {
	m, err := simtpm.Measurements(simtpm.Boot{Image: "ledger", CommandLine: "root=/dev/sda2 ro"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("PCR7 (sha256) %x\n", m.PCRs[crypto.SHA256][7])
	fmt.Println(len(m.PCRs[crypto.SHA384]), "registers in the SHA-384 bank")
	// Output:
	// PCR7 (sha256) c5f3a797946c28f69f2a174e62395ba7b1de53712d922c33c494edea89daa0d5
	// 16 registers in the SHA-384 bank
}

// A machine attests, reboots, and is turned off. It runs only where swtpm is
// installed.
func ExampleAuthority_Start() {
	a, err := simtpm.NewAuthority(simtpm.Options{Now: time.Now})
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := a.Start(simtpm.Machine{Boot: simtpm.Boot{Image: "ledger"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = m.Close() }()
	r, err := tpm2.GetRandom{BytesRequested: 16}.Execute(m)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(r.RandomBytes.Buffer), "random bytes")
	if err := m.Reset(simtpm.Boot{Image: "ledger-2"}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("rebooted into", m.Booted().Image)
}
