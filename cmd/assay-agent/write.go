package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/internal/cli"
)

// writeFiles writes every SVID, its key and its bundle. The key comes last:
// who waits for it finds the rest.
func writeFiles(c *cobra.Command, dir string, got []fetched) error {
	for _, g := range got {
		if g.svid.PrivateKey == nil {
			return cli.Usagef("a program asks the agent to sign instead: assay.agent.v1; or set key_residency: software in the agent's configuration", "the key of %s lives in the TPM and cannot be written", g.svid.ID)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cli.Usagef("choose a directory that you may write to", "%w", err)
	}
	if !inMemory(dir) {
		_, _ = fmt.Fprintf(c.ErrOrStderr(), "warning: %s is on a disk, which the host can read; a tmpfs is not\n", dir)
	}
	for i, g := range got {
		key, err := x509.MarshalPKCS8PrivateKey(g.svid.PrivateKey)
		if err != nil {
			return err
		}
		for _, f := range []struct {
			name    string
			mode    fs.FileMode
			content []byte
		}{
			{fmt.Sprintf("bundle.%d.pem", i), 0o644, certificates(g.bundle)},
			{fmt.Sprintf("svid.%d.pem", i), 0o644, certificates(g.svid.Certificates)},
			{fmt.Sprintf("svid.%d.key", i), 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})},
		} {
			if err := replace(filepath.Join(dir, f.name), f.mode, f.content); err != nil {
				return cli.Usagef("choose a directory that you may write to", "%w", err)
			}
		}
	}
	return nil
}

// replace puts a file in the place of another in one step. It has its mode from
// the first byte on.
func replace(path string, mode fs.FileMode, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if mode != 0o600 {
		err = errors.Join(err, f.Chmod(mode))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// inMemory reports whether a directory is on a tmpfs or ramfs.
func inMemory(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC
}
