package nitro_test

import (
	"fmt"

	simnitro "github.com/assay-project/assay/simulators/nitro"
)

func ExampleAuthority_Mint() {
	authority, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	good, err := authority.Mint(simnitro.Document{Nonce: []byte("nonce")})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%x\n", good[:7]) // an array of four; {1: -35}; {}

	fault, _ := simnitro.FaultByName("leaf-p521")
	_, err = authority.Mint(simnitro.Document{}, fault)
	fmt.Println(fault.Kind, fault.Check, err)
	// Output:
	// 8444a1013822a0
	// untrusted leaf_curve <nil>
}
