package main

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

func nitroMintCommand() *cobra.Command {
	var (
		authority                  nitroAuthorityFlags
		launch                     nitroLaunchFlags
		fault                      faultFlags
		nonce, userData, publicKey hexValue
		at                         timeValue
		indefinite, tagged         bool
	)
	c := &cobra.Command{
		Use:   "mint",
		Short: "Make one attestation document",
		Long: `Make one attestation document and write its bytes to standard output. With
--fault, exactly that is wrong with it; without one it verifies under the
authority's root. Faults of time count from --at: verify at that time.`,
		Example: `  teesim nitro mint --authority sim --image orders --nonce 00ff > document.cbor
  teesim nitro mint --authority sim --image orders --fault leaf-p521 > bad.cbor
  teesim nitro mint --authority sim --image orders --at 2026-01-31T12:00:00Z > old.cbor`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := launch.launch()
			if err != nil {
				return err
			}
			faults, err := chosen(&fault, simnitro.FaultByName)
			if err != nil {
				return err
			}
			if toTerminal(c) {
				return cli.Usagef("redirect it: teesim nitro mint … > document.cbor", "a document is not text, and would disturb the terminal")
			}
			a, err := authority.open()
			if err != nil {
				return err
			}
			doc, err := mintDocument(a, l, simnitro.Document{
				Timestamp: at.t, Nonce: nonce.value(), UserData: userData.value(), PublicKey: publicKey.value(),
				Indefinite: indefinite, Tagged: tagged,
			}, faults)
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			_, err = c.OutOrStdout().Write(doc)
			return err
		},
	}
	authority.register(c)
	launch.register(c)
	fault.register(c, "teesim nitro faults", nitroFaults)
	c.Flags().Var(&nonce, "nonce", "nonce; null when absent")
	c.Flags().Var(&userData, "user-data", "user_data; null when absent")
	c.Flags().Var(&publicKey, "public-key", "public_key; null when absent")
	c.Flags().Var(&at, "at", "time of the document (default now)")
	c.Flags().BoolVar(&indefinite, "indefinite", false, "write the payload as an indefinite-length map, as newer NSMs do")
	c.Flags().BoolVar(&tagged, "tagged", false, "put COSE tag 18 in front")
	return c
}

// mintDocument makes the document of an enclave that was launched so.
func mintDocument(a *simnitro.Authority, l simnitro.Launch, d simnitro.Document, faults []simnitro.Fault) ([]byte, error) {
	id, err := simnitro.NewModuleID(l.InstanceID, d.Timestamp)
	if err != nil {
		return nil, err
	}
	d.ModuleID = id
	l.InstanceID = simnitro.InstanceOf(id)
	d.PCRs = l.PCRs()
	return a.Mint(d, faults...)
}
