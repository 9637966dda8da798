package config

import (
	"fmt"
	"time"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// authorities: the next one is prepared when half of the time of the one before
// it is over, and must have been published for the propagation time before that
// one ends.
func (v validator) authorities() {
	a := v.c.Authorities
	v.between("authorities.propagation", a.Propagation, time.Second, 30*day)
	v.between("authorities.refresh_hint", a.RefreshHint, time.Second, day)
	for _, t := range []struct {
		key  string
		ttl  time.Duration
		most time.Duration
	}{
		{"x509_ttl", a.X509TTL, 10 * year},
		{"jwt_ttl", a.JWTTTL, year},
		{"verifier_ttl", a.VerifierTTL, 10 * year},
	} {
		v.between("authorities."+t.key, t.ttl, 10*time.Second, t.most)
		if t.ttl < 2*a.Propagation {
			v.report(fmt.Sprintf("authorities.%s is %s, less than twice the propagation time of %s", t.key, t.ttl, a.Propagation),
				"the next authority is prepared at half of it, and published for the propagation time before it signs", "authorities", t.key)
		}
	}
	if a.RefreshHint > a.Propagation {
		v.report(fmt.Sprintf("authorities.refresh_hint is %s, longer than the propagation time of %s", a.RefreshHint, a.Propagation),
			"who fetches the bundle that rarely would not know an authority that signs", "authorities", "refresh_hint")
	}
	u := a.Upstream
	switch {
	case u.Certificate == "" && u.Key != "":
		v.report("authorities.upstream.key without its certificate", "set authorities.upstream.certificate", "authorities", "upstream", "key")
	case u.Certificate == "" && u.Dedicated:
		v.report("authorities.upstream.dedicated without an upstream CA", "set authorities.upstream.certificate, or remove the line", "authorities", "upstream", "dedicated")
	}
}
