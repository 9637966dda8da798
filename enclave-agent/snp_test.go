package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// amd is the one simulated AMD of these tests: making certificates is slow.
var amd = sync.OnceValue(func() *simsnp.Authority { return must(simsnp.NewAuthority(simsnp.Options{})) })

// snpVerifier is the one that the server uses.
var snpVerifier = sync.OnceValue(func() *sevsnp.Verifier {
	return must(sevsnp.New(must(sevsnp.SimulatedRoots(amd().RootsPEM()))))
})

func launchSNP(p simsnp.Product, l simsnp.Launch, faults ...simsnp.Fault) *simsnp.Guest {
	return must(must(amd().Chip(p, "host")).Launch(l, faults...))
}

// serveSNP offers a guest's secure processor on a socket.
func serveSNP(t testing.TB, g *simsnp.Guest) (path string) {
	t.Helper()
	path = filepath.Join(shortDir(t), "guest.sock")
	l := must(simsnp.Listen(path))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return path
}

// verifySNP has the real verifier say whether the evidence is good and bound.
func verifySNP(t testing.TB, ev attest.Evidence, want attest.Binding) *attest.SNP {
	t.Helper()
	claims, err := snpVerifier().Authenticate(context.Background(), ev, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := snpVerifier().Bound(claims, want); err != nil {
		t.Fatal(err)
	}
	return claims.SNP
}

func TestTheEvidenceOfEverySimulatedGuestVerifiesAndIsBound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		product simsnp.Product
		launch  simsnp.Launch
	}{
		"Milan, version 2": {simsnp.Milan, simsnp.Launch{Version: 2}},
		"Milan, version 3": {simsnp.Milan, simsnp.Launch{Version: 3}},
		"Genoa":            {simsnp.Genoa, simsnp.Launch{CRL: true}},
		"Siena":            {simsnp.Siena, simsnp.Launch{}},
		"Turin":            {simsnp.Turin, simsnp.Launch{}},
		"Genoa, VLEK":      {simsnp.Genoa, simsnp.Launch{SigningKey: simsnp.VLEK}},
		"Genoa, VMPL 2":    {simsnp.Genoa, simsnp.Launch{VMPL: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dev, want := NewSNPSocket(serveSNP(t, launchSNP(c.product, c.launch)), SNPOptions{Log: testLog(t)}), testBinding()
			for range 2 { // the second time the level is known
				ev, err := dev.Evidence(context.Background(), want)
				if err != nil {
					t.Fatal(err)
				}
				if got := verifySNP(t, ev, want); got.VMPL != c.launch.VMPL {
					t.Errorf("the report is of VMPL %d, want the guest's own, %d", got.VMPL, c.launch.VMPL)
				}
			}
		})
	}
}

func TestCollectedEvidenceIsRefusedAsAnAnswerToAChallenge(t *testing.T) {
	t.Parallel()
	dev, nonce := NewSNPSocket(serveSNP(t, launchSNP(simsnp.Milan, simsnp.Launch{})), SNPOptions{}), []byte("a nonce")
	ev, err := dev.Collect(context.Background(), nonce)
	if err != nil {
		t.Fatal(err)
	}
	claims := must(snpVerifier().Authenticate(context.Background(), ev, time.Now()))
	b := must(attest.CollectedBinding(nonce))
	if data := reportData(b, "assay/v1 collected report data"); !bytes.Equal(data[:], claims.SNP.ReportData) {
		t.Errorf("REPORT_DATA %s", claims.SNP.ReportData)
	}
	want := testBinding()
	want.B = b // even for somebody who finds a binding with this hash
	wantCheck(t, snpVerifier().Bound(claims, want), attest.Untrusted, "binding_report_data")
	_, err = dev.Collect(context.Background(), nil)
	wantCheck(t, err, attest.Malformed, "challenge")
}

func TestAReportThatWasMadeForAProbeIsRefusedAsAnAnswer(t *testing.T) {
	t.Parallel()
	g := launchSNP(simsnp.Milan, simsnp.Launch{})
	ev := attest.Evidence{Platform: attest.AMDSEVSNP, Body: must(g.Report(reportData(testBinding().B, snpProbeTag))), Endorsements: g.Endorsements()}
	claims := must(snpVerifier().Authenticate(context.Background(), ev, time.Now()))
	wantCheck(t, snpVerifier().Bound(claims, testBinding()), attest.Untrusted, "binding_report_data")
}

