package policy

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/internal/strictyaml"
)

// The types of selectors. What the kernel of the environment tells of a process:
const (
	SelectorUID              = "unix:uid"
	SelectorGID              = "unix:gid"
	SelectorSupplementaryGID = "unix:supplementary_gid"
	SelectorPath             = "unix:path"   // of the executable
	SelectorSHA256           = "unix:sha256" // of the executable
)

// Limits on selectors.
const (
	MaxSelectors        = 48
	maxSupplementary    = 16
	maxExecutable       = 512       // bytes of a path
	maxUnixID           = 1<<32 - 2 // 1<<32 - 1 is "no id" (setresuid(2))
	executableDigestLen = 32
)

// Selector is one thing that a process must show before an agent hands it an
// identity. A process must show all selectors of an identity.
type Selector struct {
	Type  string // one of the constants Selector…
	Value string // decimal, an absolute path, or hex in lower case
}

// selectors reads which processes get an identity; without the key, all do.
func (p *parser) selectors(n *strictyaml.Node) []Selector {
	if n == nil || !p.doc.Want(n, strictyaml.Mapping) {
		return nil
	}
	p.only(n, selectorKeys)
	if len(n.Fields) == 0 {
		p.doc.Report(n, "selectors name nothing: every process would match", "for example unix: {uid: 1000, path: /usr/bin/api}; or leave selectors out")
	}
	var out []Selector
	for _, x := range []struct {
		key  string
		keys keys
		read func(*strictyaml.Node) []Selector
	}{
		{"unix", unixKeys, p.unixSelectors},
		{"systemd", systemdKeys, p.systemdSelectors},
		{"docker", dockerKeys, p.dockerSelectors},
		{"k8s", kubernetesKeys, p.kubernetesSelectors},
	} {
		kind := n.Get(x.key)
		if kind == nil || !p.doc.Want(kind, strictyaml.Mapping) {
			continue
		}
		p.only(kind, x.keys)
		if len(kind.Fields) == 0 {
			p.doc.Report(kind, "selectors name nothing: every process would match", "for example unix: {uid: 1000}; or leave selectors out")
		}
		out = append(out, x.read(kind)...)
	}
	return out
}

func (p *parser) unixSelectors(unix *strictyaml.Node) []Selector {
	var out []Selector
	for _, x := range []struct{ key, kind string }{{"uid", SelectorUID}, {"gid", SelectorGID}} {
		if v := unix.Get(x.key); v != nil {
			if id, ok := p.unixID(v); ok {
				out = append(out, Selector{x.kind, id})
			}
		}
	}
	out = append(out, p.supplementary(unix.Get("supplementary_gids"))...)
	if v := unix.Get("path"); v != nil {
		if s, ok := p.doc.Text(v); ok {
			if !absolute(s) {
				p.doc.Report(v, fmt.Sprintf("not the path of an executable: %q", clip(s)), fmt.Sprintf("absolute, as the kernel shows it: without links, .. and doubled slashes, at most %d bytes", maxExecutable))
			} else {
				out = append(out, Selector{SelectorPath, s})
			}
		}
	}
	if v := unix.Get("sha256"); v != nil {
		if d, ok := (digest{executableDigestLen}).parse(p.doc, v); ok {
			out = append(out, Selector{SelectorSHA256, hex.EncodeToString([]byte(d))})
		}
	}
	return out
}

func (p *parser) supplementary(n *strictyaml.Node) []Selector {
	if n == nil || !p.doc.Want(n, strictyaml.Sequence) {
		return nil
	}
	if len(n.Items) == 0 || len(n.Items) > maxSupplementary {
		p.doc.Report(n, fmt.Sprintf("supplementary_gids has %d entries, want 1 to %d", len(n.Items), maxSupplementary), "a process must be in all of them")
	}
	var out []Selector
	for _, item := range n.Items[:min(len(n.Items), maxSupplementary)] {
		id, ok := p.unixID(item)
		s := Selector{SelectorSupplementaryGID, id}
		switch {
		case !ok:
		case slices.Contains(out, s):
			p.doc.Report(item, fmt.Sprintf("the group %s is listed twice", id), "")
		default:
			out = append(out, s)
		}
	}
	return out
}

func (p *parser) unixID(n *strictyaml.Node) (string, bool) {
	id, ok := p.doc.Uint(n, 64)
	if ok && id > maxUnixID {
		p.doc.Report(n, fmt.Sprintf("there is no id %d", id), fmt.Sprintf("from 0 to %d", maxUnixID))
		return "", false
	}
	return strconv.FormatUint(id, 10), ok
}

func absolute(s string) bool {
	return len(s) > 1 && len(s) <= maxExecutable && s[0] == '/' && path.Clean(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
