package policy

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	mathbits "math/bits"
	"regexp"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// A workload in mode {rollout: 10%} grants to a tenth of the hardware. Which
// tenth is drawn by a keyed hash of the workload's name and of what names the
// hardware, so that
//
//   - an environment keeps its draw while it runs: it is granted at every renewal
//     or at none, whatever keys it makes;
//   - a share that grows keeps all whom it admitted before;
//   - nobody without the server's secret can tell beforehand who is admitted, or
//     choose it for an environment that runs. Who launches enclaves or guests draws
//     again with each launch: a rollout bounds what a mistake reaches, and is no
//     defence against whom the rules admit;
//   - the draws of two workloads are independent of each other.

// SecretSize is the length of the secret of rollouts, in bytes.
const SecretSize = 32

// rolloutScale is the number of shares that a rollout counts in: hundredths of a
// percent.
const rolloutScale = 100 * 100

// rolloutTag separates these hashes from all others under the same key.
const rolloutTag = "assay/v1 rollout"

// A rollout is shown as a rule of this name and operator.
const rolloutRule = "rollout"

// rollout decides for whom rollouts are; a nil one knows nothing.
type rollout struct {
	secret  []byte
	assumed draw // instead of a secret, see [Bundle.AssumeRollout]
}

// draw is whether a rollout admits an environment.
type draw int

const (
	drawUnknown draw = iota // without the secret
	drawnOut
	drawnIn
)

// WithSecret returns the bundle with the server's secret, by which its rollouts
// draw. Without one no workload in mode rollout grants anything. The secret has
// [SecretSize] random bytes; it is not of the file, and stays the same from one
// revision to the next.
func (b *Bundle) WithSecret(secret []byte) (*Bundle, error) {
	if len(secret) != SecretSize {
		return nil, fmt.Errorf("policy: the secret of rollouts has %d bytes, want %d", len(secret), SecretSize)
	}
	if bytes.Equal(secret, make([]byte, SecretSize)) {
		return nil, errors.New("policy: the secret of rollouts is all zero: it was never drawn")
	}
	out := *b
	out.rollout = &rollout{secret: bytes.Clone(secret)}
	return &out, nil
}

// AssumeRollout returns the bundle as it decides where every rollout admits, or
// none: for those who explain a policy and have no secret. It cannot authorize.
func (b *Bundle) AssumeRollout(admits bool) *Bundle {
	out := *b
	out.offline = true
	out.rollout = &rollout{assumed: drawnOut}
	if admits {
		out.rollout.assumed = drawnIn
	}
	return &out
}

// HasRollout reports whether a workload is in mode rollout, so that decisions
// depend on the server's secret.
func (b *Bundle) HasRollout() bool {
	for _, w := range b.workloads {
		if w.mode == Rollout {
			return true
		}
	}
	return false
}

// hardware is what a draw holds on to: what names the environment for as long as
// it runs, or longer. The SVID's key is none of it, for each renewal makes
// another.
func hardware(c *attest.Claims) (string, bool) {
	switch {
	case c.Nitro != nil && c.Nitro.ModuleID == "":
		return "", false
	case c.SNP != nil && (len(c.SNP.ReportID) == 0 || len(c.SNP.ChipID) == 0):
		return "", false
	}
	id := string(c.Instance())
	return id, id != ""
}

