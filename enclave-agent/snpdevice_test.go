package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-sev-guest/client/linuxabi"
	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

// driver emulates Linux's sev-guest driver (drivers/virt/coco/sev-guest) before a
// simulated secure processor: the same structures, limits and errors.
type driver struct {
	guest *simsnp.Guest
	// Moods.
	errno       syscall.Errno // of every request
	exit        uint64        // exitinfo2 with it
	noExtended  bool          // the host knows no extended requests
	needs       uint32        // room that the host's certificates need
	largest     uint32        // buffer that the driver takes; 0 is snpTableSize
	reportSize  uint32        // claimed; 0 is the true one
	onlyStatus  uint32        // the firmware's status, whatever is asked
	requests    *int          // counts
	levelsTried *[]uint32
}

// sevGuestDriver is a device with such a driver. The descriptor is real.
func sevGuestDriver(t *testing.T, d driver) snpIoctl {
	t.Helper()
	return snpIoctl{path: os.DevNull, root: t.TempDir(), ioctl: d.ioctl}
}

func (d driver) ioctl(_, command uintptr, arg unsafe.Pointer) syscall.Errno {
	if d.requests != nil {
		*d.requests++
	}
	msg := (*linuxabi.SnpUserGuestRequestABI)(arg)
	if msg.GuestMsgVersion != 1 {
		return unix.EINVAL
	}
	if d.errno != 0 {
		msg.FwErr = d.exit
		return d.errno
	}
	rsp := (*linuxabi.SnpReportRespABI)(msg.RespData)
	switch command {
	case linuxabi.IocSnpGetReport:
		d.report(rsp, *(*linuxabi.SnpReportReqABI)(msg.ReqData))
	case linuxabi.IocSnpGetExtendedReport:
		req := (*linuxabi.SnpExtendedReportReqABI)(msg.ReqData)
		largest := d.largest
		if largest == 0 {
			largest = snpTableSize
		}
		table := d.guest.CertTable()
		need := max(d.needs, uint32((len(table)+4095)/4096*4096))
		switch {
		case req.CertsLength > largest || req.CertsLength%4096 != 0:
			return unix.EINVAL
		case d.noExtended:
			msg.FwErr = 1 // of the firmware, not of the hypervisor
			return unix.EIO
		case req.CertsLength < need:
			req.CertsLength = need
			msg.FwErr = vmmInvalidLength << 32
			return unix.EIO
		}
		copy(unsafe.Slice((*byte)(req.CertsAddress), req.CertsLength), table)
		d.report(rsp, req.Data)
	default:
		return unix.ENOTTY
	}
	return 0
}

func (d driver) report(rsp *linuxabi.SnpReportRespABI, req linuxabi.SnpReportReqABI) {
	if d.levelsTried != nil {
		*d.levelsTried = append(*d.levelsTried, req.Vmpl)
	}
	answer := d.guest.Handle(append(append([]byte{1}, req.ReportData[:]...), byte(req.Vmpl)))
	switch {
	case d.onlyStatus != 0:
		rsp.Status = d.onlyStatus
		return
	case answer[0] == 2:
		rsp.Status = 0x16
		return
	}
	rsp.ReportSize = uint32(copy(rsp.Data[:], answer[1:]))
	if d.reportSize != 0 {
		rsp.ReportSize = d.reportSize
	}
}

func TestReportsThroughTheDeviceVerifyAtTheGuestsOwnLevel(t *testing.T) {
	t.Parallel()
	for _, level := range []uint32{0, 1, 3} {
		var tried []uint32
		dev := newSNP(SNPOptions{Log: testLog(t)}, sevGuestDriver(t, driver{guest: launchSNP(simsnp.Turin, simsnp.Launch{VMPL: level}), levelsTried: &tried}))
		for range 2 {
			ev, err := dev.Evidence(context.Background(), testBinding())
			if err != nil {
				t.Fatal(err)
			}
			if c := verifySNP(t, ev, testBinding()); c.VMPL != level || len(ev.Endorsements) != 3 {
				t.Errorf("VMPL %d, %d endorsements", c.VMPL, len(ev.Endorsements))
			}
		}
		if got := len(tried); got != int(level)+2 {
			t.Errorf("it tried the levels %v: it should remember its own", tried)
		}
	}
}

