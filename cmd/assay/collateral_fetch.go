package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

func collateralFetchCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "fetch REPORT [--kds URL] [--out FILE] [--cache DIR]",
		Short: "Fetch the certificate that a report needs from the KDS",
		Long: `Fetch the VCEK certificate of the chip and TCB that a report names, and the CRL of
its product line, from AMD's Key Distribution Service. The report is verified with
them, and nothing is written if that fails.

The certificate, its issuer and the CRL are written as PEM, which ` + "`assay evidence\nverify --endorsement`" + ` takes; with --cache they go into a cache directory too. What
a directory has already is not fetched again. REPORT may be binary, hex or base64, with or
without the host's certificate table; - is standard input.

A report signed with a VLEK, or with a masked chip id, cannot be served: the KDS
gives VLEK certificates to cloud providers only, who hand them to their guests.`,
		Example: `  assay collateral fetch report.bin --out chain.pem
  assay evidence verify --tee amd-sev-snp --endorsement chain.pem report.bin
  assay collateral fetch report.bin --cache /var/lib/assay/collateral`,
		Args: cobra.ExactArgs(1),
	}
	var f collateralFlags
	var kds, out string
	f.add(c, "cache `DIR`ectory to put what is fetched into; made if it is not there")
	c.Flags().StringVar(&kds, "kds", collateral.AMDKDS, "`URL` of the KDS, or of a mirror")
	c.Flags().StringVar(&out, "out", "", "PEM `FILE` to write; - is standard output (the default without --cache)")
	c.RunE = func(c *cobra.Command, a []string) error {
		raw, err := readInput(c, a[0])
		if err != nil {
			return err
		}
		report, _, err := sevsnp.Normalize(raw)
		if err != nil {
			return err
		}
		if f.cache == "" && out == "" {
			out = "-"
		}
		roots, err := f.readRoots(c)
		if err != nil {
			return err
		}
		// What is fetched goes aside first, and into the cache when the report has
		// verified with it.
		dir, err := os.MkdirTemp("", "assay-collateral-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }() // best effort: public certificates
		aside, err := openCollateral(dir, roots, now)
		if err != nil {
			return err
		}
		defer func() { _ = aside.Close() }() // of no use any more
		r := &fetching{c: c, now: now, cache: aside, roots: roots}
		if f.cache != "" {
			if r.target, err = openCollateral(f.cache, roots, now); err != nil {
				return err
			}
			defer func() { _ = r.target.Close() }() // what was written was synced
			if err := copyCollateral(r.cache, r.target, func(o *collateral.Object) bool { return o.TCB == nil }); err != nil {
				return err
			}
		}
		if err := r.fetch(kds, report); err != nil {
			return err
		}
		if r.target != nil {
			if err := copyCollateral(r.target, r.cache, func(*collateral.Object) bool { return true }); err != nil {
				return err
			}
		}
		return r.write(out)
	}
	return c
}

// fetching is one run of `assay collateral fetch`.
type fetching struct {
	c      *cobra.Command
	now    clock
	cache  *collateral.Cache // what is fetched, and what of the operator's cache is needed
	target *collateral.Cache // the operator's, nil for none
	roots  sevsnp.Roots

	der    []byte // the endorsement that verified the report
	claims *attest.SNP
	found  []*collateral.Object
}

