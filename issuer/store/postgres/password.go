package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// maxPassword bounds a password file, in bytes.
const maxPassword = 4096

// password gives a new connection the password as the file has it now.
func (s *Store) password(_ context.Context, c *pgx.ConnConfig) error {
	p, err := readPassword(s.cfg.PasswordFile)
	if err != nil {
		return err
	}
	c.Password = p
	return nil
}

// readPassword reads the first line, as libpq would. The error never quotes it.
func readPassword(path string) (string, error) {
	const check = "database_password"
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would be waited for
	if err != nil {
		return "", fault(check, err, "database.password_file names it")
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", fault(check, err, "database.password_file names it")
	case !info.Mode().IsRegular():
		return "", fault(check, fmt.Errorf("%s is not a regular file (%v)", path, info.Mode().Type()), "database.password_file names it")
	case info.Mode().Perm()&0o077 != 0:
		return "", fault(check, fmt.Errorf("%s: others may read or write it (mode %#o)", path, info.Mode().Perm()), "chmod 600 "+path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return "", fault(check, err, "database.password_file names it")
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 || len(b) > maxPassword {
		return "", fault(check, errors.New(path+" does not hold a password on its first line"), "write it there, and nothing else")
	}
	return string(line), nil
}
