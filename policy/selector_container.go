package policy

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/internal/strictyaml"
)

// What the service manager, the container engine and the kubelet tell of it.
const (
	SelectorSystemdUnit         = "systemd:unit"
	SelectorDockerImageID       = "docker:image_id"
	SelectorDockerImageDigest   = "docker:image_digest"
	SelectorDockerName          = "docker:name"
	SelectorDockerLabel         = "docker:label" // "key:value"
	SelectorKubernetesNamespace = "k8s:namespace"
	SelectorKubernetesAccount   = "k8s:service_account"
	SelectorKubernetesPod       = "k8s:pod"
	SelectorKubernetesContainer = "k8s:container"
	SelectorKubernetesLabel     = "k8s:pod_label" // "key:value"
	SelectorKubernetesImage     = "k8s:image_digest"
)

const (
	maxSelectorText   = 255 // bytes
	maxSelectorLabels = 8
	imageDigestLen    = 32
	imagePrefix       = "sha256:"
)

func (p *parser) systemdSelectors(n *strictyaml.Node) []Selector {
	v := p.need(n, "unit", "for example unit: orders.service")
	s, ok := p.selectorText(v)
	if !ok {
		return nil
	}
	if !strings.HasSuffix(s, ".service") && !strings.HasSuffix(s, ".scope") || strings.ContainsRune(s, '/') {
		p.doc.Report(v, fmt.Sprintf("not the name of a unit: %q", clip(s)), "with its suffix: orders.service")
		return nil
	}
	return []Selector{{SelectorSystemdUnit, s}}
}

func (p *parser) dockerSelectors(n *strictyaml.Node) []Selector {
	out := slices.Concat(
		p.imageSelector(n.Get("image_id"), SelectorDockerImageID),
		p.imageSelector(n.Get("image_digest"), SelectorDockerImageDigest),
		p.textSelector(n.Get("name"), SelectorDockerName),
	)
	return append(out, p.labelSelectors(n.Get("labels"), SelectorDockerLabel)...)
}

func (p *parser) kubernetesSelectors(n *strictyaml.Node) []Selector {
	var out []Selector
	for _, x := range []struct{ key, kind string }{
		{"namespace", SelectorKubernetesNamespace}, {"service_account", SelectorKubernetesAccount},
		{"pod", SelectorKubernetesPod}, {"container", SelectorKubernetesContainer},
	} {
		out = append(out, p.textSelector(n.Get(x.key), x.kind)...)
	}
	// Names of pods, accounts and labels are anybody's in another namespace.
	p.need(n, "namespace", "for example namespace: shop")
	out = append(out, p.imageSelector(n.Get("image_digest"), SelectorKubernetesImage)...)
	return append(out, p.labelSelectors(n.Get("labels"), SelectorKubernetesLabel)...)
}

func (p *parser) textSelector(n *strictyaml.Node, kind string) []Selector {
	if s, ok := p.selectorText(n); ok {
		return []Selector{{kind, s}}
	}
	return nil
}

// selectorText is a name in one line; of no node there is none.
func (p *parser) selectorText(n *strictyaml.Node) (string, bool) {
	if n == nil {
		return "", false
	}
	s, ok := p.doc.Text(n)
	if ok && (s == "" || len(s) > maxSelectorText || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })) {
		p.doc.Report(n, fmt.Sprintf("not a name: %q", clip(s)), fmt.Sprintf("1 to %d bytes in one line", maxSelectorText))
		return "", false
	}
	return s, ok
}

// imageSelector is a digest as engines write it. A name with a tag says nothing:
// whoever may push can move it.
func (p *parser) imageSelector(n *strictyaml.Node, kind string) []Selector {
	if n == nil {
		return nil
	}
	s, ok := p.doc.Text(n)
	if !ok {
		return nil
	}
	sum, prefixed := strings.CutPrefix(s, imagePrefix)
	if b, err := hex.DecodeString(sum); !prefixed || err != nil || len(b) != imageDigestLen || strings.ToLower(sum) != sum {
		p.doc.Report(n, fmt.Sprintf("not the digest of an image: %q", clip(s)), "as the engine writes it: sha256: and 64 digits in lower case")
		return nil
	}
	return []Selector{{kind, s}}
}

// labelSelectors are labels that must all be there.
func (p *parser) labelSelectors(n *strictyaml.Node, kind string) []Selector {
	if n == nil || !p.doc.Want(n, strictyaml.Mapping) {
		return nil
	}
	if len(n.Fields) == 0 || len(n.Fields) > maxSelectorLabels {
		p.doc.Report(n, fmt.Sprintf("labels has %d entries, want 1 to %d", len(n.Fields), maxSelectorLabels), "all of which must be there")
		return nil
	}
	var out []Selector
	for _, f := range n.Fields {
		v, ok := p.selectorText(f.Value)
		if !ok {
			continue
		}
		key := f.Key.Value
		if key == "" || len(key) > maxSelectorText || strings.ContainsFunc(key, func(r rune) bool { return r == ':' || r < ' ' || r == 0x7f }) {
			p.doc.Report(f.Key, fmt.Sprintf("not the key of a label: %q", clip(key)), "without a colon, which parts key and value")
			continue
		}
		out = append(out, Selector{kind, key + ":" + v})
	}
	return out
}
