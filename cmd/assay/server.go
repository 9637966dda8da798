package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func serverCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "server",
		Short:   "Ask a running server about itself",
		Example: "  assay server status",
	}
	c.AddCommand(serverStatusCommand())
	return c
}

// serverStatus is the JSON output of `server status`.
type serverStatus struct {
	Version                   string       `json:"version"`
	TrustDomain               string       `json:"trust_domain"`
	Kind                      string       `json:"kind"`
	Platforms                 []string     `json:"platforms"`
	Policy                    string       `json:"policy"`
	PolicyDigest              attest.Bytes `json:"policy_digest"`
	Started                   time.Time    `json:"started"`
	LedgerSize                uint64       `json:"ledger_size"`
	CheckpointSize            uint64       `json:"checkpoint_size"`
	AuthorityNotAfter         time.Time    `json:"authority_not_after"`
	ServerCertificateNotAfter time.Time    `json:"server_certificate_not_after"`
	IssuedTotal               uint64       `json:"issued_total"`
	DeniedTotal               uint64       `json:"denied_total"`
	AttestationsInFlight      uint32       `json:"attestations_in_flight"`
	Watches                   uint32       `json:"watches"`
	Warnings                  []string     `json:"warnings"`

	Server   string         `json:"server"`
	Ready    bool           `json:"ready"`
	NotReady string         `json:"not_ready"`
	Database string         `json:"database"`
	Members  []serverMember `json:"members"`
}

// serverMember is another server of the trust domain.
type serverMember struct {
	Name       string     `json:"name"`
	Joined     time.Time  `json:"joined"`
	LedgerSize uint64     `json:"ledger_size"`
	LastEntry  *time.Time `json:"last_entry"`
}

func unixMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func statusOf(r *assayv1.StatusResponse) serverStatus {
	members := []serverMember{}
	for _, m := range r.GetMembers() {
		members = append(members, serverMember{m.GetName(), unixMilli(m.GetJoinedUnixMs()), m.GetLedgerSize(), timeOrNull(m.GetLastEntryUnixMs())})
	}
	return serverStatus{
		Version: r.GetVersion(), TrustDomain: r.GetTrustDomain(), Kind: r.GetKind(),
		Platforms: append([]string{}, r.GetPlatforms()...),
		Policy:    r.GetPolicy(), PolicyDigest: r.GetPolicyDigest(), Started: unixMilli(r.GetStartedUnixMs()),
		LedgerSize: r.GetLedgerSize(), CheckpointSize: r.GetCheckpointSize(),
		AuthorityNotAfter:         unixMilli(r.GetAuthorityNotAfterUnixMs()),
		ServerCertificateNotAfter: unixMilli(r.GetServerCertificateNotAfterUnixMs()),
		IssuedTotal:               r.GetIssuedTotal(), DeniedTotal: r.GetDeniedTotal(),
		AttestationsInFlight: r.GetAttestationsInFlight(), Watches: r.GetWatches(),
		Warnings: append([]string{}, r.GetWarnings()...),
		Server:   r.GetServer(), Ready: r.GetNotReady() == "", NotReady: r.GetNotReady(), Database: r.GetDatabase(), Members: members,
	}
}

func serverStatusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what a server is and does",
		Long: `Show what a server is and does: its trust domain, the policy in force, the
ledger, its database, the other servers, and when its certificates end. What needs attention is printed as
warnings on standard error too.`,
		Example: `  assay server status
  assay server status --admin /tmp/assay/admin.sock --output json
  assay server status --admin assay.example.org:8444 --admin-root root.pem --admin-svid alice.pem`,
		Args: cobra.NoArgs,
	}
	socket := adminFlag(c)
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		a, err := openAdmin(*socket, "name the socket with --admin SOCKET")
		if err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // nothing was written
		r, err := a.Status(c.Context(), &assayv1.StatusRequest{})
		if err != nil {
			return a.explain(err)
		}
		s := statusOf(r)
		for _, w := range s.Warnings {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), s)
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("assayd %s for the %s trust domain %s", s.Version, s.Kind, s.TrustDomain)
		ready := "yes"
		if !s.Ready {
			ready = "no: " + s.NotReady
		}
		p.Facts(
			cli.Fact{Name: "server", Value: s.Server},
			cli.Fact{Name: "ready", Value: ready},
			cli.Fact{Name: "database", Value: s.Database},
			cli.Fact{Name: "started", Value: stamp(s.Started)},
			cli.Fact{Name: "platforms", Value: strings.Join(s.Platforms, ", ")},
			cli.Fact{Name: "policy", Value: s.Policy},
			cli.Fact{Name: "policy digest", Value: s.PolicyDigest.String()},
			cli.Fact{Name: "issued since start", Value: fmt.Sprint(s.IssuedTotal)},
			cli.Fact{Name: "denied since start", Value: fmt.Sprint(s.DeniedTotal)},
			cli.Fact{Name: "ledger", Value: fmt.Sprintf("%s, %d under a signed checkpoint", cli.Count(s.LedgerSize, "entry", "entries"), s.CheckpointSize)},
			cli.Fact{Name: "authority ends", Value: stamp(s.AuthorityNotAfter)},
			cli.Fact{Name: "server certificate ends", Value: stamp(s.ServerCertificateNotAfter)},
			cli.Fact{Name: "attestations in flight", Value: fmt.Sprint(s.AttestationsInFlight)},
			cli.Fact{Name: "open watches", Value: fmt.Sprint(s.Watches)},
		)
		if len(s.Members) > 0 {
			rows := make([][]string, len(s.Members))
			for i, m := range s.Members {
				rows[i] = []string{m.Name, stamp(m.Joined), fmt.Sprint(m.LedgerSize), stampOr(m.LastEntry, "-")}
			}
			p.Linef("")
			p.Table([]string{"other server", "joined", "entries", "last entry"}, rows)
		}
		return p.Err()
	}
	return c
}