func TestAProbeDescribesTheGuest(t *testing.T) {
	t.Parallel()
	dev := NewSNPSocket(serveSNP(t, launchSNP(simsnp.Turin, simsnp.Launch{VMPL: 1})), SNPOptions{})
	got, err := dev.Probe(context.Background())
	if err != nil || !strings.Contains(got, "SEV-SNP report version 5 of Turin, signed by a VCEK, VMPL 1; 3 certificates from the host") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestASNPBindingThatSaysNothingIsRefused(t *testing.T) {
	t.Parallel()
	dev := NewSNPSocket(serveSNP(t, launchSNP(simsnp.Milan, simsnp.Launch{})), SNPOptions{})
	for _, b := range []attest.Binding{{}, {B: [32]byte{1}}, {Keys: testBinding().Keys}} {
		_, err := dev.Evidence(context.Background(), b)
		wantCheck(t, err, attest.Internal, "snp")
	}
}

func TestASecureProcessorThatCannotBeUsedIsExplained(t *testing.T) {
	t.Parallel()
	for _, there := range []string{SNPDevice, ConfigFS} {
		if _, err := os.Stat(there); err == nil {
			t.Skip("SKIPPED: this machine is a TEE")
		}
	}
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte{}, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dev  *SNP
		hint string
	}{
		"no guest":       {NewSNP(SNPOptions{}), "is this an SEV-SNP guest?"},
		"no configfs":    {NewSNPConfigFS(SNPOptions{}), "is this an SEV-SNP guest?"},
		"no such device": {NewSNPDevice(filepath.Join(dir, "sev-guest"), SNPOptions{}), "is this an SEV-SNP guest?"},
		"no such socket": {NewSNPSocket(filepath.Join(dir, "guest.sock"), SNPOptions{}), "check snp.socket"},
		"another device": {NewSNPDevice(file, SNPOptions{}), "is this the sev-guest driver's device?"},
	} {
		_, err := c.dev.Evidence(context.Background(), testBinding())
		wantCheck(t, err, attest.Unavailable, "snp")
		if e := asError(err); !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: %v, hint %q, want %q in it", name, err, e.Hint, c.hint)
		}
		if _, err := c.dev.Probe(context.Background()); err == nil {
			t.Errorf("%s: the probe succeeds", name)
		}
	}
}

// strangeSNP answers every request with the same bytes.
func strangeSNP(t *testing.T, frame []byte) *SNP {
	t.Helper()
	path := filepath.Join(shortDir(t), "guest.sock")
	l := must(net.Listen("unix", path))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.CopyN(io.Discard, c, 4+66)
			_, _ = c.Write(frame)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return NewSNPSocket(path, SNPOptions{})
}

func TestAStrangeAnswerForAReportIsAnError(t *testing.T) {
	t.Parallel()
	other := must(launchSNP(simsnp.Milan, simsnp.Launch{}).Report([64]byte{7}))
	for name, c := range map[string]struct {
		frame []byte
		kind  attest.Kind
	}{
		"nothing":                {nil, attest.Unavailable},
		"half a length":          {[]byte{0, 0}, attest.Unavailable},
		"a cut answer":           {[]byte{0, 0, 0, 9, 0}, attest.Unavailable},
		"no level will do":       {frame([]byte{2, 'n', 'o'}), attest.Unavailable},
		"an empty answer":        {frame(nil), attest.Internal},
		"a huge length":          {[]byte{0xff, 0xff, 0xff, 0xff}, attest.Internal},
		"one byte too many":      {frame(make([]byte, maxSNPResponse+1)), attest.Internal},
		"a failure":              {frame([]byte("\x03out of ink")), attest.Internal},
		"an unknown status":      {frame(append([]byte{9}, other...)), attest.Internal},
		"no report":              {frame([]byte{0}), attest.Internal},
		"a report cut short":     {frame(append([]byte{0}, other[:snpReportSize-1]...)), attest.Internal},
		"a report of other data": {frame(append([]byte{0}, other...)), attest.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := strangeSNP(t, c.frame).Evidence(context.Background(), testBinding())
			wantCheck(t, err, c.kind, "snp")
		})
	}
}

