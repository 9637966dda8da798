package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

// nitroModel makes claims of Nitro enclaves. In debug mode PCR0, PCR1 and PCR2 are
// all zero; of the other registers each is for itself.
var nitroModel = &model{
	blank: func() attest.Claims {
		return attest.Claims{Platform: attest.AWSNitro, Nitro: &attest.Nitro{ModuleID: "i-0123456789abcdef0-enc0123456789abcdef", PCRs: map[int]attest.Bytes{}}}
	},
	put: func(c *attest.Claims, f *field, v value, ok bool) bool {
		if f.name == "debug" {
			c.Nitro.Debug = ok && v == yes
			return ok
		}
		i, err := strconv.Atoi(strings.TrimPrefix(f.name, "pcr"))
		if err != nil {
			return false
		}
		if !ok {
			delete(c.Nitro.PCRs, i)
			return true
		}
		c.Nitro.PCRs[i] = attest.Bytes(v)
		return len(v) == 48
	},
	tiers: []string{"pcr0", "pcr1", "pcr2", "pcr8"},
	hubs:  []string{"debug"},
	fits: func(hub func(string) (value, bool), f *field, v value, ok bool) bool {
		if f.name != "pcr0" && f.name != "pcr1" && f.name != "pcr2" {
			return true
		}
		debug, _ := hub("debug")
		return debug != yes || ok && allZero([]byte(v))
	},
	always: func(name string) bool { return name == "debug" },
	vary: func(c *attest.Claims, n int, _ func(string) bool) bool {
		c.Nitro.ModuleID = fmt.Sprintf("i-0123456789abcdef0-enc%016x", n)
		return true
	},
}
