package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ledger"
)

func ledgerShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show REFERENCE|[CHAIN/]SEQUENCE",
		Short: "Explain one record: an issuance or denial rule by rule",
		Long: `Explain one record: who attested, what the policy decided and why, rule by rule
with what was expected and what was found, and which SVIDs it allowed; or a JWT-SVID,
or what an administrator did.

REFERENCE is what an agent was given on grant and denial alike, and the jti of a
JWT-SVID; SEQUENCE is a number in the chain of the server that is asked, or in that
of another one.

--evidence FILE also writes the evidence as it was received, while it is kept,
so that it can be verified again; the endorsements that came with it go to
FILE.endorsements.pem. Of a TPM, FILE is Assay's JSON with the boot event log and
the endorsements in it, and the attestation key goes to FILE.ak.pem.`,
		Example: `  assay ledger show as-7k2m4qxw3p
  assay ledger show 17 --output json
  assay ledger show eu-2/17
  assay ledger show as-7k2m4qxw3p --evidence document.cbor`,
		Args: cobra.ExactArgs(1),
	}
	source := ledgerSourceFlags(c)
	evidence := c.Flags().String("evidence", "", "write the recorded evidence to this `FILE`")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		src, err := source.open(c.Context())
		if err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
		item, err := src.get(c.Context(), args[0])
		if errors.Is(err, errNotFound) {
			return cli.Usagef("`assay ledger list` shows what there is; denials are kept for a limited time", "the ledger has no record %q", args[0])
		}
		if err != nil {
			return err
		}
		if *evidence != "" && len(item.Entry.EvidenceDigest) == 0 {
			return cli.Usagef("", "record %s has no evidence of its own", args[0])
		}
		if *evidence != "" {
			if err := saveEvidence(c, src, item.Entry, *evidence); err != nil {
				return err
			}
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), recordOf(item))
		}
		return printRecord(cli.NewPage(c.OutOrStdout()), item)
	}
	return c
}

// saveEvidence writes the evidence behind a record, and says how to verify it.
func saveEvidence(c *cobra.Command, src ledgerSource, e ledger.Entry, file string) error {
	if len(e.EvidenceDigest) != 32 {
		return fmt.Errorf("the record's evidence digest has %s", cli.Count(len(e.EvidenceDigest), "byte"))
	}
	digest := [32]byte(e.EvidenceDigest)
	ev, _, err := src.evidence(c.Context(), digest)
	if errors.Is(err, errNotFound) {
		return unavailable("evidence is kept for retain_evidence, within quotas", "the evidence of %s is not there", e.Reference)
	}
	if err != nil {
		return err
	}
	if ev.Digest() != digest {
		return &attest.Error{
			Kind: attest.Untrusted, Check: "evidence_digest", Err: errors.New("the stored evidence is not what was recorded"),
			Expected: e.EvidenceDigest.String(), Got: fmt.Sprintf("%x", ev.Digest()),
		}
	}
	var (
		warned []string
		beside *string
		flag   = " --endorsement "
	)
	if ev.Platform == attest.TPM2 {
		// The event log and the endorsements are in the file. What bound the AK to its
		// TPM was the second round of that attestation: the record vouches for it.
		beside, err = writeTPMEvidence(file, ev)
		flag = " --ak "
	} else {
		beside, err = writeEvidence(file, ev.Body, ev.Endorsements, &warned)
	}
	if err != nil {
		return err
	}
	for _, w := range warned {
		cli.Warn(c.ErrOrStderr(), "%s", w)
	}
	roots := ""
	if e.Simulated {
		roots = " --roots ROOT.pem"
	}
	if beside != nil {
		roots += flag + cli.Escape(*beside)
	}
	_, err = fmt.Fprintf(c.ErrOrStderr(), "evidence written; verify it with: assay evidence verify --tee %s%s --at %s %s\n",
		cli.Escape(string(ev.Platform)), roots, stamp(e.VerifiedAt), cli.Escape(file))
	return err
}

