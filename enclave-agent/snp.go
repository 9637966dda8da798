package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
)

// The second half of REPORT_DATA is the SHA-256 of one of these
// (docs/spec/binding.md), so that a report for one purpose is never one for
// another.
const (
	snpReportTag    = "assay/v1 report data"
	snpCollectedTag = "assay/v1 collected report data"
	snpProbeTag     = "assay/v1 probe report data"
)

const (
	// snpTimeout bounds one report. It takes some milliseconds, but a host may
	// throttle its guests to one each two seconds and more, and the kernel then
	// waits.
	snpTimeout = 40 * time.Second
	maxVMPL    = 3
	// maxSNPEndorsements bounds what is sent along, in bytes: a message to the
	// server has 64 KiB.
	maxSNPEndorsements = 48 << 10
)

var (
	errPrivilege = errors.New("the guest's software may not ask at this privilege level (VMPL)")
	errNoSNP     = errors.New("this is no SEV-SNP guest")
)

// snpGuest is a way to the secure processor (AMD-SP).
type snpGuest interface {
	name() string
	// firstLevel is the lowest VMPL to try.
	firstLevel() uint32
	// report returns a report and the host's certificate table, nil where it
	// gives none. errPrivilege says that the level is below the guest's own.
	report(ctx context.Context, data [64]byte, level uint32) (snpReport, []byte, error)
}

// SNP attests as an AMD SEV-SNP guest. Reports are asked for one after another,
// at the privilege level at which the agent runs.
type SNP struct {
	ways     []snpGuest // tried in order; the one that works stays
	simulate bool
	timeout  time.Duration
	options  SNPOptions
	turn     chan struct{} // holds a token while a report is being made

	way   atomic.Int32 // the one that worked last
	level int          // guarded by turn; -1 = not known yet
}

// SNPOptions are what an [SNP] may be given.
type SNPOptions struct {
	// KDS fetches the guest's own VCEK certificate where the host gives none; nil
	// leaves it to the server to have one.
	KDS *KDS
	// Log takes warnings about certificates; nil discards.
	Log *slog.Logger
}

func newSNP(o SNPOptions, ways ...snpGuest) *SNP {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &SNP{ways: ways, timeout: snpTimeout, options: o, turn: make(chan struct{}, 1), level: -1}
}

// NewSNP uses what the guest's kernel offers: configfs-tsm, and [SNPDevice]
// where that cannot be used.
func NewSNP(o SNPOptions) *SNP {
	return newSNP(o, snpConfigFS{tsmFiles{}}, snpIoctl{path: SNPDevice, ioctl: ioctl})
}

// NewSNPConfigFS uses configfs-tsm and nothing else.
func NewSNPConfigFS(o SNPOptions) *SNP { return newSNP(o, snpConfigFS{tsmFiles{}}) }

// NewSNPDevice uses the driver's device at the path and nothing else.
func NewSNPDevice(path string, o SNPOptions) *SNP {
	return newSNP(o, snpIoctl{path: path, ioctl: ioctl})
}

// NewSNPSocket uses a guest behind a unix socket: a simulator (`teesim sevsnp
// run`, docs/spec/snp-socket.md).
func NewSNPSocket(path string, o SNPOptions) *SNP {
	s := newSNP(o, snpSocket{path})
	s.simulate = true
	return s
}

// Platform is amd-sev-snp.
func (s *SNP) Platform() attest.Platform { return attest.AMDSEVSNP }

// Evidence asks for a report with REPORT_DATA = B ‖ SHA-256("assay/v1 report
// data"), and adds the certificates that the host gives with it.
func (s *SNP) Evidence(ctx context.Context, want attest.Binding) (attest.Evidence, error) {
	if len(want.Keys) == 0 || want.B == [32]byte{} {
		return attest.Evidence{}, &attest.Error{Kind: attest.Internal, Check: "snp", Err: errors.New("a binding without keys or B")}
	}
	return s.evidence(ctx, want.B, snpReportTag)
}

