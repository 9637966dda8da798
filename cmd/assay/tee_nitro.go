package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/nitro"
)

// nitroTEE is AWS Nitro Enclaves.
func nitroTEE() tee {
	return tee{
		platform: attest.AWSNitro,
		title:    "AWS Nitro Enclaves",
		normalize: func(raw []byte) (attest.Evidence, error) {
			body, err := nitro.Normalize(raw)
			return attest.Evidence{Platform: attest.AWSNitro, Body: body}, err // a document carries its chain
		},
		open:     nitroOpen,
		inspect:  nitroInspect,
		claimed:  nitroClaimed,
		print:    nitroPrint,
		nonce:    nitroNonce,
		bound:    nitroBound,
		warnings: nitroWarnings,
	}
}

// nitroCollectedTag precedes the digest of the nonce in the user_data of a
// document that `assay evidence collect` asked for.
const nitroCollectedTag = "assay/v1 collected\x00"

const nitroPCRs = "PCRs (SHA-384)"

// nitroOpen takes the built-in root of AWS, or the roots of a file. A file that
// holds AWS's own root and no other replaces nothing: it is the hardware's root,
// whoever's copy of it that is.
func nitroOpen(o opening) (*opened, error) {
	roots := nitro.HardwareRoots()
	about := "the AWS Nitro Enclaves root G1 (SHA-256 " + nitro.AWSRootG1SHA256[:16] + "…)"
	if o.rootsPEM != nil && !onlyAWSRoot(o.rootsPEM) {
		var err error
		if roots, err = nitro.SimulatedRoots(o.rootsPEM); err != nil {
			return nil, err
		}
		about = fmt.Sprintf("a root given by --roots (%s)", cli.Count(len(roots.Fingerprints()), "root"))
	}
	v, err := nitro.New(roots)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	return &opened{
		verifier: v,
		after: func(ev attest.Evidence, _ attest.Claims, es []*endorsement, at time.Time) (revocation, error) {
			u, err := nitro.Inspect(ev.Body)
			if err == nil {
				if chain = nitroChain(u); len(chain) < 2 {
					err = errors.New("it has no chain")
				}
			}
			if err != nil {
				return revocation{State: revocationNone}, &attest.Error{
					Kind: attest.Internal, Check: "inspect", Err: fmt.Errorf("a document that verifies cannot be decoded: %w", err),
				}
			}
			// The document was just verified, so that this is the chain which the
			// verifier has accepted.
			return checkRevocation(chain, es, at, o.requireCRL)
		},
		checked: func(c attest.Claims) []checked { return nitroChecked(about, c) },
		chain:   func() []*x509.Certificate { return chain },
	}, nil
}

func onlyAWSRoot(rootsPEM []byte) bool {
	n := 0
	for rest := rootsPEM; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return n > 0
		}
		sum := sha256.Sum256(block.Bytes)
		if block.Type != "CERTIFICATE" || hex.EncodeToString(sum[:]) != nitro.AWSRootG1SHA256 {
			return false
		}
	}
}

func nitroInspect(ev attest.Evidence) (*inspection, error) {
	u, err := nitro.Inspect(ev.Body)
	if err != nil {
		return nil, err
	}
	at := "-"
	in := &inspection{Document: u, chain: nitroChain(u)}
	if u.Timestamp != nil {
		in.time = *u.Timestamp
		at = stamp(in.time)
	}
	facts := []cli.Fact{
		{Name: "module id", Value: u.ModuleID},
		{Name: "timestamp", Value: at},
		{Name: "digest", Value: u.Digest},
		{Name: "public key", Value: nitroKey(u.PublicKey)},
		{Name: "user data", Value: nitroUserData(u.UserData)},
		{Name: "nonce", Value: short(u.Nonce)},
	}
	title, regs := nitroPCRs, u.PCRs
	if len(u.NitroTPMPCRs) > 0 {
		facts = append(facts, cli.Fact{Name: "platform", Value: "this is a NitroTPM document: an EC2 instance, not an enclave"})
		title, regs = "NitroTPM PCRs (SHA-384)", u.NitroTPMPCRs
	}
	if u.Malformed != nil {
		facts = append(facts, cli.Fact{Name: "malformed", Value: u.Malformed.Error()})
	}
	in.print = func(p *cli.Page) {
		p.Facts(facts...)
		printRegisters(p, title, regs)
	}
	return in, nil
}

