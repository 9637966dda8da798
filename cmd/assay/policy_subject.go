package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

// subject is what a policy is asked about or written from: the claims of one
// environment, and what vouches for them.
type subject struct {
	file     string
	tee      tee
	claims   attest.Claims
	verified bool
	at       time.Time // when it was verified; zero where it was not
	warnings []string
}

// about says in one line what vouches for the claims.
func (s *subject) about() string {
	if !s.verified {
		return "NOT VERIFIED: whoever made " + s.file + " may have written its claims"
	}
	out := fmt.Sprintf("authentic %s evidence at %s", s.tee.title, stamp(s.at))
	if s.claims.Simulated {
		out += ", under SIMULATED roots"
	}
	return out
}

// subjectFlags are how evidence is verified before a policy is asked about it:
// those of `evidence verify`.
type subjectFlags struct {
	platform   func() (tee, error)
	at         timeValue
	files      []string
	roots      string
	requireCRL bool
	unverified bool
	forTPM     tpmFlags
}

func (s *subjectFlags) add(c *cobra.Command) {
	s.platform = teeFlag(c)
	f := c.Flags()
	f.Var(&s.at, "verify-at", "verify the evidence at this time instead of now")
	f.StringArrayVar(&s.files, "endorsement", nil, "`FILE` with certificates or CRLs, DER or PEM; may be repeated")
	f.StringVar(&s.roots, "roots", "", "PEM `FILE` with roots that replace the vendor's: the claims are then marked simulated")
	f.BoolVar(&s.requireCRL, "require-crl", false, "fail unless every certificate that names a CRL was looked up in one")
	f.BoolVar(&s.unverified, "unverified", false, "take what the evidence says without verifying it")
	s.forTPM.add(c)
}

// read returns the claims of evidence, once it is verified; or those of a file of
// claims, which nobody can verify. The error is that of the verification.
func (s *subjectFlags) read(c *cobra.Command, file string, now clock) (*subject, error) {
	raw, err := readInput(c, file)
	if err != nil {
		return nil, err
	}
	if claims, err := readClaims(raw); claims != nil || err != nil {
		return s.ofClaims(c, file, claims, err)
	}
	t, err := s.platform()
	if err != nil {
		return nil, err
	}
	if s.unverified {
		return s.unchecked(c, t, file, raw)
	}
	v := verification{tee: t, at: s.at.or(now), requireCRL: s.requireCRL}
	o := opening{requireCRL: s.requireCRL}
	if o.tpm, err = s.forTPM.read(c, t); err != nil {
		return nil, err
	}
	v.eventLog = o.tpm.eventLog
	if err := v.openRoots(c, s.roots, o); err != nil {
		return nil, err
	}
	if v.endorsements, err = readEndorsements(c, s.files); err != nil {
		return nil, err
	}
	result := v.run(c.Context(), raw)
	if result.err != nil {
		return nil, result.err
	}
	return &subject{file: file, tee: t, claims: *result.Claims, verified: true, at: v.at, warnings: result.Warnings}, nil
}

// ofClaims is a file that holds claims instead of evidence.
func (s *subjectFlags) ofClaims(c *cobra.Command, file string, claims *attest.Claims, err error) (*subject, error) {
	if err != nil {
		return nil, err
	}
	if f := c.Flags().Lookup("tee"); f.Changed && f.Value.String() != string(claims.Platform) {
		return nil, cli.Usagef("leave --tee out: the claims say it themselves", "%s holds claims of %s", file, claims.Platform)
	}
	t, err := findTEE(string(claims.Platform))
	if err != nil {
		return nil, err
	}
	return &subject{file: file, tee: t, claims: *claims}, nil
}

// unchecked takes evidence at its word.
func (s *subjectFlags) unchecked(c *cobra.Command, t tee, file string, raw []byte) (*subject, error) {
	ev, err := t.normalize(raw)
	if err != nil {
		return nil, err
	}
	if err := s.forTPM.log.add(c, t, &ev); err != nil {
		return nil, err
	}
	claims, err := t.claimed(ev)
	if err != nil {
		return nil, err
	}
	return &subject{file: file, tee: t, claims: *claims}, nil
}

// readClaims finds claims in JSON: alone, in the output of `evidence verify` or
// `policy explain` ("claims"), or in that of `ledger show` ("entry"). It returns
// none for anything else, and an error for claims that are none.
func readClaims(raw []byte) (*attest.Claims, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '{' {
		return nil, nil
	}
	var outer struct {
		Platform string          `json:"platform"`
		Claims   json.RawMessage `json:"claims"`
		Entry    struct {
			Claims json.RawMessage `json:"claims"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(raw, &outer); err != nil {
		return nil, nil //nolint:nilerr // it is no JSON of ours: evidence, and its own parser says what is wrong
	}
	found := json.RawMessage(raw)
	switch {
	case outer.Entry.Claims != nil:
		found = outer.Entry.Claims
	case outer.Claims != nil:
		found = outer.Claims
	default: // other tools' evidence may have a platform too, by other names
		if _, err := attest.ParsePlatform(outer.Platform); err != nil {
			return nil, nil //nolint:nilerr // likewise
		}
	}
	if string(found) == "null" {
		return nil, malformedClaims("there are no claims in it: the evidence was refused")
	}
	var out attest.Claims
	if err := json.Unmarshal(found, &out); err != nil {
		return nil, malformedClaims(err.Error())
	}
	have := map[attest.Platform]bool{attest.AWSNitro: out.Nitro != nil, attest.AMDSEVSNP: out.SNP != nil, attest.TPM2: out.TPM != nil}
	n := 0
	for _, there := range have {
		if there {
			n++
		}
	}
	if n != 1 || !have[out.Platform] {
		return nil, malformedClaims(fmt.Sprintf("want the claims of one platform, the one that \"platform\" names, which is %q", out.Platform))
	}
	return &out, nil
}

func malformedClaims(why string) error {
	return &attest.Error{
		Kind: attest.Malformed, Check: "claims", Err: errors.New("these are no claims: " + why),
		Hint: "`assay evidence verify --output json` and `assay ledger show --output json` write claims",
	}
}
