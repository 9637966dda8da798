package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/enclave-agent/files"
	"github.com/assay-project/assay/internal/cli"
)

func fetchJWTCommand() *cobra.Command {
	var (
		f         socketFlags
		audiences []string
		id        string
		output    string
		writeTo   string
		onDisk    bool
		timeout   time.Duration
	)
	c := &cobra.Command{
		Use:   "jwt --audience AUDIENCE",
		Short: "Fetch a JWT-SVID from the running agent",
		Long: `fetch jwt asks the running agent for a JWT-SVID through the Workload API, as a
workload would, and prints it. A token belongs to whoever holds it: give it one
audience, and keep it off disks and out of logs.

With --write FILE the token goes into a file (0600, replaced at once), as cloud
SDKs read it: AWS_WEB_IDENTITY_TOKEN_FILE, or the file of a GCP credential
configuration. It is good for minutes; whoever reads it later needs a new one:
` + "`assay-agent run --write DIR --jwt AUDIENCE=FILE`" + ` keeps one fresh. FILE must be on a
tmpfs or ramfs, in a directory that nobody else can change, unless
--keys-on-disk-unsafe and the policy (key_residency: file) both say otherwise.`,
		Example: "  assay-agent fetch jwt --audience sts.amazonaws.com\n  assay-agent fetch jwt --audience vault --write /run/orders/token\n  assay-agent fetch jwt --audience reports --spiffe-id spiffe://example.org/orders --output json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return cli.Usagef("use --output text or --output json", "unknown output format %q", output)
			}
			if len(audiences) == 0 {
				return cli.Usagef("for example --audience sts.amazonaws.com", "a token needs an audience: who is to be shown it")
			}
			path, err := f.find(c)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			got, err := fetchTokens(ctx, path, &workload.JWTSVIDRequest{Audience: audiences, SpiffeId: id})
			if err != nil {
				return err
			}
			if len(got) > 1 && (writeTo != "" || output == "text") {
				var ids []string
				for _, t := range got {
					ids = append(ids, t.SPIFFEID)
				}
				return cli.Usagef("name one with --spiffe-id, or use --output json", "policy grants this audience to several identities: %s", strings.Join(ids, ", "))
			}
			if writeTo != "" {
				return writeToken(ctx, c, path, writeTo, got[0], onDisk)
			}
			return showTokens(c.OutOrStdout(), output, got)
		},
	}
	f.add(c)
	c.Flags().StringArrayVar(&audiences, "audience", nil, "who is to be shown the token; repeat it for several, which can then pass it on to each other")
	c.Flags().StringVar(&id, "spiffe-id", "", "the identity, where the agent has several")
	c.Flags().StringVar(&output, "output", "text", "output format: text (the token alone) or json")
	cli.Complete(c, "output", "text", "json")
	c.Flags().StringVar(&writeTo, "write", "", "write the token into this file instead of printing it")
	addUnsafe(c, &onDisk)
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for an identity and its token")
	return c
}

// writeToken puts a token into a file.
func writeToken(ctx context.Context, c *cobra.Command, socket, path string, t fetchedToken, onDisk bool) error {
	dir, err := openDir(filepath.Dir(path), files.Options{OnDiskUnsafe: onDisk})
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if dir.OnDisk() {
		if err := mayBeOnDisk(ctx, c, socket, []string{t.SPIFFEID}); err != nil {
			return err
		}
	}
	if err := dir.Replace(files.File{Name: filepath.Base(path), Secret: true, Content: []byte(t.Token)}); err != nil {
		return cli.Usagef("choose a file that you may write to", "%w", err)
	}
	return nil
}

// fetchedToken is a token as it is printed.
type fetchedToken struct {
	SPIFFEID  string    `json:"spiffe_id"`
	Audience  []string  `json:"audience"`
	ExpiresAt time.Time `json:"expires_at"`
	Token     string    `json:"token"`
}

// fetchTokens waits for an identity, and returns what the agent hands out then.
func fetchTokens(ctx context.Context, path string, r *workload.JWTSVIDRequest) ([]fetchedToken, error) {
	conn, err := dialAgent(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	client := workload.NewSpiffeWorkloadAPIClient(conn)
	withHeader := metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	for {
		answer, err := client.FetchJWTSVID(withHeader, r)
		if err == nil {
			return parseTokens(answer, r.GetAudience())
		}
		said := status.Convert(err).Message()
		switch status.Code(err) { //nolint:exhaustive // every other code is final
		case codes.PermissionDenied:
			// Without an identity it is the same code: an agent that is still attesting.
			if h, herr := askHealth(ctx, path); herr == nil && h.verdict() == nil {
				return nil, why(path, r.GetSpiffeId(), err)
			}
			if wait(ctx) {
				continue
			}
			return nil, why(path, r.GetSpiffeId(), err)
		case codes.InvalidArgument:
			return nil, cli.Usagef("see `assay-agent fetch jwt --help`", "%s", said)
		case codes.DeadlineExceeded:
			return nil, why(path, r.GetSpiffeId(), err)
		case codes.Unavailable:
			if h, herr := askHealth(ctx, path); herr == nil {
				if v := h.verdict(); v != nil {
					return nil, v
				}
				return nil, &attest.Error{Kind: attest.Unavailable, Check: "token", Err: errors.New(said), Hint: "the agent holds an identity; its log says why the server mints no token"}
			}
			return nil, noAgent(path, err)
		case codes.Unimplemented:
			return nil, &attest.Error{Kind: attest.Unavailable, Check: "token", Err: errors.New(said), Hint: "the server, or the agent, is of an older version"}
		}
		return nil, noAgent(path, err)
	}
}

func parseTokens(r *workload.JWTSVIDResponse, audience []string) ([]fetchedToken, error) {
	var out []fetchedToken
	for _, m := range r.GetSvids() {
		// The agent has verified it; here it is only read.
		v, err := jwtsvid.ParseInsecure(m.GetSvid(), audience)
		if err != nil {
			return nil, &attest.Error{Kind: attest.Malformed, Check: "token", Err: err}
		}
		out = append(out, fetchedToken{v.ID.String(), v.Audience, v.Expiry.UTC(), m.GetSvid()})
	}
	if len(out) == 0 {
		return nil, &attest.Error{Kind: attest.Malformed, Check: "token", Err: errors.New("the agent answered without a token")}
	}
	return out, nil
}

func showTokens(w io.Writer, output string, got []fetchedToken) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"svids": got})
	}
	_, err := fmt.Fprintln(w, got[0].Token)
	return err
}
