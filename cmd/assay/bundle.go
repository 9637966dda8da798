package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/federation"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func bundleCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "bundle",
		Short:   "Export what relying parties trust",
		Example: "  assay bundle export > bundle.json",
	}
	c.AddCommand(bundleExportCommand())
	return c
}

func bundleExportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the trust domain's bundle, and the verifier-keys document",
		Long: `Write the trust bundle of the server's trust domain to standard output: SPIFFE
bundle JSON, or the authorities' certificates in PEM.

--verifier-keys FILE also writes the signed document of the keys that sign
attestation results. Relying parties check it with the verifier root that they
have pinned, so that it can be published anywhere.`,
		Example: `  assay bundle export > bundle.json
  assay bundle export --format pem --out bundle.pem --verifier-keys verifier-keys.cbor`,
		Args: cobra.NoArgs,
	}
	var format, out, keys string
	socket := adminFlag(c)
	c.Flags().StringVar(&format, "format", "spiffe", "spiffe (SPIFFE bundle JSON) or pem")
	c.Flags().StringVar(&out, "out", "-", "`FILE` to write the bundle to; - is standard output")
	c.Flags().StringVar(&keys, "verifier-keys", "", "`FILE` to write the verifier-keys document to")
	// The flag exists: it was added above.
	_ = c.RegisterFlagCompletionFunc("format", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"spiffe", "pem"}, cobra.ShellCompDirectiveNoFileComp
	})
	c.RunE = func(c *cobra.Command, _ []string) error {
		if format != "spiffe" && format != "pem" {
			return cli.Usagef("use --format spiffe or --format pem", "unknown bundle format %q", format)
		}
		a, err := openAdmin(*socket, "name the socket with --admin SOCKET")
		if err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // nothing was written
		r, err := a.GetBundle(c.Context(), &assayv1.GetBundleRequest{})
		if err != nil {
			return a.explain(err)
		}
		text, err := formatBundle(r.GetBundle(), format)
		if err != nil {
			return err
		}
		if keys != "" {
			doc := r.GetBundle().GetVerifierKeys()
			if len(doc) == 0 {
				return unavailable("look at `assay server status`", "the server has no verifier-keys document")
			}
			if err := replaceFile(keys, doc); err != nil {
				return err
			}
		}
		if out != "-" {
			return replaceFile(out, text)
		}
		_, err = c.OutOrStdout().Write(text)
		return err
	}
	return c
}

// formatBundle writes the bundle in a format that other SPIFFE software reads.
func formatBundle(b *assayv1.TrustBundle, format string) ([]byte, error) {
	td, err := spiffeid.TrustDomainFromString(b.GetTrustDomain())
	if err != nil {
		return nil, fmt.Errorf("the server's bundle: %w", err)
	}
	if len(b.GetX509Authorities()) == 0 {
		return nil, unavailable("look at `assay server status`", "the server's bundle holds no X.509 authority")
	}
	sb := spiffebundle.New(td)
	var text bytes.Buffer
	for _, der := range b.GetX509Authorities() {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the server's bundle: %w", err)
		}
		sb.AddX509Authority(cert)
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, err
		}
	}
	if format == "pem" {
		return text.Bytes(), nil
	}
	sb.SetSequenceNumber(b.GetSequence())
	if h := b.GetRefreshHintSeconds(); h > 0 {
		sb.SetRefreshHint(time.Duration(h) * time.Second)
	}
	if jwks := b.GetJwtAuthorities(); len(jwks) > 0 {
		tokens, err := jwtbundle.Parse(td, jwks)
		if err != nil {
			return nil, fmt.Errorf("the server's bundle: %w", err)
		}
		sb.SetJWTAuthorities(tokens.JWTAuthorities())
	}
	out, err := federation.Encode(sb) // as the bundle endpoint serves it
	if err != nil {
		return nil, fmt.Errorf("the server's bundle: %w", err)
	}
	return append(out, '\n'), nil
}

// replaceFile writes a file that others may be reading: a reader sees the old
// one or the new one, whole.
func replaceFile(path string, content []byte) error {
	const public fs.FileMode = 0o644 // bundles and verifier keys are for everybody
	return replaceFileAs(path, content, public)
}

func replaceFileAs(path string, content []byte, mode fs.FileMode) (err error) {
	usage := func(err error) error { return cli.Usagef("", "%s", clean(err)) }
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return usage(err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name()) // best effort: the error that matters is returned
		}
	}()
	if err := tmp.Chmod(mode); err != nil {
		_ = tmp.Close()
		return usage(err)
	}
	if _, err := tmp.Write(content); err != nil {
		_ = tmp.Close()
		return usage(err)
	}
	if err := tmp.Sync(); err != nil {
		_ = tmp.Close()
		return usage(err)
	}
	if err := tmp.Close(); err != nil {
		return usage(err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return usage(err)
	}
	return nil
}
