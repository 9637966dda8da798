//go:build ignore

// Gen_config_doc writes docs/reference/agent-config.md.
package main

import (
	"log"
	"os"

	"github.com/assay-project/assay/enclave-agent/config/internal/reference"
)

func main() {
	page, err := reference.Page(".")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("../../docs/reference/agent-config.md", page, 0o644); err != nil {
		log.Fatal(err)
	}
}
