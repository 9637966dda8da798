package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// snpTEE is AMD SEV-SNP.
func snpTEE() tee {
	return tee{
		platform: attest.AMDSEVSNP,
		title:    "AMD SEV-SNP",
		normalize: func(raw []byte) (attest.Evidence, error) {
			body, beside, err := sevsnp.Normalize(raw)
			return attest.Evidence{Platform: attest.AMDSEVSNP, Body: body, Endorsements: beside}, err
		},
		open:     snpOpen,
		inspect:  snpInspect,
		claimed:  snpClaimed,
		print:    snpPrint,
		nonce:    snpNonce,
		bound:    snpBound,
		warnings: snpWarnings,
	}
}

// snpVerifier is a verifier that remembers which endorsements its last report
// did not need. It serves one run of one command.
type snpVerifier struct {
	*sevsnp.Verifier
	unused []int
}

// Authenticate is that of the verifier.
func (v *snpVerifier) Authenticate(ctx context.Context, ev attest.Evidence, at time.Time) (c *attest.Claims, err error) {
	c, v.unused, err = v.AuthenticateWithUse(ctx, ev, at)
	return c, err
}

// snpOpen takes AMD's roots, or those of a file. A file that holds nothing but
// AMD's own replaces nothing.
func snpOpen(o opening) (*opened, error) {
	roots, about := sevsnp.HardwareRoots(), "AMD's pinned "
	if o.rootsPEM != nil && !onlyAMDRoots(roots, o.rootsPEM) {
		var err error
		if roots, err = sevsnp.SimulatedRoots(o.rootsPEM); err != nil {
			return nil, err
		}
		about = "the given "
	}
	inner, err := sevsnp.New(roots, sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: o.requireCRL}))
	if err != nil {
		return nil, err
	}
	v := &snpVerifier{Verifier: inner}
	var chain []*x509.Certificate
	return &opened{
		verifier: v,
		endorses: true,
		after: func(_ attest.Evidence, c attest.Claims, es []*endorsement, _ time.Time) (revocation, error) {
			for _, i := range v.unused {
				es[i].used, es[i].why = false, "the report does not need it"
			}
			chain = snpChain(roots, *c.SNP, es)
			return snpRevocation(*c.SNP), nil
		},
		checked: func(c attest.Claims) []checked { return snpChecked(about, roots, *c.SNP) },
		chain:   func() []*x509.Certificate { return chain },
	}, nil
}

// onlyAMDRoots reports whether every certificate of the file is one that is
// built in.
func onlyAMDRoots(roots sevsnp.Roots, rootsPEM []byte) bool {
	var own [][]byte
	for _, p := range roots.Products() {
		own = append(own, roots.Root(p).Raw)
		for _, kind := range []string{sevsnp.VCEK, sevsnp.VLEK} {
			for _, c := range roots.Issuers(p, kind) {
				own = append(own, c.Raw)
			}
		}
	}
	n := 0
	for rest := rootsPEM; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return n > 0
		}
		if block.Type != "CERTIFICATE" || !slices.ContainsFunc(own, func(der []byte) bool { return bytes.Equal(der, block.Bytes) }) {
			return false
		}
	}
}

// snpChain finds the chain of a report that has just verified: the leaf among
// the endorsements that were used, its issuer there or among the roots, the ARK.
func snpChain(roots sevsnp.Roots, s attest.SNP, es []*endorsement) []*x509.Certificate {
	chain := []*x509.Certificate{roots.Root(s.Product)}
	issuers := roots.Issuers(s.Product, s.SigningKey)
	var leaf *x509.Certificate
	for _, e := range es {
		switch {
		case e.cert == nil || !e.used:
		case sevsnp.InspectEndorsement(e.raw).Type == s.SigningKey:
			leaf = e.cert
		case e.cert.IsCA:
			issuers = append(issuers, e.cert)
		}
	}
	if leaf == nil {
		return chain
	}
	for _, i := range issuers {
		if bytes.Equal(i.RawSubject, leaf.RawIssuer) && leaf.CheckSignatureFrom(i) == nil {
			return append(chain, i, leaf)
		}
	}
	return append(chain, leaf)
}