// copyCollateral copies what one cache holds and another does not, of what is
// wanted.
func copyCollateral(to, from *collateral.Cache, wanted func(*collateral.Object) bool) error {
	objects, _, err := from.List()
	if err != nil {
		return err
	}
	for _, issuers := range []bool{true, false} { // the others need them
		for _, o := range objects {
			if !wanted(o) || (o.Kind == collateral.ASK || o.Kind == collateral.ASVK) != issuers {
				continue
			}
			if o.Kind == collateral.CRL {
				_, _, err = to.PutCRL(o.Product, o.SigningKey, o.DER)
			} else {
				_, _, err = to.PutCertificate(o.DER)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// asked notes which endorsement the verifier was given last, and looks into the
// operator's cache before anything is fetched.
type asked struct {
	*collateral.Source
	aside  *collateral.Cache
	target *collateral.Source // nil for none
	der    []byte
}

// Endorsement is the source's, and noted.
func (a *asked) Endorsement(ctx context.Context, k sevsnp.Key) ([]byte, error) {
	if a.target != nil {
		if der, err := a.target.Endorsement(ctx, k); err == nil {
			if _, _, err := a.aside.PutCertificate(der); err != nil {
				return nil, err
			}
		}
	}
	der, err := a.Source.Endorsement(ctx, k)
	a.der = der
	return der, err
}

// fetch lets the real verifier ask: so what is fetched is exactly what a server
// would need, and it is known to be right.
func (r *fetching) fetch(url string, report []byte) error {
	kds, err := collateral.NewKDS(collateral.KDSConfig{URL: url, Now: r.now})
	if err != nil {
		return cli.Usagef("use --kds https://HOST", "--kds: %w", err)
	}
	source, err := collateral.New(collateral.Config{
		Cache: r.cache, KDS: kds, Now: r.now,
		Allowed: func(string, []byte) bool { return true }, // the operator's word
	})
	if err != nil {
		return err
	}
	note := &asked{Source: source, aside: r.cache}
	if r.target != nil {
		if note.target, err = collateral.New(collateral.Config{Cache: r.target, Now: r.now}); err != nil {
			return err
		}
	}
	v, err := sevsnp.New(r.roots, sevsnp.WithCollateral(note))
	if err != nil {
		return err
	}
	ev := attest.Evidence{Platform: attest.AMDSEVSNP, Body: report}
	claims, err := v.Authenticate(r.c.Context(), ev, r.now())
	if err != nil {
		return explainFetch(err)
	}
	r.der, r.claims = note.der, claims.SNP
	if err := source.Refresh(r.c.Context(), r.claims.Product, r.claims.SigningKey); err != nil {
		cli.Warn(r.c.ErrOrStderr(), "the CRL of %s is not the newest: %v", r.claims.Product, err)
	}
	// Again, now that there is a CRL: it may name the chip or its issuer.
	if _, err := v.Authenticate(r.c.Context(), ev, r.now()); err != nil {
		return err
	}
	return r.gather()
}

func explainFetch(err error) error {
	var ae *attest.Error
	if errors.As(err, &ae) && ae.Check == sevsnp.CheckEndorsementMissing {
		e := *ae
		e.Hint = "the KDS does not know this chip at this TCB, or the chip id is masked, or a provider's key (VLEK) signed: then the guest or its host must bring the certificate"
		return &e
	}
	return err
}

// gather collects the endorsement, its issuer and the CRL.
func (r *fetching) gather() error {
	objects, _, err := r.cache.List()
	if err != nil {
		return err
	}
	for _, o := range objects {
		if o.Product != r.claims.Product || o.SigningKey != r.claims.SigningKey {
			continue
		}
		if (o.Kind == collateral.VCEK || o.Kind == collateral.VLEK) && !bytes.Equal(o.DER, r.der) {
			continue // of another chip, TCB or provider
		}
		r.found = append(r.found, o)
	}
	for _, i := range r.roots.Issuers(r.claims.Product, r.claims.SigningKey) {
		r.found = append(r.found, &collateral.Object{
			Kind: collateral.ASK, Product: r.claims.Product, SigningKey: r.claims.SigningKey, NotBefore: i.NotBefore, NotAfter: i.NotAfter, DER: i.Raw,
		})
	}
	return nil
}

func (r *fetching) write(out string) error {
	if out == "" || out == "-" {
		if out == "" {
			return r.summary()
		}
		_, err := r.c.OutOrStdout().Write(r.pem())
		return err
	}
	if err := replaceFile(out, r.pem()); err != nil {
		return err
	}
	return r.summary()
}

// pem is the endorsement first, then its issuers, then the CRL.
func (r *fetching) pem() []byte {
	var b bytes.Buffer
	for _, k := range []collateral.Kind{collateral.VCEK, collateral.VLEK, collateral.ASK, collateral.ASVK, collateral.CRL} {
		for _, o := range r.found {
			if o.Kind == k {
				b.Write(pemOf(o))
			}
		}
	}
	return b.Bytes()
}

func (r *fetching) summary() error {
	p := cli.NewPage(r.c.OutOrStdout())
	for _, o := range r.found {
		switch o.Kind {
		case collateral.VCEK, collateral.VLEK:
			p.Linef("the certificate verifies the report")
			p.Facts(
				cli.Fact{Name: "product", Value: o.Product}, cli.Fact{Name: "chip", Value: chipText(o)},
				cli.Fact{Name: "TCB", Value: tcbText(o)}, cli.Fact{Name: "not after", Value: stamp(o.NotAfter)},
			)
		case collateral.CRL:
			p.Facts(cli.Fact{Name: "CRL", Value: fmt.Sprintf("%s to %s, %s", stamp(o.NotBefore), stamp(o.NotAfter), collateralState(o, r.now()))})
		case collateral.ASK, collateral.ASVK:
		}
	}
	return p.Err()
}