// Collect makes evidence outside of an attestation, for the security team: its
// REPORT_DATA is that of the nonce under a tag which attestation refuses.
func (s *SNP) Collect(ctx context.Context, nonce []byte) (attest.Evidence, error) {
	b, err := attest.CollectedBinding(nonce)
	if err != nil {
		return attest.Evidence{}, err
	}
	return s.evidence(ctx, b, snpCollectedTag)
}

func (s *SNP) evidence(ctx context.Context, b [32]byte, tag string) (attest.Evidence, error) {
	r, table, err := s.ask(ctx, reportData(b, tag))
	if err != nil {
		return attest.Evidence{}, err
	}
	return attest.Evidence{Platform: attest.AMDSEVSNP, Body: r, Endorsements: s.endorsements(ctx, r, table)}, nil
}

func reportData(b [32]byte, tag string) (out [64]byte) {
	sum := sha256.Sum256([]byte(tag))
	copy(out[:32], b[:])
	copy(out[32:], sum[:])
	return out
}

// endorsements are the certificates to send along: the host's, and the guest's
// own VCEK from the KDS where the host's is not among them. Neither is trusted,
// by anybody: the server verifies them. A report without them can still be good,
// if the server has them, so that what goes wrong here is a warning.
func (s *SNP) endorsements(ctx context.Context, r snpReport, table []byte) [][]byte {
	out, err := splitTable(table)
	if err != nil {
		s.options.Log.Warn("the host's certificates cannot be used", "error", clip(err.Error()))
	}
	if r.signedByVCEK() {
		switch own := slices.IndexFunc(out, func(der []byte) bool { return r.fits(der) == nil }); {
		case own > 0: // the one that counts comes first, whatever is left out below
			out[0], out[own] = out[own], out[0]
		case own < 0 && s.options.KDS != nil:
			der, err := s.options.KDS.vcek(ctx, r)
			if err != nil {
				s.options.Log.Warn("the guest's own certificate cannot be fetched: the server must have it", "error", err.Error())
				break
			}
			out = append([][]byte{der}, out...)
		}
	}
	size := 0
	for i, der := range out {
		if size += len(der); size > maxSNPEndorsements || i >= maxSNPEntries {
			s.options.Log.Warn("the host's certificates are too many: some are left out", "sent", i, "had", len(out))
			return out[:i]
		}
	}
	return out
}

// Probe has a report made that is bound to nothing, and says what is in it.
func (s *SNP) Probe(ctx context.Context) (string, error) {
	r, table, err := s.ask(ctx, reportData([32]byte{}, snpProbeTag))
	if err != nil {
		return "", err
	}
	chip := "of an unknown processor"
	switch lines := r.lines(); len(lines) {
	case 0:
	case 1:
		chip = "of " + lines[0].name
	default:
		chip = "of " + lines[0].name + " or " + lines[1].name
	}
	key := "VCEK"
	if !r.signedByVCEK() {
		key = "VLEK"
	}
	from := "the server must have the " + key + "'s certificate"
	switch found, err := splitTable(table); {
	case err != nil:
		from = "the host's certificates cannot be used: " + clip(err.Error())
	case len(found) > 0 && (!r.signedByVCEK() || slices.ContainsFunc(found, func(der []byte) bool { return r.fits(der) == nil })):
		from = fmt.Sprintf("%d certificates from the host", len(found))
	case s.options.KDS != nil && key == "VCEK":
		from = "the certificate is fetched from " + s.options.KDS.String()
	}
	return fmt.Sprintf("%s: SEV-SNP report version %d %s, signed by a %s, VMPL %d; %s", s, r.version(), chip, key, r.vmpl(), from), nil
}