func snpRevocation(s attest.SNP) revocation {
	switch s.Revocation {
	case sevsnp.RevocationOK:
		return revocation{revocationOK, "a current CRL of the ARK covers " + issuerName(s.SigningKey) + " and " + strings.ToUpper(s.SigningKey)}
	case sevsnp.RevocationNotChecked:
		return revocation{revocationNone, "no current CRL of the ARK was given (--endorsement FILE)"}
	}
	return revocation{s.Revocation, "the newest CRL of the ARK has expired"}
}

func issuerName(signingKey string) string {
	if signingKey == sevsnp.VLEK {
		return "ASVK"
	}
	return "ASK"
}

func snpChecked(about string, roots sevsnp.Roots, s attest.SNP) []checked {
	key, line := strings.ToUpper(s.SigningKey), strings.ToUpper(s.Product[:1])+s.Product[1:]
	whose := "its hwid the report's chip id"
	switch {
	case s.SigningKey == sevsnp.VLEK:
		whose = fmt.Sprintf("given to %s", s.CSPID)
	case zero(s.ChipID):
		whose = "the report's chip id is masked"
	}
	return []checked{
		{"structure", "ok", fmt.Sprintf("%d bytes, report version %d, everything reserved is zero", sevsnp.ReportSize, s.Version)},
		{"chain", "ok", fmt.Sprintf("%s and %s of %s, from %sARK (SHA-256 %.16s…)", key, issuerName(s.SigningKey), line, about, roots.Fingerprints()[s.Product])},
		{"endorsement", "ok", fmt.Sprintf("the %s is for the reported TCB, %s", key, whose)},
		{"signature", "ok", fmt.Sprintf("ECDSA P-384 with SHA-384, by the %s, over the bytes as received", key)},
		{"versions", "ok", "reported and committed TCB at most the current one, launch TCB known, firmware new enough for the guest policy"},
		{"time", "ok", "every certificate is valid; a report has no time of its own: only a nonce or a binding shows that it is fresh"},
	}
}

// snpDocument is the JSON of `evidence inspect`.
type snpDocument struct {
	*sevsnp.Unverified
	Problem      *string                        `json:"malformed"` // the first structural check that fails
	Endorsements []sevsnp.UnverifiedEndorsement `json:"endorsements"`
}

func snpInspect(ev attest.Evidence) (*inspection, error) {
	u, err := sevsnp.Inspect(ev.Body)
	if err != nil {
		return nil, err
	}
	doc := snpDocument{Unverified: u, Endorsements: []sevsnp.UnverifiedEndorsement{}}
	if u.Malformed != nil {
		text := u.Malformed.Error()
		doc.Problem = &text
	}
	for _, der := range ev.Endorsements {
		doc.Endorsements = append(doc.Endorsements, sevsnp.InspectEndorsement(der))
	}
	return &inspection{Document: doc, print: func(p *cli.Page) { snpPrintUnverified(p, doc) }, hints: snpHints(u)}, nil
}

// amdKDS is AMD's Key Distribution Service (publication 57230). This command
// names its addresses, and never asks it.
const amdKDS = "https://kdsintf.amd.com"