// printRecord explains a record. A denial begins with why, an issuance with
// what was issued.
func printRecord(p *cli.Page, i ledger.Item) error {
	e := i.Entry
	if e.Action != nil || e.Token != nil {
		return printOther(p, i)
	}
	if e.Outcome == ledger.Granted {
		p.Linef("GRANTED %s: entry %d of %s", e.Reference, i.Sequence, ledger.ChainName(e.TrustDomain, e.Chain))
	} else {
		p.Linef("DENIED %s: %s", e.Reference, denial(e.Decision))
	}
	simulated := ""
	if e.Simulated {
		simulated = " (SIMULATED)"
	}
	p.Facts(
		cli.Fact{Name: "time", Value: stamp(e.Time)},
		cli.Fact{Name: "tee", Value: string(e.Platform) + simulated},
		cli.Fact{Name: "instance", Value: string(e.Instance)},
		cli.Fact{Name: "purpose", Value: string(e.Purpose)},
		cli.Fact{Name: "peer", Value: orNone(e.Peer)},
		cli.Fact{Name: "policy", Value: fmt.Sprintf("%s@%d", e.Policy.Name, e.Policy.Revision)},
		cli.Fact{Name: "evidence", Value: e.EvidenceDigest.String() + keptText(e.EvidenceKept)},
		cli.Fact{Name: "verified at", Value: stamp(e.VerifiedAt)},
	)
	if len(e.Identities) > 0 {
		p.Title("SVIDs")
		var rows [][]string
		for _, id := range e.Identities {
			rows = append(rows, []string{id.SPIFFEID, id.Serial, stamp(id.NotAfter), id.KeyThumbprint.String()})
		}
		p.Table([]string{"spiffe id", "serial", "not after", "SHA-256 of the key"}, rows)
	}
	printDecision(p, e.Decision)
	for _, t := range tees() {
		if t.platform == e.Platform && e.Claims.Platform == e.Platform && e.Claims.Instance() != "" {
			p.Title("Claims")
			t.print(p, e.Claims)
		}
	}
	if e.Outcome == ledger.Granted {
		p.Title("Chain")
		p.Facts(cli.Fact{Name: "hash", Value: i.Hash.String()}, cli.Fact{Name: "previous hash", Value: i.Previous.String()})
	}
	return p.Err()
}

// printOther explains a token or an administrator's call.
func printOther(p *cli.Page, i ledger.Item) error {
	e := i.Entry
	at := fmt.Sprintf("entry %d of %s", i.Sequence, ledger.ChainName(e.TrustDomain, e.Chain))
	if a := e.Action; a != nil {
		p.Linef("ADMIN %s: %s: %s", e.Reference, a.Outcome, at)
		p.Facts(
			cli.Fact{Name: "time", Value: stamp(a.At)},
			cli.Fact{Name: "actor", Value: a.Actor},
			cli.Fact{Name: "role", Value: orNone(a.Role)},
			cli.Fact{Name: "method", Value: a.Method},
			cli.Fact{Name: "target", Value: orNone(a.Target)},
			cli.Fact{Name: "detail", Value: orNone(a.Detail)},
		)
	} else {
		t := e.Token
		p.Linef("TOKEN %s: %s", e.Reference, at)
		p.Facts(
			cli.Fact{Name: "issued at", Value: stamp(t.IssuedAt)},
			cli.Fact{Name: "not after", Value: stamp(t.NotAfter)},
			cli.Fact{Name: "spiffe id", Value: t.SPIFFEID},
			cli.Fact{Name: "audience", Value: strings.Join(t.Audience, ", ")},
			cli.Fact{Name: "parent serial", Value: t.Parent},
			cli.Fact{Name: "instance", Value: string(e.Instance)},
			cli.Fact{Name: "policy", Value: fmt.Sprintf("%s@%d", e.Policy.Name, e.Policy.Revision)},
		)
	}
	p.Title("Chain")
	p.Facts(cli.Fact{Name: "hash", Value: i.Hash.String()}, cli.Fact{Name: "previous hash", Value: i.Previous.String()})
	return p.Err()
}

func keptText(kept bool) string {
	if kept {
		return " (kept: --evidence FILE writes it)"
	}
	return " (not kept)"
}
