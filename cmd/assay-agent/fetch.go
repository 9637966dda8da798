package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/files"
	"github.com/assay-project/assay/internal/cli"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

func fetchCommand() *cobra.Command {
	var (
		f          socketFlags
		output     string
		writeTo    string
		noKeys     bool
		onDisk     bool
		timeout    time.Duration
		errTimeout = "how long to wait for an identity"
	)
	c := &cobra.Command{
		Use:   "fetch",
		Short: "Fetch the SVIDs from the running agent, once",
		Long: `fetch asks the running agent for its X.509-SVIDs through the Workload API, as a
workload would. It prints who this TEE is; it never prints a key.

With --write DIR it writes svid.N.pem, svid.N.key (0600) and bundle.N.pem for
each SVID, and federated.TRUST-DOMAIN.pem, each file replaced at once. It writes
once; ` + "`assay-agent run --write`" + ` follows renewals. A key on a disk is the host's:
DIR must be on a tmpfs or ramfs, unless --keys-on-disk-unsafe and the policy of each
identity (key_residency: file) both say otherwise. Without keys (--no-keys) DIR may
be anywhere. A key that lives in the TPM cannot be written; its SVID is shown all
the same.`,
		Example: "  assay-agent fetch\n  assay-agent fetch --output json\n  assay-agent fetch --write /run/orders\n  assay-agent fetch --write certificates --no-keys",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return cli.Usagef("use --output text or --output json", "unknown output format %q", output)
			}
			if writeTo == "" && (noKeys || onDisk) {
				return cli.Usagef("for example --write /run/orders", "--no-keys and --"+unsafeFlag+" say nothing without --write DIR")
			}
			path, err := f.find(c)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			got, err := fetch(ctx, path)
			if err != nil {
				return err
			}
			if writeTo != "" {
				if err := writeFiles(ctx, c, path, writeTo, got, noKeys, onDisk); err != nil {
					return err
				}
			}
			return show(c.OutOrStdout(), output, got)
		},
	}
	f.add(c)
	c.Flags().StringVar(&output, "output", "text", "output format: text or json")
	cli.Complete(c, "output", "text", "json")
	c.Flags().StringVar(&writeTo, "write", "", "write the SVIDs, their keys and bundles into this directory")
	c.Flags().BoolVar(&noKeys, "no-keys", false, "write certificates and bundles only")
	addUnsafe(c, &onDisk)
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, errTimeout)
	c.AddCommand(fetchJWTCommand())
	return c
}

// fetched is one SVID with its bundle.
type fetched struct {
	svid      *x509svid.SVID // without a key where that lives in the TPM
	bundle    []*x509.Certificate
	federated map[string][]*x509.Certificate // by trust domain, the same for each
	residency agent.KeyResidency
	hint      string // what it is for; may be empty
}

// fetch waits for the first answer that has an SVID: an agent that is still
// attesting denies, and is asked again until ctx ends.
func fetch(ctx context.Context, path string) ([]fetched, error) {
	conn, err := dialAgent(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	client := workload.NewSpiffeWorkloadAPIClient(conn)
	withHeader := metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	for {
		r, err := fetchOnce(withHeader, client)
		if err == nil {
			return parse(r)
		}
		switch status.Code(err) { //nolint:exhaustive // every other code is final
		case codes.PermissionDenied:
			if got, err := resident(withHeader, conn); err != nil || len(got) > 0 {
				return got, err
			}
			if wait(ctx) {
				continue
			}
			return nil, why(path, "", err)
		case codes.DeadlineExceeded:
			return nil, why(path, "", err)
		}
		return nil, noAgent(path, err)
	}
}

// resident asks for the identities whose keys the Workload API cannot hand out;
// none is no error.
func resident(ctx context.Context, conn *grpc.ClientConn) ([]fetched, error) {
	all, err := agentv1.NewAgentClient(conn).GetIdentities(ctx, &agentv1.GetIdentitiesRequest{})
	if err != nil {
		return nil, nil //nolint:nilerr // what the Workload API says counts
	}
	bundles := map[string][]*x509.Certificate{}
	for _, b := range append([]*agentv1.Bundle{all.GetBundle()}, all.GetFederated()...) {
		for _, der := range b.GetX509Authorities() {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, &attest.Error{Kind: attest.Malformed, Check: "bundle", Err: err}
			}
			bundles[b.GetTrustDomain()] = append(bundles[b.GetTrustDomain()], c)
		}
	}
	var out []fetched
	for _, m := range all.GetIdentities() {
		if m.GetKeyResidency() != agentv1.KeyResidency_KEY_RESIDENCY_TPM {
			continue
		}
		v := &x509svid.SVID{}
		for _, der := range m.GetChain() {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, &attest.Error{Kind: attest.Malformed, Check: "svid", Err: err}
			}
			v.Certificates = append(v.Certificates, c)
		}
		if len(v.Certificates) == 0 {
			return nil, &attest.Error{Kind: attest.Malformed, Check: "svid", Err: fmt.Errorf("the agent answered without a certificate")}
		}
		if v.ID, err = x509svid.IDFromCert(v.Certificates[0]); err != nil {
			return nil, &attest.Error{Kind: attest.Malformed, Check: "svid", Err: err}
		}
		out = append(out, fetched{v, bundles[v.ID.TrustDomain().Name()], bundles, agent.TPMKeys, m.GetHint()})
	}
	for _, f := range out {
		delete(bundles, f.svid.ID.TrustDomain().Name()) // what is left is of others
	}
	return out, nil
}

