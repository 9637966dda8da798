package main

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/svid"
)

// requirementFlags are what a relying party may demand.
type requirementFlags struct {
	pcrs      []string
	measured  []string
	attrs     []string
	domains   []string
	tees      []string
	ids       []string
	policies  []string
	minTier   string
	maxAge    time.Duration
	owned     bool
	simulated bool
	set       func(name string) bool
}

func (r *requirementFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&r.ids, "id", nil, "demand this `SPIFFE-ID`; repeated: one of them")
	f.StringArrayVar(&r.pcrs, "pcr", nil, "demand a published register, `N=HEX`; repeated for one N: one of the values")
	f.StringArrayVar(&r.measured, "measurement", nil, "demand a published measurement, `NAME=HEX`; repeated for one name: one of the values")
	f.StringArrayVar(&r.attrs, "attribute", nil, "demand an attribute that the policy gave, `KEY=VALUE`; repeated: all of them")
	f.StringArrayVar(&r.domains, "member-of", nil, "demand a SPIFFE ID of this `TRUST-DOMAIN`")
	f.StringArrayVar(&r.tees, "tee", nil, "demand this `TEE`; repeated: one of them")
	f.StringArrayVar(&r.policies, "policy", nil, "demand this policy, `NAME` or NAME@REVISION; repeated: one of them")
	f.StringVar(&r.minTier, "min-tier", "", "demand a status of this `TIER` or better: affirming, warning, none, contraindicated (default: all but contraindicated)")
	f.DurationVar(&r.maxAge, "max-age", 0, "demand evidence no older than this, such as 2h")
	f.BoolVar(&r.owned, "owned", false, "demand that the policy had proof of who launched the workload")
	f.BoolVar(&r.simulated, "allow-simulated", false, "accept a simulated result: for tests, never in production")
	cli.Complete(c, "tee", platformNames()...)
	cli.Complete(c, "min-tier", svid.Affirming.String(), svid.Warning.String(), svid.None.String(), svid.Contraindicated.String())
	r.set = f.Changed
}

// platformNames are all that there are, whether or not this build verifies their
// evidence: a result is read without that.
func platformNames() (out []string) {
	for _, p := range attest.Platforms() {
		out = append(out, string(p))
	}
	return out
}

// build turns the flags into requirements; anything that could never hold, or
// would demand nothing, is a usage error.
func (r *requirementFlags) build() ([]svid.Requirement, error) {
	var out []svid.Requirement
	if len(r.ids) > 0 {
		var ids []spiffeid.ID
		for _, s := range r.ids {
			id, err := spiffeid.FromString(s)
			if err != nil {
				return nil, cli.Usagef("as in spiffe://example.org/payments/api", "--id %q: %w", s, err)
			}
			ids = append(ids, id)
		}
		out = append(out, svid.ID(ids...))
	}
	if len(r.tees) > 0 {
		var ps []attest.Platform
		for _, s := range r.tees {
			p, err := attest.ParsePlatform(s)
			if err != nil {
				return nil, cli.Usagef("", "--tee: %w", err)
			}
			ps = append(ps, p)
		}
		out = append(out, svid.Tee(ps...))
	}
	pcrs, err := parsePCRs(r.pcrs)
	if err != nil {
		return nil, err
	}
	for _, p := range pcrs {
		out = append(out, svid.PCR(p.index, p.values...))
	}
	named, err := parseMeasurements(r.measured)
	if err != nil {
		return nil, err
	}
	for _, m := range named {
		out = append(out, svid.Measurement(m.name, m.values...))
	}
	for _, s := range r.attrs {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, cli.Usagef("as in --attribute team=payments", "--attribute %q: want KEY=VALUE", s)
		}
		out = append(out, svid.Attribute(k, v))
	}
	for _, s := range r.domains {
		td, err := spiffeid.TrustDomainFromString(s)
		if err != nil {
			return nil, cli.Usagef("as in attested.example.org", "--member-of %q: %w", s, err)
		}
		out = append(out, svid.MemberOf(td))
	}
	if len(r.policies) > 0 {
		for _, s := range r.policies {
			if s == "" {
				return nil, cli.Usagef("", "--policy is empty")
			}
		}
		out = append(out, svid.Policy(r.policies...))
	}
	if r.set("min-tier") {
		var t svid.Tier
		if err := t.UnmarshalText([]byte(r.minTier)); err != nil {
			return nil, cli.Usagef("", "--min-tier: %w", err)
		}
		out = append(out, svid.MinTier(t))
	}
	if r.set("max-age") {
		if r.maxAge <= 0 {
			return nil, cli.Usagef("as in 2h or 90m", "--max-age %s: must be more than nothing", r.maxAge)
		}
		out = append(out, svid.MaxAge(r.maxAge))
	}
	if r.owned {
		out = append(out, svid.Owned())
	}
	if r.simulated {
		out = append(out, svid.Simulated())
	}
	return out, nil
}

type pcrValues struct {
	index  int
	values []attest.Bytes
}

func parsePCRs(flags []string) ([]pcrValues, error) {
	var out []pcrValues
	const hint = "as in --pcr 0=9f3c…, with 96 hexadecimal digits (SHA-384; Nitro Enclaves), or 64 (SHA-256; a TPM's bank)"
next:
	for _, s := range flags {
		n, digits, ok := strings.Cut(s, "=")
		index, err := strconv.Atoi(n)
		if !ok || err != nil || index < 0 || index > 31 {
			return nil, cli.Usagef(hint, "--pcr %q: want N=HEX with N from 0 to 31", s)
		}
		v, err := hex.DecodeString(digits)
		if err != nil || len(v) != 48 && len(v) != 32 {
			return nil, cli.Usagef(hint, "--pcr %d: the value is not 48 or 32 bytes in hexadecimal", index)
		}
		if zero(v) {
			return nil, cli.Usagef("an all-zero register is one that nothing was measured into, as in debug mode", "--pcr %d: an all-zero value never matches", index)
		}
		for i := range out {
			if out[i].index == index {
				out[i].values = append(out[i].values, v)
				continue next
			}
		}
		out = append(out, pcrValues{index, []attest.Bytes{v}})
	}
	return out, nil
}

type namedValues struct {
	name   string
	values []attest.Bytes
}

func parseMeasurements(flags []string) ([]namedValues, error) {
	var out []namedValues
next:
	for _, s := range flags {
		name, digits, ok := strings.Cut(s, "=")
		v, err := hex.DecodeString(digits)
		if !ok || name == "" || err != nil || len(v) == 0 || zero(v) {
			return nil, cli.Usagef("as in --measurement measurement=7be1…, by the name that `assay svid inspect` shows", "--measurement %.80q: want NAME=HEX, not all zero", s)
		}
		for i := range out {
			if out[i].name == name {
				out[i].values = append(out[i].values, v)
				continue next
			}
		}
		out = append(out, namedValues{name, []attest.Bytes{v}})
	}
	return out, nil
}
