package keys

import (
	"bytes"
	"errors"
)

// ReadSecret reads a file with a PIN, a password or a token: a regular file that
// belongs to this user and that nobody else can read or write. A line break at
// its end is left out. The checks are those of key files.
func ReadSecret(path string) ([]byte, error) {
	body, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	body = bytes.TrimSuffix(bytes.TrimSuffix(body, []byte("\n")), []byte("\r"))
	switch {
	case len(body) == 0:
		return nil, fault("secret_file", path, errors.New("the file is empty"), "write the secret to it, on one line")
	case bytes.ContainsAny(body, "\n\r\x00"):
		return nil, fault("secret_file", path, errors.New("the file has more than one line"), "write the secret to it, on one line")
	}
	return body, nil
}
