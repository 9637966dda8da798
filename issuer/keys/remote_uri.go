package keys

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// Location is where keys are, as a configuration says it.
type Location struct {
	Dir    string // a directory of files, see [OpenDir]
	Socket string // or the socket of an assay-signer, see [NewRemote]
}

// ParseLocation reads a location: the path of a directory, as it is or as
// `file:///var/lib/assay/keys`, or `signer:///run/assay-signer/signer.sock`. Paths
// are absolute. Nothing is opened.
func ParseLocation(s string) (Location, error) {
	bad := func(format string, a ...any) (Location, error) {
		return Location{}, &attest.Error{Kind: attest.Internal, Check: "key_location", Err: fmt.Errorf("%.200q: "+format, append([]any{s}, a...)...),
			Hint: "for example file:///var/lib/assay/keys or signer:///run/assay-signer/signer.sock"}
	}
	path, scheme := s, "file"
	if !strings.HasPrefix(s, "/") {
		u, err := url.Parse(s)
		switch {
		case err != nil:
			return bad("not a location of keys")
		case u.Host != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "":
			return bad("want a scheme and an absolute path, and nothing else")
		}
		path, scheme = u.Path, u.Scheme
	}
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) {
		return bad("the path is not absolute")
	}
	path = filepath.Clean(path)
	switch scheme {
	case "file":
		return Location{Dir: path}, nil
	case "signer":
		if _, err := NewRemote(path); err != nil {
			return Location{}, err
		}
		return Location{Socket: path}, nil
	}
	return bad("unknown scheme %q", scheme)
}

// Open returns the keys of one purpose. A directory must be there; a signer is
// asked only when a key is.
func (l Location) Open(purpose signerwire.Purpose) (Ring, error) {
	if l.Socket == "" {
		return OpenDir(l.Dir)
	}
	r, err := NewRemote(l.Socket)
	if err != nil {
		return nil, err
	}
	return r.For(purpose), nil
}
