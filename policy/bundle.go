package policy

import (
	"slices"
	"strconv"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// Bundle is a compiled policy. It is immutable and safe for concurrent use;
// [Parse] makes it. The zero Bundle has no workloads and denies everything.
type Bundle struct {
	name        string
	revision    uint64
	trustDomain string
	digest      [32]byte
	warnings    strictyaml.Errors
	workloads   []*workload
	byTEE       map[attest.Platform][]*workload
	chips       map[chip]struct{} // of enforced SEV-SNP workloads
	dated       []dated
}

// dated is a place in the file whose validity ends.
type dated struct {
	what    string
	until   time.Time
	problem *strictyaml.Error
}

// Name is the bundle's name.
func (b *Bundle) Name() string { return b.name }

// Revision is the number that only grows from one version of the bundle to the
// next.
func (b *Bundle) Revision() uint64 { return b.revision }

// Version is "name@revision", as attestation results carry it.
func (b *Bundle) Version() string { return b.name + "@" + strconv.FormatUint(b.revision, 10) }

// TrustDomain is the name of the trust domain that every identity is in.
func (b *Bundle) TrustDomain() string { return b.trustDomain }

// Digest is SHA-256 of the file's bytes.
func (b *Bundle) Digest() [32]byte { return b.digest }

// Warnings lists what is allowed and probably not meant, sorted by position.
func (b *Bundle) Warnings() strictyaml.Errors { return slices.Clone(b.warnings) }

// Expired lists the reference values and waivers whose validity has ended at
// the given time, sorted by position.
func (b *Bundle) Expired(at time.Time) strictyaml.Errors {
	var out strictyaml.Errors
	for _, d := range b.dated {
		if at.After(d.until) {
			e := *d.problem
			e.Msg = d.what + " expired at " + stamp(d.until)
			out = append(out, &e)
		}
	}
	return out
}

// WorkloadInfo describes one workload of a bundle, for listings.
type WorkloadInfo struct {
	Name      string          `json:"name"`
	Platform  attest.Platform `json:"tee"`
	Mode      string          `json:"mode"`
	Ownership bool            `json:"ownership"`  // has an ownership predicate
	SPIFFEIDs []string        `json:"spiffe_ids"` // templates, in policy order
}

// Workloads describes the workloads in the order of the file.
func (b *Bundle) Workloads() []WorkloadInfo {
	out := make([]WorkloadInfo, len(b.workloads))
	for i, w := range b.workloads {
		out[i] = WorkloadInfo{Name: w.name, Platform: w.tee.platform, Mode: w.mode, Ownership: w.ownership, SPIFFEIDs: []string{}}
		for _, id := range w.identities {
			out[i].SPIFFEIDs = append(out[i].SPIFFEIDs, id.template.source)
		}
	}
	return out
}

// The modes of a workload.
const (
	Enforce = "enforce" // may grant
	Audit   = "audit"   // is evaluated and recorded, and never grants
)

// workload is one compiled workload.
type workload struct {
	name       string
	tee        *tee
	mode       string
	rules      []*rule // in the order of the file, then implicit ones
	whole      bool    // every rule of the file was compiled
	ownership  bool
	waiver     *waiver
	when       []window // for lint: when it can match at all
	facts      []fact   // for lint: what its rules say about other claims
	identities []*identity
	publish    []string
	key        *strictyaml.Node // its name, for findings about the whole
}

// find returns the rule over a claim by name, or nil.
func (w *workload) find(claim string) *rule { return w.over(w.tee.byName[claim]) }

// over returns the rule over a claim, or nil.
func (w *workload) over(f *field) *rule {
	for _, r := range w.rules {
		if r.field == f {
			return r
		}
	}
	return nil
}

// rule is one compiled line of match.
type rule struct {
	field    *field
	op       string
	test     test
	position string
	implicit bool
}

// waiver is an ownership waiver: a dated, owned exception.
type waiver struct {
	reason, owner string
	expires       time.Time
	position      string
}

// identity is one compiled entry of issue.
type identity struct {
	template       *template
	x509TTL        time.Duration
	maxEvidenceAge time.Duration
	jwt            *JWT
	attributes     map[string]string
}

// stamp writes a moment as policies do.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