// value is the environment's draw for a workload: uniform over 64 bits, the first
// of HMAC-SHA-256 over tag, bundle, workload and hardware, each after its length.
func (r *rollout) value(bundle, workload, hardware string) uint64 {
	h := hmac.New(sha256.New, r.secret)
	for _, s := range []string{rolloutTag, bundle, workload, hardware} {
		_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) // names and ids are short
		_, _ = h.Write([]byte(s))
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// share is the part of all draws that lies below a draw, in hundredths of a
// percent, rounded down: a draw is admitted when its share is below the
// rollout's.
func share(v uint64) uint64 {
	high, _ := mathbits.Mul64(v, rolloutScale)
	return high
}

// draw decides whether the rollout of a workload admits the environment.
func (e *evaluation) draw(w *workload) draw {
	switch {
	case w.mode != Rollout:
		return drawnIn
	case e.rollout == nil:
		return drawUnknown
	case e.rollout.secret == nil:
		return e.rollout.assumed
	}
	id, ok := hardware(e.claims)
	if ok && share(e.rollout.value(e.bundle, w.name, id)) < w.rollout {
		return drawnIn
	}
	return drawnOut
}

// rolloutRule shows the rollout as a rule.
func (e *evaluation) rolloutRule(w *workload) RuleResult {
	out := RuleResult{Rule: rolloutRule, Op: rolloutRule, Expected: "among " + percent(w.rollout) + " of all", Position: w.rolloutAt}
	d := e.draw(w)
	out.Holds = d == drawnIn
	id, named := hardware(e.claims)
	switch {
	case d == drawUnknown:
		out.Got = "undecided without the server's secret"
		out.Hint = "only the server can tell; offline, assume one or the other"
	case e.rollout.secret == nil:
		out.Got = "assumed not to be"
		if out.Holds {
			out.Got = "assumed to be"
		}
	case !named:
		out.Got, out.Hint = "missing", "nothing names this environment for as long as it runs"
	default:
		out.Got = "this environment draws " + percent(share(e.rollout.value(e.bundle, w.name, id)))
		if !out.Holds {
			out.Hint = "it keeps its draw while it runs: it is admitted when the rollout grows beyond that"
		}
	}
	return out
}

// percent writes hundredths of a percent.
func percent(n uint64) string {
	s := strconv.FormatUint(n/100, 10)
	if part := n % 100; part != 0 {
		s += strings.TrimRight(fmt.Sprintf(".%02d", part), "0")
	}
	return s + "%"
}

var percentPattern = regexp.MustCompile(`^(0|[1-9][0-9]{0,2})(?:\.([0-9]{1,2}))?%$`)

// parsePercent reads "10%" or "0.25%" as hundredths of a percent.
func parsePercent(s string) (uint64, bool) {
	m := percentPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1]+(m[2] + "00")[:2], 10, 32)
	return n, err == nil && n <= rolloutScale
}

const modeHint = "enforce grants; audit only records; {rollout: 10%} grants to a share of the hardware"

// mode reads how a workload takes part: enforce, audit, or {rollout: 10%}.
func (p *parser) mode(w *workload, n *strictyaml.Node) {
	v := p.need(n, "mode", modeHint)
	if v == nil {
		return
	}
	if v.Kind == strictyaml.Mapping {
		p.doc.OnlyKeys(v, Rollout)
		if share := p.need(v, Rollout, "for example {rollout: 10%}"); share != nil {
			p.rollout(w, v, share)
		}
		return
	}
	s, ok := p.doc.Text(v)
	switch {
	case !ok:
	case strings.HasPrefix(s, Rollout):
		p.doc.Report(v, fmt.Sprintf("mode %q lacks its share", clip(s)), "write mode: {rollout: 10%}")
	case s != Enforce && s != Audit:
		p.doc.Report(v, fmt.Sprintf("unknown mode %q", clip(s)), p.doc.Suggest(s, []string{Enforce, Audit})+"; or {rollout: 10%}")
	}
	w.mode = s
}

func (p *parser) rollout(w *workload, mode, n *strictyaml.Node) {
	w.mode, w.rolloutAt = Rollout, p.position(mode.Key(Rollout))
	s, ok := p.doc.Text(n)
	if !ok {
		return
	}
	if w.rollout, ok = parsePercent(s); !ok {
		p.doc.Report(n, fmt.Sprintf("not a share: %q", clip(s)), "a number from 0 to 100 with at most two digits after the point, and a percent sign: 10%, 0.25%")
	}
}

// mayGrant reports whether the workload grants to any hardware.
func (w *workload) mayGrant() bool {
	return w.mode == Enforce || w.mode == Rollout
}