// snpHints says where AMD has what a report needs.
func snpHints(u *sevsnp.Unverified) map[string]string {
	lines := []string{u.Product}
	if u.Product == "" {
		lines = []string{sevsnp.Milan, sevsnp.Genoa} // version 2 does not say, and Turin writes none
	}
	const times = "the certificates' own times count; a report has none: --at TIME, from a source that you trust"
	hints := map[string]string{"chain_validity": times, "product": "this is another machine's certificate: give that of the report's chip and TCB with --endorsement FILE"}
	if u.CPUID != "" && u.Product == "" || u.SigningKey != sevsnp.VCEK && u.SigningKey != sevsnp.VLEK {
		return hints
	}
	var leaves, crls []string
	for _, l := range lines {
		name := strings.ToUpper(l[:1]) + l[1:]
		id, t := u.ChipID, u.ReportedTCB
		query := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
		if t.FMC != nil {
			id, query = id[:8], fmt.Sprintf("fmcSPL=%02d&%s", *t.FMC, query)
		}
		leaves = append(leaves, fmt.Sprintf("%s/vcek/v1/%s/%s?%s", amdKDS, name, id, query))
		crls = append(crls, fmt.Sprintf("%s/%s/v1/%s/crl", amdKDS, u.SigningKey, name))
	}
	hints["crl_missing"] = "give the CRL with --endorsement FILE; AMD has it at " + strings.Join(crls, " or ")
	hints["crl_validity"] = hints["crl_missing"]
	switch {
	case u.SigningKey == sevsnp.VLEK:
		hints["endorsement_missing"] = "give the VLEK with --endorsement FILE: the host has it, in the certificate table of an extended report"
	case zero(u.ChipID):
		hints["endorsement_missing"] = "give the VCEK with --endorsement FILE: the host masks the chip id, so that only the host can say which it is"
	default:
		hints["endorsement_missing"] = "give the VCEK with --endorsement FILE; `assay collateral fetch REPORT` gets it, from " + strings.Join(leaves, " or ")
	}
	return hints
}

func snpPrintUnverified(p *cli.Page, d snpDocument) {
	u := d.Unverified
	product := u.Product
	switch {
	case u.CPUID == "":
		product = "not said by a version 2 report"
	case product == "":
		product = "unknown (" + u.CPUID + ")"
	default:
		product += " (" + u.CPUID + ")"
	}
	facts := []cli.Fact{
		{Name: "product", Value: product},
		{Name: "signing key", Value: u.SigningKey},
	}
	if d.Problem != nil {
		facts = append(facts, cli.Fact{Name: "malformed", Value: *d.Problem})
	}
	p.Facts(append(facts, snpIdentity(attest.SNP{
		Version: u.Version, Measurement: u.Measurement, HostData: u.HostData, ReportData: u.ReportData, GuestSVN: u.GuestSVN, VMPL: u.VMPL,
		IDKeyDigest: u.IDKeyDigest, AuthorKeyDigest: u.AuthorKeyDigest, FamilyID: u.FamilyID, ImageID: u.ImageID,
		ReportID: u.ReportID, ReportIDMA: u.ReportIDMA, ChipID: u.ChipID,
		CurrentFirmware: u.CurrentFirmware, CommittedFirmware: u.CommittedFirmware,
		LaunchMitigations: u.LaunchMitigations, CurrentMitigations: u.CurrentMitigations,
	})...)...)
	printTCBs(p, u.ReportedTCB, u.CurrentTCB, u.CommittedTCB, u.LaunchTCB)
	printSNPBits(p, u.Policy, u.Platform)
	if len(d.Endorsements) == 0 {
		return
	}
	p.Title("Beside the report")
	var rows [][]string
	for i, e := range d.Endorsements {
		name, problem := e.Subject, e.Problem
		if name == "" {
			name = e.Issuer
		}
		if problem != "" {
			problem = "unreadable: " + problem
		}
		rows = append(rows, []string{fmt.Sprintf("evidence#%d", i+1), e.Type, stamp(e.NotBefore), stamp(e.NotAfter), strings.TrimSpace(name + " " + problem)})
	}
	p.Table([]string{"", "type", "not before", "not after", "name"}, rows)
}

func snpPrint(p *cli.Page, c attest.Claims) {
	s := *c.SNP
	key := "vcek: the chip's own"
	if s.SigningKey == sevsnp.VLEK {
		key = "vlek: of " + s.CSPID
	}
	facts := append([]cli.Fact{
		{Name: "product", Value: s.Product},
		{Name: "signing key", Value: key},
		{Name: "simulated", Value: yesNo(c.Simulated)},
	}, snpIdentity(s)...)
	p.Facts(append(facts, cli.Fact{Name: "provisional", Value: yesNo(s.Provisional) + map[bool]string{
		true: ": the host could still go back to the committed firmware or TCB",
	}[s.Provisional]})...)
	printTCBs(p, s.ReportedTCB, s.CurrentTCB, s.CommittedTCB, s.LaunchTCB)
	printSNPBits(p, s.Policy, s.Platform)
}

