package ledger_test

import (
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/ledger"
)

func TestARestoredChainBelongsToItsServer(t *testing.T) {
	at := time.Date(2026, 11, 22, 8, 0, 1, 5, time.FixedZone("", 3600))
	chain := ledger.RestoredChain("eu-1", at)
	if chain != "eu-1.20261122t070001" || ledger.ChainOwner(chain) != "eu-1" || ledger.ChainOwner("eu-1") != "eu-1" {
		t.Errorf("the chain %q is that of %q", chain, ledger.ChainOwner(chain))
	}
	for name, want := range map[string]bool{
		chain: true, "main": true, "": false, "main.": false, "main.2": false, ".20261122t070001": false, "main.20261122t070001.20261122t070001": false,
		"main.20261399t070001": false, "ma/in": false, "Main": false,
	} {
		if got := ledger.ValidChain(name); got != want {
			t.Errorf("%q is a chain's name: %t, want %t", name, got, want)
		}
	}
}
