package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
	"github.com/assay-project/assay/policy"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// snpLab makes genuine Verified values: reports of a simulated AMD-SP, through
// the real verifier.
type snpLab struct {
	authority *simsnp.Authority
	set       verifiers.Set
}

func newSNPLab(t testing.TB) *snpLab {
	t.Helper()
	a, err := simsnp.NewAuthority(simsnp.Options{Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := sevsnp.SimulatedRoots(a.RootsPEM())
	if err != nil {
		t.Fatal(err)
	}
	v, err := sevsnp.New(roots)
	if err != nil {
		t.Fatal(err)
	}
	set, err := verifiers.NewSet(v)
	if err != nil {
		t.Fatal(err)
	}
	return &snpLab{a, set}
}

func (l *snpLab) chip(t testing.TB, p simsnp.Product) *simsnp.Chip {
	t.Helper()
	c, err := l.authority.Chip(p, "a chip")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify launches a guest, and has it answer a challenge for one key.
func (l *snpLab) verify(t testing.TB, p simsnp.Product, launch simsnp.Launch) *verifiers.Verified {
	t.Helper()
	guest, err := l.chip(t, p).Launch(launch)
	if err != nil {
		t.Fatal(err)
	}
	const td = "simulated.example.org"
	ch := attest.Challenge{
		Platform: attest.AMDSEVSNP, TrustDomain: td, ServerID: "spiffe://" + td + "/assay/server",
		Exporter: [32]byte{1}, Nonce: attest.Nonce{2}, Purpose: attest.Boot, Keys: []attest.BoundKey{{SPKI: []byte{0x30, 0}}},
	}
	want, err := ch.Binding()
	if err != nil {
		t.Fatal(err)
	}
	body, err := guest.Report(sevsnp.ReportData(want))
	if err != nil {
		t.Fatal(err)
	}
	v, err := l.set.Verify(context.Background(), attest.Evidence{Platform: attest.AMDSEVSNP, Body: body, Endorsements: guest.Endorsements()}, ch, nil, noon)
	if err != nil {
		t.Fatalf("the real verifier refuses the report: %v", err)
	}
	return v
}

func TestAGenuineGuestIsGrantedItsIdentity(t *testing.T) {
	l := newSNPLab(t)
	image := simsnp.MeasurementFromSeed("ledger")
	for _, p := range simsnp.Products() {
		t.Run(string(p), func(t *testing.T) {
			v := l.verify(t, p, simsnp.Launch{Measurement: image, CRL: true})
			line := strings.ToLower(p.Line())
			src := change(t, snpBase, `"$image$"`, fmt.Sprintf("%q", attest.Bytes(image)), `"$chip/64$"`, fmt.Sprintf("%q", attest.Bytes(l.chip(t, p).HWID())),
				"{td}/ledger", "{td}/ledger/{measurement:16}",
				"{gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}", "{gte: {"+line+": "+floorOf(v.Claims().SNP.ReportedTCB)+"}}")
			g, err := parse(t, src).Authorize(v, noon)
			if err != nil {
				t.Fatalf("%v\n%+v", err, v.Claims().SNP)
			}
			is := g.Issues()
			if len(is) != 1 || is[0].Identity.SPIFFEID != "spiffe://simulated.example.org/ledger/"+attest.Bytes(image).String()[:16] || !is[0].NotAfter.Equal(noon.Add(time.Hour)) {
				t.Errorf("issues %+v", is)
			}
			if d := g.Decision(); !d.Ownership || !slices.Contains(d.Pinned(), "reported_tcb") || !slices.Equal(g.Publish(), []string{"measurement"}) {
				t.Errorf("ownership %t, pinned %v, publish %v", d.Ownership, d.Pinned(), g.Publish())
			}
		})
	}
}

func TestWhatTheHostChangesIsDenied(t *testing.T) {
	l := newSNPLab(t)
	image := simsnp.MeasurementFromSeed("ledger")
	src := change(t, snpBase, `"$image$"`, fmt.Sprintf("%q", attest.Bytes(image)), `"$chip/64$"`, fmt.Sprintf("%q", attest.Bytes(l.chip(t, simsnp.Genoa).HWID())))
	old := simsnp.TCB{Bootloader: 9, SNP: 22, Microcode: 72}
	fresh := simsnp.TCB{Bootloader: 9, SNP: 23, Microcode: 72}
	launch := func(change func(*simsnp.Launch)) simsnp.Launch {
		out := simsnp.Launch{Measurement: image, Current: &fresh}
		change(&out)
		return out
	}
	for _, c := range []struct {
		name, rule string
		launch     simsnp.Launch
	}{
		{"nothing", "", launch(func(*simsnp.Launch) {})},
		{"another image", "measurement", launch(func(l *simsnp.Launch) { l.Measurement = simsnp.MeasurementFromSeed("other") })},
		{"debugging", "policy.debug", launch(func(l *simsnp.Launch) { l.Policy = 1<<17 | 1<<16 | 1<<19 | 51 })},
		{"migration", "policy.migrate_ma", launch(func(l *simsnp.Launch) { l.Policy = 1<<17 | 1<<16 | 1<<18 | 51 })},
		{"a lower level", "vmpl", launch(func(l *simsnp.Launch) { l.VMPL = 2 })},
		{"older firmware", "reported_tcb", launch(func(l *simsnp.Launch) { l.Reported = &old })},
		{"a masked chip", "chip_id, chip_id_masked", launch(func(l *simsnp.Launch) { l.MaskChipID = true })},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := parse(t, src).Authorize(l.verify(t, simsnp.Genoa, c.launch), noon)
			if c.rule == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			d := denial(t, g, err)
			verb := " does not hold"
			if strings.Contains(c.rule, ",") {
				verb = " do not hold"
			}
			if want := "nearest is workload ledger: " + c.rule + verb; d.Reason != policy.ReasonNoMatch || d.Detail != want {
				t.Errorf("%s: %s, want %s", d.Reason, d.Detail, want)
			}
		})
	}
}

// floorOf writes a TCB as a policy does.
func floorOf(t attest.TCB) string {
	s := fmt.Sprintf("bl: %d, tee: %d, snp: %d, ucode: %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if t.FMC != nil {
		s = fmt.Sprintf("fmc: %d, %s", *t.FMC, s)
	}
	return "{" + s + "}"
}

// TestRecordedReportsMatchTheirOwnFloors runs the language over what real
// machines reported.
func TestRecordedReportsMatchTheirOwnFloors(t *testing.T) {
	v, err := sevsnp.New(sevsnp.HardwareRoots())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range vectors.Load(t, "sevsnp") {
		var want struct {
			Verifies   bool   `json:"verifies"`
			SigningKey string `json:"signing_key"`
		}
		if err := json.Unmarshal(r.Expect, &want); err != nil || !want.Verifies || r.VerificationTime == nil {
			continue
		}
		n++
		t.Run(path.Base(r.Name), func(t *testing.T) {
			ev := attest.Evidence{Platform: attest.AMDSEVSNP, Body: r.Read(t, "report.bin"), Endorsements: [][]byte{r.Read(t, strings.ToLower(want.SigningKey)+".der")}}
			c, err := v.Authenticate(t.Context(), ev, *r.VerificationTime)
			if err != nil {
				t.Fatal(err)
			}
			s := c.SNP
			match := func(tcb attest.TCB) string {
				out := fmt.Sprintf("measurement: {eq: %q}, product: {eq: %s}, signing_key: {eq: %s}, version: {eq: %d}, vmpl: {eq: %d}, policy.debug: {eq: %t}, policy.migrate_ma: {eq: %t}, guest_svn: {gte: %d}, current_firmware: {gte: %q}, reported_tcb: {gte: {%s: %s}}",
					s.Measurement, s.Product, s.SigningKey, s.Version, s.VMPL, s.Policy.Debug, s.Policy.MigrateMA, s.GuestSVN, s.CurrentFirmware.String(), s.Product, floorOf(tcb))
				if slices.ContainsFunc(s.ChipID, func(b byte) bool { return b != 0 }) {
					out += fmt.Sprintf(", chip_id: {eq: %q}", s.ChipID)
				}
				if s.CSPID != "" {
					out += fmt.Sprintf(", csp_id: {eq: %q}", s.CSPID)
				}
				return out
			}
			raised := []attest.TCB{s.ReportedTCB, s.ReportedTCB, s.ReportedTCB, s.ReportedTCB}
			raised[0].Bootloader++
			raised[1].TEE++
			raised[2].SNP++
			raised[3].Microcode++
			matches := []string{match(s.ReportedTCB)}
			for _, tcb := range raised {
				matches = append(matches, match(tcb))
			}
			d := parse(t, snpAudit(matches...)).Evaluate(*c, *r.VerificationTime)
			for i, w := range d.Workloads {
				if w.Matched != (i == 0) {
					t.Errorf("workload %d: matched %t: %+v", i, w.Matched, w.Rules)
				}
			}
		})
	}
	if n < 15 {
		t.Errorf("only %d recorded reports", n)
	}
}
