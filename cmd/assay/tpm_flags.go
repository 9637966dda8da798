package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

// eventLogValue is --event-log.
type eventLogValue struct{ file string }

func eventLogFlag(c *cobra.Command) *eventLogValue {
	v := &eventLogValue{}
	c.Flags().StringVar(&v.file, "event-log", "", "boot event log `FILE` that belongs to a TPM's quote, where the evidence does not hold it")
	return v
}

// read returns the log, or nil.
func (v *eventLogValue) read(c *cobra.Command, t tee) ([]byte, error) {
	if v.file == "" {
		return nil, nil
	}
	if t.platform != attest.TPM2 {
		return nil, cli.Usagef("", "--event-log is for --tee tpm2: evidence of %s has none", t.title)
	}
	b, err := readInput(c, v.file)
	if err == nil && len(b) == 0 {
		err = cli.Usagef("files below /sys have to be copied with cat or cp", "--event-log %s: the file is empty", v.file)
	}
	return b, err
}

func (v *eventLogValue) add(c *cobra.Command, t tee, ev *attest.Evidence) error {
	b, err := v.read(c, t)
	if err == nil && b != nil {
		ev.EventLog = b
	}
	return err
}

// tpmFlags are those of `evidence verify` for a TPM's quote.
type tpmFlags struct {
	aks   []string
	roots string
	log   *eventLogValue
}

func (f *tpmFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.aks, "ak", nil, "`FILE` with a TPM's attestation key, which you vouch for: PEM, DER, TPMT_PUBLIC or TPM2B_PUBLIC; may be repeated")
	c.Flags().StringVar(&f.roots, "tpm-roots", "", "`DIR` with roots beside the pinned ones: ek/ (TPM manufacturers), gce/, azure/ (clouds that certify AKs)")
	f.log = eventLogFlag(c)
}

// tpmOpening is what a user may say about how a TPM's quote is verified.
type tpmOpening struct {
	trusted  []crypto.PublicKey
	roots    fs.FS // nil: no directory
	rootsDir string
	eventLog []byte
}

func (f *tpmFlags) read(c *cobra.Command, t tee) (tpmOpening, error) {
	var out tpmOpening
	if t.platform != attest.TPM2 && (len(f.aks) > 0 || f.roots != "") {
		return out, cli.Usagef("", "--ak and --tpm-roots are for --tee tpm2")
	}
	for _, name := range f.aks {
		b, err := readInput(c, name)
		if err != nil {
			return out, err
		}
		key, _, err := parseAK(b)
		if err != nil {
			return out, cli.Usagef("--ak takes the attestation key as PEM, DER, TPMT_PUBLIC or TPM2B_PUBLIC", "--ak %s: %w", name, err)
		}
		out.trusted = append(out.trusted, key)
	}
	if f.roots != "" {
		if st, err := os.Stat(f.roots); err != nil || !st.IsDir() {
			return out, cli.Usagef("give a directory with ek/, gce/ or azure/ in it", "--tpm-roots %s: no such directory", f.roots)
		}
		out.roots, out.rootsDir = os.DirFS(f.roots), f.roots
	}
	var err error
	out.eventLog, err = f.log.read(c, t)
	return out, err
}

// akPEM is a key as a file for --ak.
func akPEM(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("the attestation key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
