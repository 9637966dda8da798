// Package deps holds in modules that are about to be used.
package deps

import (
	_ "cel.dev/cel-go/cel"
	_ "github.com/google/go-attestation/attest"
	_ "github.com/google/go-eventlog/tcg"
	_ "github.com/google/go-tpm-tools/server"
	_ "github.com/google/go-tpm/tpm2"
)
