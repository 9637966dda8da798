package main

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

func evidenceImportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "import [FILE] [--quote FILE --signature FILE --pcrs FILE --ak FILE]",
		Short: "Convert another tool's TPM quote into Assay's JSON",
		Long: `Convert a TPM quote that another tool made into Assay's JSON, for
` + "`assay evidence inspect` and `assay evidence verify`" + `. Nothing is verified.

FILE may be go-tpm-tools' Attestation, go-attestation's dump, a quote of Keylime
(the string or the agent's answer), evidence of Trustee or of an Azure confidential
VM (with its HCL report), of vaportpm, or of Parsec. What FILE does not hold comes
from flags; without FILE, all of it does, as with the files of tpm2-tools:

  tpm2_quote -c ak.ctx -l sha256:0,4,7 -q NONCE -m quote.msg -s quote.sig -o pcrs.bin
  assay evidence import --quote quote.msg --signature quote.sig --pcrs pcrs.bin --ak ak.pub

Where only the AK's key is known, its public area is rebuilt; if the result is the
one that the quote's signer names, verification proves its attributes too.`,
		Example: `  assay evidence import --quote quote.msg --signature quote.sig --pcrs pcrs.bin --ak ak.pub --to quote.json
  assay evidence import --ak ak.pub.pem --to quote.json keylime-quote.txt
  assay evidence import fixture.json | assay evidence verify --tee tpm2 -`,
		Args: cobra.MaximumNArgs(1),
	}
	var f importFlags
	flags := c.Flags()
	flags.StringVar(&f.quote, "quote", "", "quote `FILE`: TPMS_ATTEST or TPM2B_ATTEST")
	flags.StringVar(&f.signature, "signature", "", "signature `FILE`: TPMT_SIGNATURE, a bare RSASSA signature, or ECDSA in DER")
	flags.StringVar(&f.pcrs, "pcrs", "", "`FILE` with the registers' values: of tpm2_quote or tpm2_pcrread, JSON, or all one after the other")
	flags.StringVar(&f.ak, "ak", "", "attestation key `FILE`: PEM, DER, TPMT_PUBLIC or TPM2B_PUBLIC")
	flags.StringVar(&f.akCert, "ak-cert", "", "`FILE` with the AK's certificate, and those above it: DER or PEM")
	flags.StringVar(&f.ekPublic, "ek-public", "", "endorsement key `FILE`: TPMT_PUBLIC or TPM2B_PUBLIC")
	flags.StringVar(&f.ekCert, "ek-cert", "", "`FILE` with the EK's certificate, and those above it: DER or PEM")
	flags.StringVar(&f.eventLog, "event-log", "", "boot event log `FILE`")
	to := flags.String("to", "-", "write the JSON to this `FILE` instead of standard output")
	c.RunE = func(c *cobra.Command, args []string) error {
		var warnings []string
		e, err := f.convert(c, args, &warnings)
		if err != nil {
			return err
		}
		out, err := e.file()
		if err != nil {
			return err
		}
		for _, w := range warnings {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
		if *to == "-" {
			_, err = c.OutOrStdout().Write(out)
			return err
		}
		return replaceFile(*to, out)
	}
	return c
}

// importFlags are names of files.
type importFlags struct{ quote, signature, pcrs, ak, akCert, ekPublic, ekCert, eventLog string }

// imported are the parts of a quote, as some tool wrote them.
type imported struct {
	quote     []byte
	signature []byte
	pcrs      registers
	area      []byte           // TPMT_PUBLIC of the AK
	key       crypto.PublicKey // of the AK
	akCert    []byte
	above     [][]byte
	ekPublic  []byte
	ekCert    []byte
	eventLog  []byte
	certified []tpmCertified
}

func (f importFlags) convert(c *cobra.Command, args []string, warnings *[]string) (*tpmEvidence, error) {
	in := &imported{}
	if len(args) == 1 {
		raw, err := readInput(c, args[0])
		if err != nil {
			return nil, err
		}
		if in, err = readForeign(raw); err != nil {
			return nil, err
		}
	}
	if err := f.read(c, in); err != nil {
		return nil, err
	}
	return in.evidence(warnings)
}

// read takes what flags name over what the file holds.
func (f importFlags) read(c *cobra.Command, in *imported) error {
	get := func(flag, name string, use func([]byte) error) error {
		if name == "" {
			return nil
		}
		b, err := readInput(c, name)
		if err != nil {
			return err
		}
		if err := use(b); err != nil {
			return cli.Usagef("", "--%s %s: %w", flag, name, err)
		}
		return nil
	}
	set := func(to *[]byte) func([]byte) error {
		return func(b []byte) error { *to = b; return nil }
	}
	return errors.Join(
		get("quote", f.quote, set(&in.quote)),
		get("signature", f.signature, set(&in.signature)),
		get("event-log", f.eventLog, set(&in.eventLog)),
		get("pcrs", f.pcrs, func(b []byte) (err error) { in.pcrs, err = readRegisters(b); return err }),
		get("ak", f.ak, func(b []byte) (err error) { in.key, in.area, err = parseAK(b); return err }),
		get("ak-cert", f.akCert, func(b []byte) (err error) { in.akCert, err = in.chain(b); return err }),
		get("ek-cert", f.ekCert, func(b []byte) (err error) { in.ekCert, err = in.chain(b); return err }),
		get("ek-public", f.ekPublic, func(b []byte) error {
			in.ekPublic = unsized(b)
			_, err := publicKey(in.ekPublic)
			return err
		}))
}