// snpIdentity is what a report says of guest and platform, but for versions and
// bits, which are tables of their own.
func snpIdentity(s attest.SNP) []cli.Fact {
	out := []cli.Fact{
		{Name: "report version", Value: fmt.Sprint(s.Version)},
		{Name: "measurement", Value: digest(s.Measurement)},
		{Name: "report data", Value: snpReportData(s.ReportData)},
		{Name: "host data", Value: digest(s.HostData)},
		{Name: "vmpl", Value: fmt.Sprint(s.VMPL)},
		{Name: "guest svn", Value: fmt.Sprint(s.GuestSVN)},
		{Name: "family id", Value: digest(s.FamilyID)},
		{Name: "image id", Value: digest(s.ImageID)},
		{Name: "id key digest", Value: digest(s.IDKeyDigest)},
		{Name: "author key digest", Value: digest(s.AuthorKeyDigest)},
		{Name: "report id", Value: digest(s.ReportID)},
		{Name: "migration agent", Value: snpMigrationAgent(s.ReportIDMA)},
		{Name: "chip id", Value: digest(s.ChipID)},
		{Name: "firmware", Value: fmt.Sprintf("%s, committed %s", s.CurrentFirmware, s.CommittedFirmware)},
	}
	if s.LaunchMitigations != nil && s.CurrentMitigations != nil {
		out = append(out, cli.Fact{Name: "mitigations", Value: fmt.Sprintf("at launch %#x, now %#x", *s.LaunchMitigations, *s.CurrentMitigations)})
	}
	return out
}

// digest writes all of a value of fixed length: these are what people compare.
func digest(b attest.Bytes) string {
	if zero(b) {
		return fmt.Sprintf("all zero (%s)", cli.Count(len(b), "byte"))
	}
	return b.String()
}

func snpMigrationAgent(id attest.Bytes) string {
	if len(bytes.Trim(id, "\xff")) == 0 {
		return "none"
	}
	return digest(id)
}

// snpReportData adds what the bytes are when they are Assay's.
func snpReportData(b attest.Bytes) string {
	attested := sevsnp.ReportData(attest.Binding{})
	collected := snpCollected([collectedSize]byte{})
	switch {
	case len(b) != len(attested):
	case bytes.Equal(b[bindingSize:], attested[bindingSize:]):
		return fmt.Sprintf("Assay binding %s", b[:bindingSize])
	case bytes.Equal(b[bindingSize:], collected[bindingSize:]):
		return fmt.Sprintf("collected by assay, nonce digest %s", b[:bindingSize])
	}
	return digest(b)
}

// printTCBs prints the four versions of the trusted computing base, component by
// component.
func printTCBs(p *cli.Page, reported, current, committed, launch attest.TCB) {
	p.Title("Trusted computing base")
	header := []string{"", "bl", "tee", "snp", "ucode"}
	if reported.FMC != nil {
		header = []string{"", "fmc", "bl", "tee", "snp", "ucode"}
	}
	row := func(name string, t attest.TCB) []string {
		out := []string{name}
		if t.FMC != nil {
			out = append(out, fmt.Sprint(*t.FMC))
		}
		return append(out, fmt.Sprint(t.Bootloader), fmt.Sprint(t.TEE), fmt.Sprint(t.SNP), fmt.Sprint(t.Microcode))
	}
	p.Table(header, [][]string{row("reported", reported), row("current", current), row("committed", committed), row("launch", launch)})
}