// A strange table is the host's: it costs the certificates and not the report,
// for the server may have them.
func TestATableThatCannotBeReadIsAWarning(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := newSNP(SNPOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}, tableGuest{launchSNP(simsnp.Milan, simsnp.Launch{}), []byte("no table")})
	ev, err := s.Evidence(context.Background(), testBinding())
	if err != nil || len(ev.Endorsements) != 0 {
		t.Fatalf("%d endorsements, %v", len(ev.Endorsements), err)
	}
	if !strings.Contains(log.String(), "certificate table has no end") {
		t.Errorf("the log says %q", log.String())
	}
}

// tableGuest is a simulated guest whose host gives it another table.
type tableGuest struct {
	*simsnp.Guest
	table []byte
}

func (tableGuest) name() string       { return "a guest" }
func (tableGuest) firstLevel() uint32 { return 0 }
func (g tableGuest) report(_ context.Context, data [64]byte, _ uint32) (snpReport, []byte, error) {
	r, err := g.Report(data)
	return r, g.table, err
}

func TestTheCertificateThatCountsIsSentFirstAndNoMoreThanAMessageHolds(t *testing.T) {
	t.Parallel()
	g := launchSNP(simsnp.Genoa, simsnp.Launch{})
	e := g.Endorsements()
	items := [][]byte{e[2], e[1], e[0]}
	for range 4 {
		items = append(items, bytes.Repeat([]byte{0x30}, 12<<10))
	}
	s := newSNP(SNPOptions{Log: testLog(t)}, tableGuest{g, snpTable(items...)})
	ev, err := s.Evidence(context.Background(), testBinding())
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, x := range ev.Endorsements {
		size += len(x)
	}
	if !bytes.Equal(ev.Endorsements[0], e[0]) || len(ev.Endorsements) != 6 || size > maxSNPEndorsements {
		t.Errorf("%d endorsements of %d bytes", len(ev.Endorsements), size)
	}
}

// snpTable lays items out as VCEKs.
func snpTable(items ...[]byte) []byte {
	head, body := make([]byte, (len(items)+1)*snpTableEntry), []byte{}
	for i, item := range items {
		e := head[i*snpTableEntry:]
		copy(e, "\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd")
		binary.LittleEndian.PutUint32(e[16:], uint32(len(head)+len(body)))
		binary.LittleEndian.PutUint32(e[20:], uint32(len(item)))
		body = append(body, item...)
	}
	return append(head, body...)
}

// slowGuest takes its time and sees whether it is asked twice at once.
type slowGuest struct {
	*simsnp.Guest
	t     *testing.T
	wait  time.Duration
	inUse chan struct{}
}

func (slowGuest) name() string       { return "a slow guest" }
func (slowGuest) firstLevel() uint32 { return 0 }
func (g slowGuest) report(_ context.Context, data [64]byte, _ uint32) (snpReport, []byte, error) {
	select {
	case g.inUse <- struct{}{}:
		defer func() { <-g.inUse }()
	default:
		g.t.Error("two requests at once")
	}
	time.Sleep(g.wait)
	r, err := g.Report(data)
	return r, nil, err
}