func TestTheKernelsWordOnTheLevelSavesRequests(t *testing.T) {
	t.Parallel()
	var tried []uint32
	way := sevGuestDriver(t, driver{guest: launchSNP(simsnp.Milan, simsnp.Launch{VMPL: 2}), levelsTried: &tried})
	if err := os.MkdirAll(filepath.Join(way.root, filepath.Dir(snpLevelFile)), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]uint32{"2\n": 2, "": 0, "seven": 0, "4\n": 0} {
		if err := os.WriteFile(filepath.Join(way.root, snpLevelFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		tried = nil
		if _, err := newSNP(SNPOptions{}, way).Evidence(context.Background(), testBinding()); err != nil {
			t.Fatal(err)
		}
		if len(tried) == 0 || tried[0] != want {
			t.Errorf("%q: it tried %v", text, tried)
		}
	}
}

func TestAHostThatKnowsNoCertificatesStillGivesReports(t *testing.T) {
	t.Parallel()
	g := launchSNP(simsnp.Milan, simsnp.Launch{})
	for name, d := range map[string]driver{
		"no extended requests":               {guest: g, noExtended: true},
		"more than the driver takes":         {guest: g, needs: 8 * snpPage},
		"more than anybody needs":            {guest: g, needs: 1 << 30},
		"a size that is smaller than before": {guest: g, needs: snpTableSize + 1, largest: snpPage},
	} {
		ev, err := newSNP(SNPOptions{}, sevGuestDriver(t, d)).Evidence(context.Background(), testBinding())
		if err != nil || len(ev.Endorsements) != 0 || len(ev.Body) != snpReportSize {
			t.Errorf("%s: %d endorsements, %v", name, len(ev.Endorsements), err)
			continue
		}
		ev.Endorsements = g.Endorsements()
		verifySNP(t, ev, testBinding())
	}
}

func TestALargerTableIsAskedForAgain(t *testing.T) {
	t.Parallel()
	g := launchSNP(simsnp.Milan, simsnp.Launch{})
	ev, err := newSNP(SNPOptions{}, sevGuestDriver(t, driver{guest: g, needs: 8 * snpPage, largest: 16 * snpPage})).Evidence(context.Background(), testBinding())
	if err != nil || len(ev.Endorsements) != 3 {
		t.Fatalf("%d endorsements, %v", len(ev.Endorsements), err)
	}
	verifySNP(t, ev, testBinding())
}

func TestAFailedRequestOfTheDriverIsExplained(t *testing.T) {
	t.Parallel()
	g := launchSNP(simsnp.Milan, simsnp.Launch{VMPL: 3})
	for name, c := range map[string]struct {
		d        driver
		kind     attest.Kind
		hint     string
		requests int // at most
	}{
		"throttled by the host":    {driver{guest: g, errno: unix.EIO, exit: vmmBusy << 32}, attest.Unavailable, "the host limits", 1},
		"throttled by the kernel":  {driver{guest: g, errno: unix.EBUSY}, attest.Unavailable, "the host limits", 1},
		"given up by the kernel":   {driver{guest: g, errno: unix.ETIMEDOUT}, attest.Unavailable, "the host limits", 1},
		"noise beside an error":    {driver{guest: g, errno: unix.ENOTTY, exit: vmmBusy << 32}, attest.Unavailable, "guest must be started again", 2},
		"refused by the firmware":  {driver{guest: g, errno: unix.EIO, exit: 0x1b}, attest.Unavailable, "kernel log", 2},
		"no level":                 {driver{guest: g, onlyStatus: 0x16}, attest.Unavailable, "privilege level", 4},
		"another status":           {driver{guest: g, onlyStatus: 0x27}, attest.Internal, "", 8},
		"a report of another size": {driver{guest: g, reportSize: 1185}, attest.Internal, "", 8},
	} {
		n := 0
		c.d.requests = &n
		_, err := newSNP(SNPOptions{}, sevGuestDriver(t, c.d)).Evidence(context.Background(), testBinding())
		wantCheck(t, err, c.kind, "snp")
		if e := asError(err); !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: %v, hint %q, want %q in it", name, err, e.Hint, c.hint)
		}
		if n == 0 || n > c.requests {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

func TestTheStructuresOfTheIoctlHaveTheKernelsSizes(t *testing.T) {
	t.Parallel()
	for name, got := range map[string][2]uintptr{
		"snp_guest_request_ioctl": {unsafe.Sizeof(linuxabi.SnpUserGuestRequestABI{}), 32},
		"snp_report_req":          {unsafe.Sizeof(linuxabi.SnpReportReqABI{}), 96},
		"snp_report_resp":         {unsafe.Sizeof(linuxabi.SnpReportRespABI{}), 4000},
		"snp_ext_report_req":      {unsafe.Sizeof(linuxabi.SnpExtendedReportReqABI{}), 112},
	} {
		if got[0] != got[1] {
			t.Errorf("%s has %d bytes, want %d", name, got[0], got[1])
		}
	}
}

func TestAMachineThatIsNoGuestHasNoDriverBehindTheFile(t *testing.T) {
	t.Parallel()
	_, _, err := snpIoctl{path: os.DevNull, ioctl: ioctl}.report(context.Background(), [64]byte{}, 0)
	if err == nil || !strings.Contains(err.Error(), unix.ENOTTY.Error()) {
		t.Errorf("got %v", err)
	}
}
