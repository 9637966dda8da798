package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/cli"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

func statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Say how the running agent stands with each trust domain, and why",
		Long: `status asks the running agent through its socket. For each trust domain it says
what callers get, how the last attestation ended, when the next is due, and which
identities are held. After a denial the reference is what ` + "`assay ledger show`" + ` on
the server explains. Root and the agent's own user see all identities, everybody
else those that they may have. Nothing in it is secret.

It exits with 0 wherever an agent answers; healthcheck has exit codes.`,
		Example: "  assay-agent status\n  assay-agent status --output json",
		Args:    cobra.NoArgs,
	}
	return asking(c, func(ctx context.Context, path, output string) error {
		s, err := askStatus(ctx, path)
		if err != nil {
			return err
		}
		return s.write(c.OutOrStdout(), output, time.Now())
	})
}

// standing is how the agent stands, as it is printed.
type standing struct {
	TEE          string        `json:"tee"`
	TrustDomains []trustDomain `json:"trust_domains"` // in the order of the configuration
}

type trustDomain struct {
	TrustDomain string         `json:"trust_domain"`
	Server      string         `json:"server"`
	State       string         `json:"state"`  // "serving", "attesting", "no_identity" or "clock"
	Denied      bool           `json:"denied"` // the server's last word is a denial
	Last        *attempt       `json:"last"`   // the last attestation that ended; null before
	Next        *time.Time     `json:"next"`   // when the next is due; null while one is under way
	Ahead       float64        `json:"wall_clock_ahead_seconds"`
	Identities  []heldIdentity `json:"identities"`
}

type attempt struct {
	At        time.Time `json:"at"`
	Succeeded bool      `json:"succeeded"`
	Reference string    `json:"reference,omitempty"`
	Kind      string    `json:"kind,omitempty"`
	Check     string    `json:"check,omitempty"`
	Message   string    `json:"message,omitempty"`
	Hint      string    `json:"hint,omitempty"`
}

type heldIdentity struct {
	SPIFFEID string    `json:"spiffe_id"`
	NotAfter time.Time `json:"not_after"`
	Hint     string    `json:"hint,omitempty"`
}

func askStatus(ctx context.Context, path string) (*standing, error) {
	conn, err := dialAgent(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	m, err := agentv1.NewAgentClient(conn).GetStatus(metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true"), &agentv1.GetStatusRequest{})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil, cli.Usagef("use `assay-agent healthcheck`", "the agent is of a version that tells no status")
	case err != nil:
		return nil, noAgent(path, err)
	}
	out := &standing{TEE: m.GetTee(), TrustDomains: []trustDomain{}}
	for _, x := range m.GetTrustDomains() {
		td := trustDomain{
			TrustDomain: x.GetTrustDomain(), Server: x.GetServer(), State: stateName(x.GetState()), Denied: x.GetDenied(),
			Ahead: float64(x.GetWallClockAheadMs()) / 1000, Identities: []heldIdentity{},
		}
		if l := x.GetLast(); l != nil {
			td.Last = &attempt{moment(l.GetAtUnixMs()), l.GetSucceeded(), l.GetReference(), l.GetKind(), l.GetCheck(), l.GetMessage(), l.GetHint()}
		}
		if ms := x.GetNextUnixMs(); ms != 0 {
			at := moment(ms)
			td.Next = &at
		}
		for _, id := range x.GetIdentities() {
			td.Identities = append(td.Identities, heldIdentity{id.GetSpiffeId(), moment(id.GetNotAfterUnixMs()), id.GetHint()})
		}
		out.TrustDomains = append(out.TrustDomains, td)
	}
	return out, nil
}

// ended are the identities that were held, and are over.
func (s *standing) ended(now time.Time) []string {
	out := []string{}
	for _, td := range s.TrustDomains {
		for _, id := range td.Identities {
			if !id.NotAfter.After(now) {
				out = append(out, id.SPIFFEID)
			}
		}
	}
	return out
}

func moment(ms int64) time.Time { return time.UnixMilli(ms).UTC().Truncate(time.Second) }

func stateName(s agentv1.State) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATE_"))
}

func (s *standing) write(w io.Writer, output string, now time.Time) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "tee  %s\n", s.TEE)
	for _, td := range s.TrustDomains {
		td.text(&b, now)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (td *trustDomain) text(b *strings.Builder, now time.Time) {
	line := func(name, format string, a ...any) { fmt.Fprintf(b, "  %-10s%s\n", name, fmt.Sprintf(format, a...)) }
	fmt.Fprintf(b, "\n%s\n", td.TrustDomain)
	line("server", "%s", td.Server)
	words := map[string]string{
		"serving": "serving", "attesting": "nothing is served yet: the first attestation is under way",
		"no_identity": "nothing is served: there is no identity",
		"clock":       fmt.Sprintf("nothing is served: the wall clock is %s from the server's time", time.Duration(td.Ahead*float64(time.Second)).Abs().Round(time.Second)),
	}
	state, ok := words[td.State]
	if !ok {
		state = td.State
	}
	line("state", "%s", state)
	if td.Denied {
		line("", "the server's last word is a denial: what is held is served until it ends")
	}
	if l := td.Last; l != nil && l.Succeeded {
		line("attested", "%s%s", when(l.At, now), by(l.Reference))
	} else if l != nil {
		line("failed", "%s: %s, check %s%s", when(l.At, now), l.Kind, l.Check, by(l.Reference))
		line("", "%s", l.Message)
		if l.Hint != "" {
			line("", "hint: %s", l.Hint)
		}
	}
	if td.Next != nil {
		line("next", "%s", when(*td.Next, now))
	} else {
		line("next", "under way")
	}
	for _, id := range td.Identities {
		hint := ""
		if id.Hint != "" {
			hint = ", hint " + id.Hint
		}
		until := "until"
		if !id.NotAfter.After(now) {
			until = "ended"
		}
		line("identity", "%s, %s %s%s", id.SPIFFEID, until, when(id.NotAfter, now), hint)
	}
}

func by(reference string) string {
	if reference == "" {
		return ""
	}
	return ", reference " + reference
}

// when is a moment, and how far it is away.
func when(at, now time.Time) string {
	d := at.Sub(now).Round(time.Second)
	if d < 0 {
		return fmt.Sprintf("%s (%s ago)", at.Format(time.RFC3339), -d)
	}
	return fmt.Sprintf("%s (in %s)", at.Format(time.RFC3339), d)
}