func printSNPBits(p *cli.Page, g attest.SNPPolicy, h attest.SNPPlatform) {
	p.Title("Guest policy")
	p.Facts(
		cli.Fact{Name: "least abi", Value: fmt.Sprintf("%d.%d", g.ABIMajor, g.ABIMinor)},
		cli.Fact{Name: "debug", Value: yesNo(g.Debug)},
		cli.Fact{Name: "migrate_ma", Value: yesNo(g.MigrateMA)},
		cli.Fact{Name: "smt", Value: yesNo(g.SMT)},
		cli.Fact{Name: "single_socket", Value: yesNo(g.SingleSocket)},
		cli.Fact{Name: "cxl_allow", Value: yesNo(g.CXLAllow)},
		cli.Fact{Name: "mem_aes_256_xts", Value: yesNo(g.MemAES256XTS)},
		cli.Fact{Name: "rapl_dis", Value: yesNo(g.RAPLDis)},
		cli.Fact{Name: "ciphertext_hiding", Value: yesNo(g.CiphertextHiding)},
		cli.Fact{Name: "page_swap_disable", Value: yesNo(g.PageSwapDisable)},
	)
	p.Title("Platform")
	p.Facts(
		cli.Fact{Name: "smt", Value: yesNo(h.SMT)},
		cli.Fact{Name: "tsme", Value: yesNo(h.TSME)},
		cli.Fact{Name: "ecc", Value: yesNo(h.ECC)},
		cli.Fact{Name: "rapl_dis", Value: yesNo(h.RAPLDis)},
		cli.Fact{Name: "ciphertext_hiding", Value: yesNo(h.CiphertextHiding)},
		cli.Fact{Name: "alias_check", Value: yesNo(h.AliasCheck)},
	)
}

// collectedTag fills the second half of the REPORT_DATA of a report that
// `assay evidence collect` made, as its SHA-256. It differs from that of a
// report which answers a server's challenge, as the first half does.
const collectedTag = "assay/v1 collected report data"

const collectedSize = sha256.Size

// snpCollected is the REPORT_DATA of a collected report.
func snpCollected(binding [collectedSize]byte) [64]byte {
	tag := sha256.Sum256([]byte(collectedTag))
	return [64]byte(append(binding[:], tag[:]...))
}

// snpNonce compares a nonce. A report has no field for one: REPORT_DATA is all
// that a guest chooses. The nonce is there as `assay evidence collect` puts it,
// hashed and tagged; or, as other tools have it, as it is, with zeros behind it.
// All 64 bytes are compared. In a report that answered a server's challenge it is
// inside B: see --expect-binding.
func snpNonce(c attest.Claims, nonce []byte) error {
	binding, err := attest.CollectedBinding(nonce)
	if err != nil {
		return err
	}
	want := snpCollected(binding)
	if bytes.Equal(c.SNP.ReportData, want[:]) {
		return nil
	}
	if len(nonce) <= len(want) && bytes.Equal(c.SNP.ReportData, append(bytes.Clone(nonce), make([]byte, len(want)-len(nonce))...)) {
		return nil
	}
	return &attest.Error{
		Kind: attest.Untrusted, Check: "binding_nonce", Err: errors.New("REPORT_DATA does not carry the nonce"),
		Expected: fmt.Sprintf("%s as assay evidence collect binds it, or followed by zeros", attest.Bytes(nonce)), Got: short(c.SNP.ReportData),
		Hint: "this is a report for somebody else's challenge, or a replay; a nonce of a server's challenge is inside the binding: --expect-binding",
	}
}

func snpBound(c attest.Claims, b []byte) error {
	want := sevsnp.ReportData(attest.Binding{B: [bindingSize]byte(b)})
	if bytes.Equal(want[:], c.SNP.ReportData) {
		return nil
	}
	return &attest.Error{
		Kind: attest.Untrusted, Check: sevsnp.CheckBindingReportData,
		Err:      errors.New("REPORT_DATA is not the binding that is expected"),
		Expected: attest.Bytes(want[:]).String(), Got: short(c.SNP.ReportData),
		Hint: "the binding covers connection, nonce, keys, requested identities and purpose: docs/spec/binding.md",
	}
}

func snpWarnings(c attest.Claims) []string {
	var out []string
	if c.SNP.Policy.Debug {
		out = append(out, "debug evidence: the guest policy allows debugging, so that the host can read and write the guest's memory")
	}
	if c.SNP.Policy.MigrateMA {
		out = append(out, "migratable evidence: the guest policy allows a migration agent, which can move the guest's secrets to another machine")
	}
	if c.SNP.VMPL != 0 {
		out = append(out, fmt.Sprintf("evidence of VMPL %d: what runs at VMPL 0 in the guest (a paravisor, an SVSM) has power over what asked for this report; EC2's reports are of VMPL 1", c.SNP.VMPL))
	}
	return out
}
