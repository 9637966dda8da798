package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/metadata"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/enclave-agent/files"
	"github.com/assay-project/assay/internal/cli"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

// writeFiles writes every SVID, its key and its bundle, once. The key comes last:
// who waits for it finds the rest.
func writeFiles(ctx context.Context, c *cobra.Command, socket, path string, got []fetched, noKeys, onDisk bool) error {
	if !noKeys {
		for _, g := range got {
			if g.svid.PrivateKey == nil {
				return cli.Usagef("a program asks the agent to sign instead: assay.agent.v1; or set key_residency: software in the agent's configuration; or write certificates alone with --no-keys", "the key of %s lives in the TPM and cannot be written", g.svid.ID)
			}
		}
	}
	// Certificates are nobody's secret.
	dir, err := openDir(path, files.Options{OnDiskUnsafe: onDisk || noKeys})
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if dir.OnDisk() && !noKeys {
		if err := mayBeOnDisk(ctx, c, socket, ids(got)); err != nil {
			return err
		}
	}
	var all []files.File
	for i, g := range got {
		all = append(all,
			files.File{Name: fmt.Sprintf("bundle.%d.pem", i), Content: files.Certificates(g.bundle)},
			files.File{Name: fmt.Sprintf("svid.%d.pem", i), Content: files.Certificates(g.svid.Certificates)})
	}
	for td, certs := range got[0].federated {
		all = append(all, files.File{Name: "federated." + td + ".pem", Content: files.Certificates(certs)})
	}
	for i, g := range got {
		if noKeys {
			break
		}
		key, err := files.PrivateKey(g.svid.PrivateKey)
		if err != nil {
			return err
		}
		all = append(all, files.File{Name: fmt.Sprintf("svid.%d.key", i), Content: key, Secret: true})
	}
	for _, f := range all {
		if err := dir.Replace(f); err != nil {
			return cli.Usagef("choose a directory that you may write to", "%w", err)
		}
	}
	return nil
}

func ids(got []fetched) []string {
	var out []string
	for _, g := range got {
		out = append(out, g.svid.ID.String())
	}
	return out
}

// mayBeOnDisk wants policy to permit keys and tokens of the identities on a disk.
func mayBeOnDisk(ctx context.Context, c *cobra.Command, socket string, ids []string) error {
	conn, err := dialAgent(socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	all, err := agentv1.NewAgentClient(conn).GetIdentities(metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true"), &agentv1.GetIdentitiesRequest{})
	if err != nil {
		return noAgent(socket, err)
	}
	var permitted, refused []string
	for _, x := range all.GetIdentities() {
		if x.GetKeysOnDisk() {
			permitted = append(permitted, x.GetSpiffeId())
		} else {
			refused = append(refused, x.GetSpiffeId())
		}
	}
	for _, id := range ids {
		if !slices.Contains(permitted, id) || slices.Contains(refused, id) {
			return &attest.Error{
				Kind: attest.Denied, Check: "key_residency", Err: errors.New("policy does not permit keys of " + id + " on a disk"),
				Hint: "use a directory on a tmpfs; or permit it in the policy: issue: … key_residency: file",
			}
		}
	}
	_, _ = fmt.Fprintln(c.ErrOrStderr(), "warning: this is written to a disk, which the host can read")
	return nil
}