// chain reads a leaf, and what is above it.
func (in *imported) chain(file []byte) ([]byte, error) {
	block, rest := pem.Decode(file)
	if block == nil {
		der := trimDER(file)
		if _, err := certificateKey(der); err != nil {
			return nil, err
		}
		return der, nil
	}
	leaf := block.Bytes
	if _, err := certificateKey(leaf); err != nil {
		return nil, err
	}
	for {
		if block, rest = pem.Decode(rest); block == nil {
			return leaf, nil
		}
		in.above = append(in.above, block.Bytes)
	}
}

// unsized strips the size of a TPM2B structure.
func unsized(b []byte) []byte {
	if len(b) > 2 && int(binary.BigEndian.Uint16(b)) == len(b)-2 {
		return b[2:]
	}
	return b
}

func importError(err error) error {
	return &attest.Error{Kind: attest.Malformed, Check: "import", Err: err, Hint: "give what is missing with a flag: see `assay evidence import --help`"}
}

// evidence puts the parts together.
func (in *imported) evidence(warnings *[]string) (*tpmEvidence, error) {
	quote := unsized(in.quote)
	seen, err := parseTPMQuote(quote)
	if err != nil {
		if len(in.quote) == 0 {
			err = errors.New("there is no quote: --quote FILE")
		}
		return nil, importError(err)
	}
	if err := in.findKey(); err != nil {
		return nil, importError(err)
	}
	sig, err := tpmSignature(in.signature, in.key)
	if err != nil {
		if len(in.signature) == 0 {
			err = errors.New("there is no signature: --signature FILE")
		}
		return nil, importError(err)
	}
	e := &tpmEvidence{
		Quote: quote, Signature: sig, PCRs: make(map[string]tpmBytes), AKPublic: in.area, AKCert: trimDER(in.akCert), EKPublic: in.ekPublic, EKCert: in.ekCert,
		Certified: in.certified, EventLog: in.eventLog,
	}
	for _, der := range in.above {
		e.Endorsements = append(e.Endorsements, der)
	}
	if err := in.addRegisters(e, seen, warnings); err != nil {
		return nil, importError(err)
	}
	if in.area != nil {
		return e, nil
	}
	built, err := rebuildArea(in.key, binary.BigEndian.Uint16(sig), binary.BigEndian.Uint16(sig[2:]), seen.Signer)
	if err != nil {
		return nil, importError(err)
	}
	if built.exact {
		e.AKPublic = built.area
		return e, nil
	}
	if e.AKPublic, err = spki(in.key); err != nil {
		return nil, importError(err)
	}
	*warnings = append(*warnings, "only the AK's key is known, and no common template gives the quote's signer: nothing shows that the key signs quotes alone")
	return e, nil
}

// findKey finds the AK's key in its public area or certificate.
func (in *imported) findKey() (err error) {
	switch {
	case in.key != nil:
	case in.area != nil:
		in.key, err = publicKey(in.area)
	case in.akCert != nil:
		in.key, err = certificateKey(in.akCert)
	default:
		err = errors.New("there is no attestation key: --ak FILE")
	}
	return err
}

// addRegisters takes the values of the registers that the quote selects.
func (in *imported) addRegisters(e *tpmEvidence, q *tpmQuote, warnings *[]string) error {
	if len(q.Banks) != 1 {
		return fmt.Errorf("the quote is over %s, want one bank", cli.Count(len(q.Banks), "bank"))
	}
	values, err := in.pcrs.of(q.Banks[0])
	if err != nil {
		return err
	}
	if values == nil {
		*warnings = append(*warnings, "there are no values of registers: without them, the quote proves nothing (--pcrs FILE)")
		return nil
	}
	var missing []string
	for _, i := range q.Banks[0].PCRs {
		v, ok := values[i]
		if !ok {
			missing = append(missing, fmt.Sprint(i))
			continue
		}
		e.PCRs[fmt.Sprint(i)] = v
	}
	if missing != nil {
		*warnings = append(*warnings, "the values of these registers, which the quote selects, are missing: "+strings.Join(missing, ", "))
	}
	return nil
}

// readForeign finds out which tool wrote a file, by what only its files hold.
func readForeign(raw []byte) (*imported, error) {
	text := bytes.TrimSpace(raw)
	if ev, err := tpmNormalize(raw); err == nil {
		return fromAssay(ev)
	}
	switch {
	case len(text) > 0 && text[0] == '{':
		return foreignJSON(text)
	case bytes.Count(text, []byte{':'}) == 2 && len(text) > 0 && (text[0] == 'r' || text[0] == 'd'):
		return keylimeQuote(string(text))
	case len(raw) > 0 && raw[0]>>5 == 5: // a CBOR map
		return parsecEvidence(raw)
	}
	return nil, importError(errors.New("no tool is known that writes this"))
}

// fromAssay takes evidence of Assay's own apart again.
func fromAssay(ev attest.Evidence) (*imported, error) {
	e, err := ofEvidence(ev)
	if err != nil {
		return nil, err
	}
	in := &imported{quote: e.Quote, signature: e.Signature, area: e.AKPublic, akCert: e.AKCert, ekPublic: e.EKPublic, ekCert: e.EKCert, eventLog: e.EventLog, certified: e.Certified}
	in.above = ev.Endorsements
	in.pcrs, err = flatRegisters(e.PCRs)
	return in, err
}
