package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy/measure/eif"
)

// imageMeasured is what an image is measured as, by the policy's names of the claims.
type imageMeasured struct {
	platform attest.Platform
	file     string                  // base name, for source:
	name     string                  // of the image, for note:; may be empty
	values   map[string]attest.Bytes // "pcr0", "measurement"
	comments map[string]string       // what is known of a value, beside it
	boot     *attest.MeasuredBoot    // of a TPM's event log
}

// eifMagic begins every enclave image file.
const eifMagic = ".eif"

// readMeasured measures an enclave image, or reads what a `measure` command
// printed with --output json.
func readMeasured(c *cobra.Command, path string) (*imageMeasured, error) {
	in := c.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, cli.Usagef(fileHint(err), "%s", clean(err))
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	r := bufio.NewReader(in)
	head, err := r.Peek(len(eifMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, cli.Usagef("name a file that an image can be measured from", "%s: %s", path, clean(err))
	}
	if string(head) == eifMagic {
		img, err := eif.Measure(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return measuredEIF(path, img), nil
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxInput))
	if err != nil {
		return nil, cli.Usagef("", "%s", clean(err))
	}
	m, err := measuredJSON(path, raw)
	if err != nil {
		return nil, cli.Usagef("give an enclave image (EIF), or what `assay measure … --output json` printed; --from-event-log takes a TPM's boot log", "%s: %w", path, err)
	}
	return m, nil
}

func measuredEIF(path string, img *eif.Image) *imageMeasured {
	m := &imageMeasured{
		platform: attest.AWSNitro, file: filepath.Base(path), name: strings.TrimSpace(img.Name + " " + img.ImageVersion),
		values:   map[string]attest.Bytes{"pcr0": img.PCR0, "pcr1": img.PCR1, "pcr2": img.PCR2},
		comments: map[string]string{"pcr0": "which image"},
	}
	if img.PCR8 != nil {
		m.values["pcr8"], m.comments["pcr8"] = img.PCR8, "who signed it: "+img.Signer.Subject
	}
	return m
}

// measuredJSON reads the output of the `measure` commands.
func measuredJSON(path string, raw []byte) (*imageMeasured, error) {
	var doc struct {
		TEE          attest.Platform         `json:"tee"`
		File         string                  `json:"file"`
		Name         string                  `json:"name"`
		Version      string                  `json:"version"`
		Measurements map[string]attest.Bytes `json:"measurements"` // nitro
		Measurement  attest.Bytes            `json:"measurement"`  // snp
		OVMF         measuredFile            `json:"ovmf"`
		Kernel       *measuredFile           `json:"kernel"`
		Bank         string                  `json:"bank"` // tpm2
		PCRs         map[int]attest.Bytes    `json:"pcrs"`
		Boot         *attest.MeasuredBoot    `json:"boot"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, errors.New("it is neither an enclave image nor JSON")
	}
	m := &imageMeasured{platform: doc.TEE, file: filepath.Base(doc.File), values: map[string]attest.Bytes{}, comments: map[string]string{}}
	if doc.File == "" {
		m.file = filepath.Base(path)
	}
	size := 48
	switch doc.TEE {
	case attest.AWSNitro:
		m.name = strings.TrimSpace(doc.Name + " " + doc.Version)
		m.values = doc.Measurements
		m.comments["pcr0"] = "which image"
	case attest.AMDSEVSNP:
		m.values["measurement"], m.comments["measurement"] = doc.Measurement, "which image"
		m.name = doc.OVMF.Name
		if doc.Kernel != nil {
			m.name = doc.Kernel.Name
		}
		m.file = m.name
	case attest.TPM2:
		m.ofBoot(doc.PCRs, doc.Boot)
		if doc.Bank == "sha256" {
			size = 32
		}
	default:
		return nil, errors.New("it names no TEE that is measured")
	}
	for claim, v := range m.values {
		if len(v) != size {
			return nil, fmt.Errorf("its %s has %s, want %d", claim, cli.Count(len(v), "byte"), size)
		}
	}
	if len(m.values) == 0 {
		return nil, errors.New("it has no measurements")
	}
	return m, nil
}

// ofBoot takes the registers of a boot, those that only a reset clears.
func (m *imageMeasured) ofBoot(pcrs map[int]attest.Bytes, boot *attest.MeasuredBoot) {
	m.boot = boot
	for i, v := range pcrs {
		if i >= 0 && i < staticPCRs && !zero(v) {
			m.values[fmt.Sprintf("pcr%d", i)] = v
		}
	}
}

// readBootLog measures a TPM's boot event log.
func readBootLog(c *cobra.Command, path string, bank bankValue) (*imageMeasured, error) {
	raw, err := readInput(c, path)
	if err != nil {
		return nil, err
	}
	if bank == "sha1" {
		return nil, cli.Usagef("use --bank sha256", "no policy names SHA-1 values")
	}
	log, err := measureEventLog(path, raw, bank, nil)
	if err != nil {
		return nil, err
	}
	m := &imageMeasured{platform: attest.TPM2, file: filepath.Base(path), values: map[string]attest.Bytes{}, comments: map[string]string{}}
	m.ofBoot(log.PCRs, log.Boot)
	return m, nil
}

// primary is the claim that says which image it is, where the platform has one.
func (m *imageMeasured) primary() string {
	switch m.platform {
	case attest.AWSNitro:
		return "pcr0"
	case attest.AMDSEVSNP:
		return "measurement"
	case attest.TPM2:
	}
	return ""
}

// claims lists what there is a value for.
func (m *imageMeasured) claims() string {
	return strings.Join(slices.Sorted(maps.Keys(m.values)), ", ")
}