// nitroChain parses the certificates that a document carries, root first, or
// returns none where one of them cannot be read.
func nitroChain(u *nitro.Unverified) []*x509.Certificate {
	var chain []*x509.Certificate
	for _, c := range u.Chain {
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return nil
		}
		chain = append(chain, cert)
	}
	return chain
}

func nitroPrint(p *cli.Page, c attest.Claims) {
	p.Facts([]cli.Fact{
		{Name: "module id", Value: c.Nitro.ModuleID},
		{Name: "timestamp", Value: stamp(c.Nitro.Timestamp)},
		{Name: "debug", Value: yesNo(c.Nitro.Debug)},
		{Name: "simulated", Value: yesNo(c.Simulated)},
		{Name: "public key", Value: nitroKey(c.Nitro.PublicKey)},
		{Name: "user data", Value: nitroUserData(c.Nitro.UserData)},
		{Name: "nonce", Value: short(c.Nitro.Nonce)},
	}...)
	printRegisters(p, nitroPCRs, c.Nitro.PCRs)
}

// nitroKey shows a public key by what it is and its digest, when it is one in
// DER; the enclave may put anything there.
func nitroKey(b attest.Bytes) string {
	k, err := x509.ParsePKIXPublicKey(b)
	if err != nil {
		return short(b)
	}
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%s, SHA-256 of the SPKI %x (%s)", keyName(k), sum, cli.Count(len(b), "byte"))
}

// nitroUserData adds what the bytes are when they read as text, or as the
// binding of an attestation.
func nitroUserData(b attest.Bytes) string {
	tag := nitro.UserData(attest.Binding{})
	tag = tag[:len(tag)-bindingSize]
	if len(b) == len(tag)+bindingSize && bytes.HasPrefix(b, tag) {
		return fmt.Sprintf("Assay binding %s", b[len(tag):])
	}
	if collected := []byte(nitroCollectedTag); len(b) == len(collected)+collectedSize && bytes.HasPrefix(b, collected) {
		return fmt.Sprintf("collected by assay, nonce digest %s", b[len(collected):])
	}
	if s := string(b); len(b) > 0 && len(b) <= 64 && cli.Escape(s) == s {
		return fmt.Sprintf("%s = %q", short(b), s)
	}
	return short(b)
}

func nitroNonce(c attest.Claims, nonce []byte) error {
	if bytes.Equal(c.Nitro.Nonce, nonce) {
		return nil
	}
	return &attest.Error{
		Kind: attest.Untrusted, Check: nitro.CheckBindingNonce, Err: errors.New("the evidence was made for another nonce"),
		Expected: attest.Bytes(nonce).String(), Got: short(c.Nitro.Nonce),
		Hint: "this is evidence for somebody else's challenge, or a replay",
	}
}

func nitroBound(c attest.Claims, b []byte) error {
	want := nitro.UserData(attest.Binding{B: [bindingSize]byte(b)})
	if bytes.Equal(want, c.Nitro.UserData) {
		return nil
	}
	return &attest.Error{
		Kind: attest.Untrusted, Check: nitro.CheckBindingUserData,
		Err:      errors.New("user_data is not the binding that is expected"),
		Expected: attest.Bytes(want).String(), Got: short(c.Nitro.UserData),
		Hint: "the binding covers connection, nonce, keys, requested identities and purpose: docs/spec/binding.md",
	}
}

func nitroChecked(about string, c attest.Claims) []checked {
	return []checked{
		{"structure", "ok", "one COSE_Sign1 message, strictly decoded, nothing behind it"},
		{"chain", "ok", "P-384 and SHA-384 throughout, from " + about},
		{"signature", "ok", "ES384, by the enclave's certificate"},
		{"time", "ok", "made at " + c.Nitro.Timestamp.UTC().Format(time.RFC3339Nano) + ", within 5 minutes; every certificate valid"},
	}
}

func nitroWarnings(c attest.Claims) []string {
	if !c.Nitro.Debug {
		return nil
	}
	return []string{"debug evidence: PCR0, PCR1 and PCR2 are all zero, so the enclave runs in debug mode, measures nothing, and its memory can be read from the host"}
}