func TestReportsAreAskedForOneAfterAnother(t *testing.T) {
	t.Parallel()
	s := newSNP(SNPOptions{}, slowGuest{launchSNP(simsnp.Milan, simsnp.Launch{}), t, 5 * time.Millisecond, make(chan struct{}, 1)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Evidence(context.Background(), testBinding()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestASecureProcessorThatHangsIsGivenUpAndNotAskedAgainMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSNP(SNPOptions{}, slowGuest{launchSNP(simsnp.Milan, simsnp.Launch{}), t, 3 * time.Second, make(chan struct{}, 1)})
	s.timeout = 50 * time.Millisecond
	_, err := s.Evidence(context.Background(), testBinding())
	wantCheck(t, err, attest.Unavailable, "snp")
	_, err = s.Evidence(context.Background(), testBinding())
	wantCheck(t, err, attest.Unavailable, "snp")
	if !strings.Contains(err.Error(), "an earlier request has no answer yet") {
		t.Error(err)
	}
	s.timeout = time.Minute
	if _, err := s.Evidence(context.Background(), testBinding()); err != nil {
		t.Errorf("after the kernel returned: %v", err)
	}
}

// kernelTSM is the configfs of a kernel as the library's authors emulate it, with
// a simulated secure processor behind.
func kernelTSM(g *simsnp.Guest, provider string, floor uint) configfsi.Client {
	sub := faketsm.ReportV7(floor)
	made := sub.MakeEntry
	sub.MakeEntry = func() *faketsm.ReportEntry {
		e := made()
		e.ROAttrs = map[string][]byte{"provider": []byte(provider + "\n"), "privlevel_floor": {byte('0' + floor), '\n'}}
		return e
	}
	sub.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
		switch attr {
		case "provider":
			return []byte(provider + "\n"), nil
		case "auxblob":
			return g.CertTable(), nil
		case "outblob":
			level := must(configfsi.Kstrtouint(e.InAttrs["privlevel"].Value, 10, 32))
			request := append(append([]byte{1}, e.InAttrs["inblob"].Value...), byte(level))
			answer := g.Handle(request)
			if answer[0] != 0 {
				return nil, errors.New(string(answer[1:]))
			}
			return answer[1:], nil
		}
		return nil, fs.ErrNotExist
	}
	return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": sub}}
}

func TestReportsThroughConfigfsVerifyAtTheGuestsOwnLevel(t *testing.T) {
	t.Parallel()
	for _, floor := range []uint{0, 2} {
		g := launchSNP(simsnp.Genoa, simsnp.Launch{VMPL: uint32(floor)})
		dev := newSNP(SNPOptions{Log: testLog(t)}, snpConfigFS{kernelTSM(g, "sev_guest", floor)})
		for range 2 {
			ev, err := dev.Evidence(context.Background(), testBinding())
			if err != nil {
				t.Fatal(err)
			}
			if c := verifySNP(t, ev, testBinding()); c.VMPL != uint32(floor) || len(ev.Endorsements) != 3 {
				t.Errorf("VMPL %d, %d endorsements", c.VMPL, len(ev.Endorsements))
			}
		}
	}
}

func TestTheConfigfsOfAnotherTEEIsRefused(t *testing.T) {
	t.Parallel()
	dev := newSNP(SNPOptions{}, snpConfigFS{kernelTSM(launchSNP(simsnp.Genoa, simsnp.Launch{}), "tdx_guest", 0)})
	_, err := dev.Evidence(context.Background(), testBinding())
	wantCheck(t, err, attest.Unavailable, "snp")
	if !strings.Contains(err.Error(), `"tdx_guest"`) {
		t.Error(err)
	}
}

func TestAFileOfConfigfsThatMayNotBeUsedIsExplained(t *testing.T) {
	t.Parallel()
	files := &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": &faketsm.ReportSubsystem{
		MakeEntry: func() *faketsm.ReportEntry { return &faketsm.ReportEntry{} },
	}}}
	dev := newSNP(SNPOptions{}, snpConfigFS{forbidden{files}})
	_, err := dev.Evidence(context.Background(), testBinding())
	wantCheck(t, err, attest.Unavailable, "snp")
	if e := asError(err); !errors.Is(err, fs.ErrPermission) || !strings.Contains(e.Hint, "run the agent as root") {
		t.Errorf("%v, hint %q", err, e.Hint)
	}
}

// forbidden is a configfs of which an unprivileged process makes no use.
type forbidden struct{ configfsi.Client }

func (forbidden) MkdirTemp(dir, _ string) (string, error) {
	return "", &fs.PathError{Op: "mkdir", Path: dir, Err: fs.ErrPermission}
}

func TestTheDeviceIsUsedWhereConfigfsCannotBe(t *testing.T) {
	t.Parallel()
	g := launchSNP(simsnp.Genoa, simsnp.Launch{})
	dev := newSNP(SNPOptions{}, snpConfigFS{forbidden{}}, sevGuestDriver(t, driver{guest: g}))
	for range 2 {
		ev, err := dev.Evidence(context.Background(), testBinding())
		if err != nil {
			t.Fatal(err)
		}
		verifySNP(t, ev, testBinding())
	}
	if got := dev.String(); !strings.HasSuffix(got, "null") {
		t.Errorf("it uses %s", got)
	}
}

func FuzzSNPAnswer(f *testing.F) {
	g := launchSNP(simsnp.Milan, simsnp.Launch{})
	f.Add(frame(append([]byte{0}, must(g.ExtendedReport([64]byte{}))...)))
	f.Add(frame([]byte{2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readSNPFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		r, table, err := splitSNPAnswer(body)
		if err != nil {
			return
		}
		items, _ := splitTable(table)
		for _, i := range items {
			_ = r.fits(i)
		}
		_, _, _ = r.version(), r.vmpl(), r.lines()
	})
}
