package policy

import (
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
	index       map[attest.Platform]*index
	rollout     *rollout          // nil: rollouts are undecided
	offline     bool              // for explanation alone: Authorize refuses
	chips       map[chip]struct{} // of enforced SEV-SNP workloads
	dated       []dated
	ttls        []lifetimeOf
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

// WorkloadInfo describes one workload of a bundle, for listings.
type WorkloadInfo struct {
	Name      string          `json:"name"`
	Platform  attest.Platform `json:"tee"`
	Mode      string          `json:"mode"`
	Rollout   string          `json:"rollout,omitempty"` // the share of the hardware, "10%", in mode rollout
	Ownership bool            `json:"ownership"`         // has an ownership predicate
	SPIFFEIDs []string        `json:"spiffe_ids"`        // templates, in policy order
}

// Workloads describes the workloads in the order of the file.
func (b *Bundle) Workloads() []WorkloadInfo {
	out := make([]WorkloadInfo, len(b.workloads))
	for i, w := range b.workloads {
		out[i] = WorkloadInfo{Name: w.name, Platform: w.tee.platform, Mode: w.mode, Ownership: w.ownership, SPIFFEIDs: []string{}}
		if w.mode == Rollout {
			out[i].Rollout = percent(w.rollout)
		}
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
	Rollout = "rollout" // grants to a share of the hardware
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
	expr       *placed // nil without one
	rollout    uint64  // the share of the hardware that it grants to, in hundredths of a percent
	rolloutAt  string  // its position
	silence    []*silence
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
	at       *strictyaml.Node // its claim, for findings; nil for an implicit rule
	waivers  []*ruleWaiver
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
	selectors      []Selector
	keysOnDisk     bool
	diskAt         *strictyaml.Node // where that is said
	hint           string
	hintAt         *strictyaml.Node
	at             *strictyaml.Node // for findings
}

// stamp writes a moment as policies do.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