func fetchOnce(ctx context.Context, client workload.SpiffeWorkloadAPIClient) (*workload.X509SVIDResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return nil, err
	}
	return s.Recv()
}

// wait pauses between questions; false when there is no time left.
func wait(ctx context.Context) bool {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func parse(r *workload.X509SVIDResponse) ([]fetched, error) {
	var out []fetched
	federated := map[string][]*x509.Certificate{}
	for id, der := range r.GetFederatedBundles() {
		td, err := spiffeid.TrustDomainFromString(id)
		if err == nil {
			federated[td.Name()], err = x509.ParseCertificates(der)
		}
		if err != nil {
			return nil, &attest.Error{Kind: attest.Malformed, Check: "bundle", Err: err}
		}
	}
	for _, m := range r.GetSvids() {
		v, err := x509svid.ParseRaw(m.GetX509Svid(), m.GetX509SvidKey())
		if err != nil {
			return nil, &attest.Error{Kind: attest.Malformed, Check: "svid", Err: err}
		}
		b, err := x509.ParseCertificates(m.GetBundle())
		if err != nil {
			return nil, &attest.Error{Kind: attest.Malformed, Check: "bundle", Err: err}
		}
		out = append(out, fetched{v, b, federated, agent.SoftwareKeys, m.GetHint()})
	}
	if len(out) == 0 {
		return nil, &attest.Error{Kind: attest.Malformed, Check: "svid", Err: fmt.Errorf("the agent answered without an SVID")}
	}
	return out, nil
}

// shown is an SVID as it is printed: everything but the key.
type shown struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Hint      string    `json:"hint,omitempty"` // what it is for
	Serial    string    `json:"serial"`         // hex, as in the server's ledger
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Residency string    `json:"key_residency"` // "software" or "tpm"
	SVID      string    `json:"x509_svid"`     // PEM, leaf first
	Bundle    string    `json:"bundle"`        // PEM
}

func show(w io.Writer, output string, got []fetched) error {
	var all []shown
	for _, g := range got {
		leaf := g.svid.Certificates[0]
		all = append(all, shown{
			g.svid.ID.String(), g.hint, fmt.Sprintf("%032x", leaf.SerialNumber), leaf.NotBefore.UTC(), leaf.NotAfter.UTC(), string(g.residency),
			string(files.Certificates(g.svid.Certificates)), string(files.Certificates(g.bundle)),
		})
	}
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"svids": all})
	}
	place := map[string]string{string(agent.SoftwareKeys): "in memory", string(agent.TPMKeys): "in the TPM"}
	for _, s := range all {
		hint := ""
		if s.Hint != "" {
			hint = "  hint        " + s.Hint + "\n"
		}
		if _, err := fmt.Fprintf(w, "%s\n%s  serial      %s\n  not before  %s\n  not after   %s\n  key         %s\n", s.SPIFFEID, hint, s.Serial, s.NotBefore.Format(time.RFC3339), s.NotAfter.Format(time.RFC3339), place[s.Residency]); err != nil {
			return err
		}
	}
	return nil
}
