package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
)

// maxRootFile bounds a file of bootstrap roots, 64 KiB.
const maxRootFile = 64 << 10

// memberships are the trust domains: that of the file's own keys, then those of the
// list.
func (v validator) memberships() {
	c := &v.s.Config
	first := TrustDomain{c.TrustDomain, c.Server, c.BootstrapRoots, c.Identities}
	v.membership(v.doc.Root(), &first)
	if n := 1 + len(c.TrustDomains); n > agent.MaxTrustDomains {
		v.report(fmt.Sprintf("%d trust domains, at most %d", n, agent.MaxTrustDomains), "run a second agent, on a socket of its own", "trust_domains")
		return
	}
	list := v.doc.At("trust_domains")
	for i := range c.TrustDomains {
		n := list
		if i < len(list.Items) {
			n = list.Items[i]
		}
		v.membership(n, &c.TrustDomains[i])
	}
}

// membership is one trust domain, with its keys in the mapping n.
func (v validator) membership(n *strictyaml.Node, c *TrustDomain) {
	of := agent.Membership{Server: c.Server}
	at := func(key string) *strictyaml.Node {
		if x := n.Get(key); x != nil {
			return x
		}
		return n
	}
	item := func(key string, i int) *strictyaml.Node {
		if x := at(key); i < len(x.Items) {
			return x.Items[i]
		}
		return at(key)
	}
	td, err := CheckTrustDomain(c.TrustDomain)
	switch {
	case err != nil:
		v.doc.Report(at("trust_domain"), "trust_domain is not the name of a trust domain: "+err.Error(), "for example trust_domain: attested.example.org")
	case slices.ContainsFunc(v.s.Memberships, func(m agent.Membership) bool { return m.TrustDomain == td }):
		v.doc.Report(at("trust_domain"), "the trust domain "+td.Name()+" twice", "one server speaks for a trust domain; several of its servers share one address")
	default:
		of.TrustDomain = td
		if first := v.s.Memberships; len(first) > 0 && !first[0].TrustDomain.IsZero() && first[0].Simulated() != of.Simulated() {
			v.doc.Report(at("trust_domain"), "a simulated trust domain beside one that is not", "simulated ones stand for no hardware: run a second agent for them")
		}
		of.Identities = v.identities(c.Identities, td, item)
	}
	if n := len(c.Identities); n > attest.MaxKeys {
		v.doc.Report(at("identities"), fmt.Sprintf("%d identities, at most %d fit into one attestation", n, attest.MaxKeys), "")
	}
	if c.Server == "" {
		v.doc.Report(at("server"), "server is required", `for example server: "attest.example.org:8443"`)
	} else if err := agent.CheckServer(c.Server); err != nil {
		v.doc.Report(at("server"), "server is not an address: "+err.Error(), `for example server: "attest.example.org:8443"`)
	}
	if len(c.BootstrapRoots) == 0 {
		v.doc.Report(at("bootstrap_roots"), "no bootstrap root", "bootstrap_roots: [FILE]; `assayd bootstrap export` prints it. There is no insecure bootstrap")
	}
	for i := range c.BootstrapRoots {
		v.absolute(&c.BootstrapRoots[i])
		more, err := ReadRoots(c.BootstrapRoots[i])
		if err == nil {
			of.BootstrapRoots, err = of.BootstrapRoots.Add(more)
		}
		if err != nil {
			v.doc.Report(item("bootstrap_roots", i), "cannot use the bootstrap root: "+err.Error(), "`assayd bootstrap export` prints it as PEM")
		}
	}
	if named, err := of.BootstrapRoots.TrustDomain(); err == nil && !of.TrustDomain.IsZero() && named != of.TrustDomain {
		v.doc.Report(at("bootstrap_roots"), fmt.Sprintf("the bootstrap root is that of trust domain %s, not of %s", named, of.TrustDomain), "export the root of the right server")
	}
	v.s.Memberships = append(v.s.Memberships, of)
}

// identities are the names to ask for; item is where the i-th of a key is.
func (v validator) identities(list []string, td spiffeid.TrustDomain, item func(key string, i int) *strictyaml.Node) (out []spiffeid.ID) {
	example := "for example spiffe://" + td.Name() + "/payments/api"
	for i, s := range list {
		id, err := spiffeid.FromString(s)
		switch {
		case err != nil:
			v.doc.Report(item("identities", i), "not a SPIFFE ID: "+err.Error(), example)
		case !id.MemberOf(td) || id.Path() == "":
			v.doc.Report(item("identities", i), "not the name of a workload in the trust domain "+td.Name(), example)
		case slices.Contains(out, id):
			v.doc.Report(item("identities", i), "the same SPIFFE ID twice", "")
		default:
			out = append(out, id)
		}
	}
	return out
}

// CheckTrustDomain parses the bare name of a trust domain.
func CheckTrustDomain(name string) (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	switch {
	case name == "":
		return spiffeid.TrustDomain{}, errors.New("it is empty")
	case strings.Contains(name, "://"):
		return spiffeid.TrustDomain{}, errors.New("it has a scheme; the name alone is wanted")
	case err != nil:
		return spiffeid.TrustDomain{}, err
	case td.Name() != name:
		return spiffeid.TrustDomain{}, fmt.Errorf("want the bare name %q", td.Name())
	}
	return td, nil
}

// ReadRoots reads a file of bootstrap roots.
func ReadRoots(path string) (agent.BootstrapRoots, error) {
	b, err := cli.ReadFile(path, maxRootFile)
	if err != nil {
		return agent.BootstrapRoots{}, err
	}
	r, err := agent.ParseBootstrapRoots(b)
	if err != nil {
		return agent.BootstrapRoots{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
