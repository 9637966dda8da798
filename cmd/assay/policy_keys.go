package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy/signed"
)

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 16 << 10

// signerKinds makes keys by the names of --algorithm.
var signerKinds = []struct {
	name string
	make func() (crypto.Signer, error)
}{
	{"es256", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }},
	{"es384", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }},
	{"eddsa", func() (crypto.Signer, error) { _, k, err := ed25519.GenerateKey(rand.Reader); return k, err }},
}

// policyKey is the JSON output of `policy keygen`.
type policyKey struct {
	KeyID      attest.Bytes `json:"key_id"`
	PublicFile string       `json:"public_file"`
	File       string       `json:"file"`
}

func policyKeygenCommand() *cobra.Command {
	var names []string
	for _, k := range signerKinds {
		names = append(names, k.name)
	}
	c := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key to sign policies with",
		Long: `Make a key to sign policies with: KEY, which is yours alone (PKCS#8 in PEM, mode
0600), and the public key beside it, KEY.pub, for policy_signers in the server's
configuration. Nothing is overwritten. A key that another tool made does as well:
ECDSA on P-256 or P-384, or Ed25519.`,
		Example: `  assay policy keygen --out alice
  assay policy keygen --out alice --algorithm eddsa`,
		Args: cobra.NoArgs,
	}
	var out, algorithm string
	c.Flags().StringVar(&out, "out", "", "`KEY` file to make; the public key goes to KEY.pub")
	c.Flags().StringVar(&algorithm, "algorithm", names[0], "`"+strings.Join(names, "|")+"`")
	// The flags exist: they were added above.
	_ = c.MarkFlagRequired("out")
	_ = c.RegisterFlagCompletionFunc("algorithm", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		made, err := makePolicyKey(out, algorithm, names)
		if err != nil {
			return err
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), made)
		}
		p := cli.NewPage(c.OutOrStdout())
		p.Linef("key %s", made.KeyID)
		p.Facts(cli.Fact{Name: "private, yours alone", Value: made.File}, cli.Fact{Name: "public, for policy_signers", Value: made.PublicFile})
		return p.Err()
	}
	return c
}

func makePolicyKey(out, algorithm string, names []string) (*policyKey, error) {
	if out == "" || out == "-" {
		return nil, cli.Usagef("for example --out alice", "--out names no file")
	}
	for _, k := range signerKinds {
		if k.name != algorithm {
			continue
		}
		key, err := k.make()
		if err != nil {
			return nil, err
		}
		return writePolicyKey(out, key)
	}
	return nil, cli.Usagef("one of "+strings.Join(names, ", "), "unknown algorithm %q", algorithm)
}

func writePolicyKey(out string, key crypto.Signer) (*policyKey, error) {
	id, err := signed.IDOf(key.Public())
	if err != nil {
		return nil, err
	}
	private, err := signed.EncodePrivateKey(key)
	if err != nil {
		return nil, err
	}
	public, err := signed.EncodePublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	made := &policyKey{KeyID: id[:], File: out, PublicFile: out + ".pub"}
	if err := createFile(made.File, private, 0o600); err != nil {
		return nil, err
	}
	if err := createFile(made.PublicFile, public, 0o644); err != nil {
		return nil, errors.Join(err, os.Remove(made.File)) // half a pair is of no use
	}
	return made, nil
}

// createFile writes a file that is not there yet.
func createFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return cli.Usagef("nothing is overwritten: choose another name", "%s is there already", path)
	}
	if err != nil {
		return cli.Usagef("", "%s", clean(err))
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(cli.Usagef("", "%s", clean(err)), os.Remove(path))
	}
	return nil
}

// privateKey reads a signer's private key. A file that others may read is
// refused: whoever read it could sign too.
func privateKey(path string) (_ crypto.Signer, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, cli.Usagef(fileHint(err), "%s", clean(err))
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, cli.Usagef("", "%s", clean(err))
	case !info.Mode().IsRegular():
		return nil, cli.Usagef("", "%s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, cli.Usagef("chmod 600 "+path+", and make a new key if somebody else may have read it",
			"%s: others may read or write the key (mode %04o)", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, cli.Usagef("", "%s", clean(err))
	}
	key, err := signed.ParsePrivateKey(text)
	if err != nil {
		return nil, cli.Usagef("`assay policy keygen` makes one; `openssl pkcs8 -topk8 -nocrypt` turns another form into PKCS#8", "%s is not a key to sign policies with: %w", path, err)
	}
	return key, nil
}

func privateKeys(paths []string) ([]crypto.Signer, error) {
	var out []crypto.Signer
	for _, path := range paths {
		k, err := privateKey(path)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// publicSigners reads the keys that must have signed; threshold 0 is all.
func publicSigners(paths []string, threshold int) (*signed.Signers, error) {
	var keys []crypto.PublicKey
	for _, path := range paths {
		text, err := cli.ReadFile(path, maxKeyFile)
		if err != nil {
			return nil, cli.Usagef(fileHint(err), "%s", clean(err))
		}
		k, err := signed.ParsePublicKey(text)
		if err != nil {
			return nil, cli.Usagef("`assay policy keygen` writes the public key to KEY.pub", "%s is not a policy signer's public key: %w", path, err)
		}
		keys = append(keys, k)
	}
	if threshold == 0 {
		threshold = len(keys)
	}
	s, err := signed.NewSigners(threshold, keys...)
	if err != nil {
		return nil, cli.Usagef("", "%w", err)
	}
	return s, nil
}

// keyIDs are key ids for output; never nil.
func keyIDs[K ~[32]byte | ~[]byte](ids []K) []attest.Bytes {
	out := make([]attest.Bytes, 0, len(ids))
	for _, id := range ids {
		b := make(attest.Bytes, 0, 32)
		for i := range len(id) {
			b = append(b, id[i])
		}
		out = append(out, b)
	}
	return out
}

// idList writes key ids for people.
func idList(ids []attest.Bytes) string {
	if len(ids) == 0 {
		return "-"
	}
	var out []string
	for _, id := range ids {
		out = append(out, id.String())
	}
	return strings.Join(out, " ")
}

// idFacts are key ids for people, one a line.
func idFacts(name string, ids []attest.Bytes) []cli.Fact {
	var out []cli.Fact
	for _, id := range ids {
		out = append(out, cli.Fact{Name: name, Value: id.String()})
	}
	return out
}
