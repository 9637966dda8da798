//go:build ignore

// Gen_config_doc writes docs/reference/config.md.
package main

import (
	"log"
	"os"

	"github.com/assay-project/assay/issuer/config/internal/reference"
)

func main() {
	page, err := reference.Page(".")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("../../docs/reference/config.md", page, 0o644); err != nil {
		log.Fatal(err)
	}
}
