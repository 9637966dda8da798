package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// administration: administrators are of a trust domain of their own. One that
// this process issues for could make its own administrators.
func (v validator) administration() {
	a := v.c.Administration
	if a.Listen == "" {
		if a.TrustDomain != "" || a.Bundle != "" || a.Roles.any() {
			v.report("administration is configured and not turned on", `set administration.listen, for example ":8445"`, "administration")
		}
		return
	}
	if err := checkAddress(a.Listen); err != nil {
		v.report("administration.listen is not an address: "+err.Error(), `for example listen: ":8445"`, "administration", "listen")
	}
	if a.Bundle == "" {
		v.report("administration.bundle is empty", "a PEM file with the X.509 authorities of the administrators' trust domain", "administration", "bundle")
	}
	td, err := spiffeid.TrustDomainFromString(a.TrustDomain)
	switch wrong := CheckTrustDomain(a.TrustDomain); {
	case wrong != nil || err != nil:
		v.report(fmt.Sprintf("administration.trust_domain is not the name of a trust domain: %v", wrong), "for example trust_domain: admins.example.org", "administration", "trust_domain")
		return
	case a.TrustDomain == v.c.TrustDomain:
		v.report("administration.trust_domain is the one that this server issues for", "its policy could make administrators; give them a trust domain of their own", "administration", "trust_domain")
		return
	}
	if !a.Roles.any() {
		v.report("administration.roles names nobody", "for example roles: {operator: [spiffe://"+a.TrustDomain+"/alice]}", "administration", "roles")
	}
	bound := map[string]string{}
	for _, r := range a.Roles.all() {
		for i, id := range r.ids {
			at := []string{"administration", "roles", r.name, strconv.Itoa(i)}
			parsed, err := spiffeid.FromString(id)
			switch {
			case err != nil:
				v.report(fmt.Sprintf("%.100q is not a SPIFFE ID: %v", id, err), "for example spiffe://"+a.TrustDomain+"/alice", at...)
			case !parsed.MemberOf(td):
				v.report(fmt.Sprintf("%s is not of the trust domain %s", id, td.Name()), "roles are bound to IDs of administration.trust_domain", at...)
			case parsed.Path() == "":
				v.report(fmt.Sprintf("%s has no path", id), "for example spiffe://"+a.TrustDomain+"/alice", at...)
			case bound[id] != "":
				v.report(fmt.Sprintf("%s has the role %s already", id, bound[id]), "each role includes the one before it", at...)
			default:
				bound[id] = r.name
			}
		}
	}
}

type role struct {
	name string
	ids  []string
}

func (r Roles) all() []role {
	return []role{{"viewer", r.Viewer}, {"policy_author", r.PolicyAuthor}, {"operator", r.Operator}}
}

func (r Roles) any() bool { return len(r.Viewer)+len(r.PolicyAuthor)+len(r.Operator) > 0 }

func joined(path []string) string { return strings.Join(path, ".") }
