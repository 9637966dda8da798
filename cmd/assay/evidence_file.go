package main

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"github.com/assay-project/assay/attest"
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

// writeTPMEvidence writes a TPM's evidence as one JSON file, and the attestation
// key to a file beside it, whose name it returns.
func writeTPMEvidence(file string, ev attest.Evidence) (*string, error) {
	e, err := ofEvidence(ev)
	if err != nil {
		return nil, err
	}
	out, err := e.file()
	if err != nil {
		return nil, err
	}
	key, err := publicKey(e.AKPublic)
	if err != nil {
		return nil, fmt.Errorf("the attestation key: %w", err)
	}
	ak, err := akPEM(key)
	if err != nil {
		return nil, err
	}
	if err := replaceFile(file, out); err != nil {
		return nil, err
	}
	beside := file + ".ak.pem"
	return &beside, replaceFile(beside, ak)
}
