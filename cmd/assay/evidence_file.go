package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
)

// writeEvidence writes evidence to a file and, where there are endorsements,
// them to a file beside it, in PEM. It returns that file's name.
func writeEvidence(file string, body []byte, endorsements [][]byte, warnings *[]string) (*string, error) {
	if err := replaceFile(file, body); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for i, der := range endorsements {
		kind := "CERTIFICATE"
		switch e := lenientEndorsement("", der); {
		case e.crl != nil:
			kind = "X509 CRL"
		case e.cert == nil:
			*warnings = append(*warnings, fmt.Sprintf("endorsement %d is neither a certificate nor a CRL, and is left out", i+1))
			continue
		}
		if err := pem.Encode(&text, &pem.Block{Type: kind, Bytes: der}); err != nil {
			return nil, err
		}
	}
	if text.Len() == 0 {
		return nil, nil
	}
	beside := file + ".endorsements.pem"
	return &beside, replaceFile(beside, text.Bytes())
}
