package keys

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/assay-project/assay/attest"
)

// blockType is the PEM type of PKCS#8 (RFC 7468, section 10).
const blockType = "PRIVATE KEY"

// maxFile bounds what is read of a key file, in bytes.
const maxFile = 16 << 10

// LoadOrCreate returns the key in the file, and makes one where there is none
// and create is true. A key that is there is never replaced; it is refused when
// it is of another algorithm than alg.
func LoadOrCreate(path string, create bool, alg Algorithm) (crypto.Signer, error) {
	key, err := load(path)
	switch {
	case err == nil:
		if !alg.Is(key.Public()) {
			return nil, fault("key_type", path, fmt.Errorf("the key is a %T, want %v", key.Public(), alg),
				"restore the right key from a backup")
		}
		return key, nil
	case create && errors.Is(err, fs.ErrNotExist):
		return makeKey(path, alg)
	}
	return nil, err
}

// ReadKey reads a private key of any algorithm that signs, such as that of a CA
// which is not ours. The checks are those of key files.
func ReadKey(path string) (crypto.Signer, error) { return load(path) }

// fault is an error about one file, in the form in which the commands print it.
func fault(check, path string, err error, hint string) error {
	return &attest.Error{Kind: attest.Internal, Check: check, Err: fmt.Errorf("%s: %w", path, err), Hint: hint}
}

// load reads one key. The checks run on the open file, so that nothing can be
// exchanged between the check and the read:
//
//	key_file  it opens, without following a symbolic link; regular; not too large
//	key_owner it belongs to the user that runs the process
//	key_mode  nobody else can read or write it
//	key_parse it is one PKCS#8 PEM block and nothing else, of a key that signs
func load(path string) (crypto.Signer, error) {
	body, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(body)
	if err != nil {
		return nil, fault("key_parse", path, err, "restore the file from a backup")
	}
	return key, nil
}

// readPrivate reads a file that only its owner may read or write.
func readPrivate(path string) ([]byte, error) {
	// O_NONBLOCK: a FIFO under that name must not hang the start.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		hint := "check the path and its permissions"
		switch {
		case errors.Is(err, fs.ErrNotExist):
			hint = "restore it from a backup"
		case errors.Is(err, syscall.ELOOP):
			hint = "put the file itself there: symbolic links are refused"
		}
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fault("key_file", path, err, hint)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fault("key_file", path, err, "check the path and its permissions")
	}
	if !info.Mode().IsRegular() {
		return nil, fault("key_file", path, fmt.Errorf("not a regular file (%v)", info.Mode().Type()), "put a regular file there")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !ownedBy(st.Uid, os.Geteuid()) {
		return nil, fault("key_owner", path, errors.New("the file belongs to another user"),
			fmt.Sprintf("chown it to the user that runs this program (uid %d)", os.Geteuid()))
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fault("key_mode", path, fmt.Errorf("others may read or write it (mode %#o)", info.Mode().Perm()), "chmod 600 "+path)
	}
	body, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fault("key_file", path, err, "check the disk")
	}
	if len(body) > maxFile {
		return nil, fault("key_file", path, fmt.Errorf("more than %d bytes", maxFile), "this is not a key file")
	}
	return body, nil
}

func ownedBy(uid uint32, euid int) bool { return int64(uid) == int64(euid) }

// parseKey reads exactly one PKCS#8 PEM block.
func parseKey(body []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(body)
	switch {
	case block == nil:
		return nil, errors.New("no PEM block found")
	case block.Type != blockType:
		return nil, fmt.Errorf("PEM block %.40q, want %q (PKCS#8)", block.Type, blockType)
	case len(block.Headers) != 0:
		return nil, errors.New("the PEM block has headers: encrypted keys are not read")
	case len(rest) != 0:
		return nil, fmt.Errorf("%d bytes follow the key", len(rest))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("not a PKCS#8 key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return signer, nil
}

// makeKey draws a key and stores it under path.
func makeKey(path string, alg Algorithm) (crypto.Signer, error) {
	key, err := alg.generate()
	if err != nil {
		return nil, fault("key_create", path, err, "")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fault("key_create", path, err, "")
	}
	body := pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
	if err := WriteFile(path, body, 0o600, Refuse); err != nil {
		return nil, err
	}
	// What counts is what the disk holds: read it back before anything is signed.
	return load(path)
}

// Existing says what WriteFile does with a file that is already there.
type Existing int

// Refuse leaves it and fails with fs.ErrExist; Replace exchanges it in one step.
const (
	Refuse Existing = iota
	Replace
)

// WriteFile writes a file so that after a crash at any moment the path holds
// either what it held before or the whole new content, and so that the content
// is durable when it returns: temporary file in the same directory, sync, name,
// sync of the directory. The file has the given mode whatever the umask.
func WriteFile(path string, body []byte, mode fs.FileMode, existing Existing) error {
	return writeFile(path, body, mode, existing, func(string) error { return nil })
}

// The moments at which a crash can leave writeFile's work half done; tests stop
// at each of them.
const (
	stepOpened = "opened" // the temporary file is there, empty
	stepSynced = "synced" // the temporary file is complete
	stepNamed  = "named"  // the file has its name; the directory is not synced
)

func writeFile(path string, body []byte, mode fs.FileMode, existing Existing, at func(step string) error) error {
	dir, base := filepath.Split(path)
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return fault("key_create", path, err, "")
	}
	tmp := filepath.Join(dir, tempPrefix+base+"."+hex.EncodeToString(salt[:]))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return fault("key_create", path, err, "check that the directory exists and can be written to")
	}
	err = func() error {
		if err := at(stepOpened); err != nil {
			return err
		}
		if err := f.Chmod(mode); err != nil {
			return err
		}
		if _, err := f.Write(body); err != nil {
			return err
		}
		return f.Sync()
	}()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = at(stepSynced)
	}
	if err == nil {
		err = name(tmp, path, existing)
	}
	if err != nil {
		if !errors.Is(err, errCrash) {
			_ = os.Remove(tmp)
		}
		return fault("key_create", path, err, "check the directory's permissions and the disk's free space")
	}
	if err := at(stepNamed); err != nil {
		return fault("key_create", path, err, "")
	}
	return SyncDir(filepath.Dir(path))
}

// errCrash is what tests return to stop at a step as a killed process would:
// nothing is cleaned up.
var errCrash = errors.New("stopped here by a test")

// name gives the temporary file its final name. Link is the one call that
// fails, atomically, where the name is taken.
func name(tmp, path string, existing Existing) error {
	if existing == Replace {
		return os.Rename(tmp, path)
	}
	if err := os.Link(tmp, path); err != nil {
		return err
	}
	return os.Remove(tmp)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fault("key_create", dir, err, "")
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fault("key_create", dir, err, "check the disk")
	}
	return nil
}