// ask has one report made. A request to the kernel cannot be cancelled: after
// the time-out its goroutine stays, and keeps the turn, until the kernel
// returns; its answer is dropped.
func (s *SNP) ask(ctx context.Context, data [64]byte) (snpReport, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, s.deviceError(fmt.Errorf("an earlier request has no answer yet: %w", ctx.Err()))
	}
	type answer struct {
		r     snpReport
		table []byte
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		defer func() { <-s.turn }()
		r, table, err := s.try(ctx, data)
		done <- answer{r, table, err}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		a.err = ctx.Err()
	}
	if a.err != nil {
		return nil, nil, s.deviceError(a.err)
	}
	return a.r, a.table, nil
}

// try asks the way that worked before, or finds one.
func (s *SNP) try(ctx context.Context, data [64]byte) (r snpReport, table []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // a library's, over bytes of the device
			err = nonsense("decoding an answer failed: %v", p)
		}
	}()
	if s.level >= 0 {
		return s.climb(ctx, int(s.way.Load()), uint32(s.level), data)
	}
	var errs []error
	for i, w := range s.ways {
		if r, table, err = s.climb(ctx, i, w.firstLevel(), data); err == nil {
			return r, table, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", w.name(), err))
	}
	return nil, nil, errors.Join(errs...)
}

// climb asks at a level, and at the next where that is below the guest's own.
// Reports of a level above the guest's would lie about it, and policy wants 0.
func (s *SNP) climb(ctx context.Context, way int, level uint32, data [64]byte) (snpReport, []byte, error) {
	for {
		r, table, err := s.ways[way].report(ctx, data, level)
		switch {
		case errors.Is(err, errPrivilege) && level < maxVMPL && ctx.Err() == nil:
			level++
			continue
		case err != nil:
			return nil, nil, err
		case len(r) != snpReportSize:
			return nil, nil, nonsense("a report of %d bytes, want %d", len(r), snpReportSize)
		case !bytes.Equal(r.data(), data[:]):
			return nil, nil, nonsense("the report has other REPORT_DATA than it was asked to have")
		}
		s.way.Store(int32(way))
		s.level = int(level)
		return r, table, nil
	}
}

// deviceError says what is wrong and what to do about it.
func (s *SNP) deviceError(err error) error {
	e := &attest.Error{Kind: attest.Unavailable, Check: "snp", Err: fmt.Errorf("no SEV-SNP report can be had: %w", err)}
	var strange *deviceNonsense
	var throttled *snpThrottled
	switch {
	case errors.As(err, &strange):
		e.Kind, e.Err = attest.Internal, fmt.Errorf("the answer to a request for an SEV-SNP report cannot be used: %w", err)
	case errors.As(err, &throttled):
		e.Hint = "the host limits how often a guest may ask; the agent asks again by itself"
	case errors.Is(err, errPrivilege):
		e.Hint = "the software below the agent keeps the keys of all privilege levels (VMPL) to itself: the agent must run where the kernel has one"
	case errors.Is(err, context.DeadlineExceeded):
		e.Hint = "the secure processor did not answer in time: the host may throttle its guests"
	case s.simulate:
		e.Hint = "check snp.socket in the configuration, and whose socket it is; `teesim sevsnp run --socket PATH` makes a simulated guest"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "make configfs-tsm or the device the agent's alone: run the agent as root, or as the owner of " + SNPDevice + " (mode 0600)"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNoSNP):
		e.Hint = "is this an SEV-SNP guest? its kernel needs the sev-guest driver (`modprobe sev-guest`); against a simulator set snp.socket"
	case errors.Is(err, unix.ENOTTY):
		e.Hint = "is this the sev-guest driver's device? a kernel also answers so after it has lost count of the messages to the secure processor: then the guest must be started again"
	case errors.Is(err, unix.EIO):
		e.Hint = "the host or its firmware refused the request; the guest's kernel log says more"
	}
	return e
}

// String is the way to the secure processor.
func (s *SNP) String() string { return s.ways[s.way.Load()].name() }
