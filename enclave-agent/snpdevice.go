package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/google/go-sev-guest/client/linuxabi"
	"golang.org/x/sys/unix"
)

// SNPDevice is where the sev-guest driver of a guest's kernel puts its device.
const SNPDevice = "/dev/sev-guest"

// snpLevelFile is where a kernel (from 6.12 on) says at which VMPL it runs.
const snpLevelFile = "/sys/devices/system/cpu/sev/vmpl"

const (
	snpPage = 4096
	// snpTableSize is the largest buffer for certificates that the driver takes
	// (SEV_FW_BLOB_MAX_SIZE). Offering all of it at once saves a request for the
	// size, and hosts limit requests.
	snpTableSize = 4 * snpPage
	// snpStatusInvalid is MSG_REPORT_RSP's status for parameters that the firmware
	// does not take (publication 56860, table "MSG_REPORT_RSP"): with a request as
	// plain as ours, the level.
	snpStatusInvalid = 0x16
	// vmmInvalidLength and vmmBusy are the hypervisor's part of the driver's
	// error (include/uapi/linux/sev-guest.h).
	vmmInvalidLength = 1
	vmmBusy          = 2
)

// snpIoctl asks through the ioctls of the sev-guest driver. The structures are
// go-sev-guest's; the calls are our own (docs/decisions/0007-sev-guest.md).
type snpIoctl struct {
	path  string
	root  string // before snpLevelFile; "" for the machine's own
	ioctl func(fd, command uintptr, arg unsafe.Pointer) syscall.Errno
}

func ioctl(fd, command uintptr, arg unsafe.Pointer) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, command, uintptr(arg))
	return errno
}

func (s snpIoctl) name() string { return s.path }

// firstLevel is the guest's own level where the kernel tells.
func (s snpIoctl) firstLevel() uint32 {
	b, err := os.ReadFile(s.root + snpLevelFile)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil || n > maxVMPL {
		return 0
	}
	return uint32(n)
}

// report asks for an extended report. A host that does not speak of certificates
// fails that request, and then a plain one is made. Where the host throttles,
// there is no second request.
func (s snpIoctl) report(_ context.Context, data [64]byte, level uint32) (snpReport, []byte, error) {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	r, table, err := s.extended(f, data, level, snpTableSize)
	var le *snpLengthError
	if errors.As(err, &le) && le.want > snpTableSize && le.want <= maxSNPTable {
		r, table, err = s.extended(f, data, level, le.want)
	}
	var throttled *snpThrottled
	switch {
	case err == nil, errors.Is(err, errPrivilege), errors.As(err, &throttled):
		return r, table, err
	}
	r, plainErr := s.plain(f, data, level)
	if plainErr != nil {
		return nil, nil, plainErr
	}
	return r, nil, nil
}

// snpLengthError says that the host's certificates need more room.
type snpLengthError struct{ want uint32 }

func (e *snpLengthError) Error() string {
	return fmt.Sprintf("the host's certificates need %d bytes", e.want)
}

// snpThrottled says that the host refuses requests for now.
type snpThrottled struct{ errno syscall.Errno }

func (e *snpThrottled) Error() string {
	return "the host throttles requests for reports: " + e.errno.Error()
}
func (e *snpThrottled) Unwrap() error { return e.errno }

func (s snpIoctl) extended(f *os.File, data [64]byte, level, room uint32) (snpReport, []byte, error) {
	certs := make([]byte, room)
	req := &linuxabi.SnpExtendedReportReq{Data: linuxabi.SnpReportReqABI{ReportData: data, Vmpl: level}, Certs: certs, CertsLength: room}
	vmm, rsp, err := s.request(f, linuxabi.IocSnpGetExtendedReport, req)
	runtime.KeepAlive(certs) // the kernel has its address only
	switch {
	case err != nil && vmm == vmmInvalidLength:
		return nil, nil, &snpLengthError{req.CertsLength}
	case err != nil:
		return nil, nil, err
	}
	r, err := takeReport(rsp)
	return r, certs, err
}

func (s snpIoctl) plain(f *os.File, data [64]byte, level uint32) (snpReport, error) {
	_, rsp, err := s.request(f, linuxabi.IocSnpGetReport, &linuxabi.SnpReportReqABI{ReportData: data, Vmpl: level})
	if err != nil {
		return nil, err
	}
	return takeReport(rsp)
}

// request makes one ioctl. vmm is the hypervisor's error code, if it has one.
func (s snpIoctl) request(f *os.File, command uintptr, req linuxabi.BinaryConvertible) (vmm uint32, _ *linuxabi.SnpReportRespABI, err error) {
	rsp := &linuxabi.SnpReportRespABI{}
	msg := &linuxabi.SnpUserGuestRequest{ReqData: req, RespData: rsp}
	raw := msg.ABI()
	errno := s.ioctl(f.Fd(), command, raw.Pointer())
	runtime.KeepAlive(f)
	// Finish copies back; its error is the status, which takeReport looks at.
	_ = raw.Finish(msg)
	if errno == unix.EIO { // with other errors, older kernels leave noise there
		vmm = uint32(msg.FwErr >> 32)
	}
	switch {
	case errno == 0:
		return 0, rsp, nil
	case vmm == vmmBusy, errno == unix.EAGAIN, errno == unix.EBUSY, errno == unix.ETIMEDOUT:
		return vmm, nil, &snpThrottled{errno}
	case vmm == 0 && errno == unix.EIO && uint32(msg.FwErr) != 0:
		return 0, nil, fmt.Errorf("ioctl: %w, firmware error %#x", errno, uint32(msg.FwErr))
	}
	return vmm, nil, fmt.Errorf("ioctl: %w", errno)
}

// takeReport takes the report out of a MSG_REPORT_RSP.
func takeReport(rsp *linuxabi.SnpReportRespABI) (snpReport, error) {
	switch {
	case rsp.Status == snpStatusInvalid:
		return nil, errPrivilege
	case rsp.Status != 0:
		return nil, nonsense("the firmware's status is %#x", rsp.Status)
	case rsp.ReportSize != snpReportSize:
		return nil, nonsense("a report of %d bytes, want %d", rsp.ReportSize, snpReportSize)
	}
	return snpReport(rsp.Data[:snpReportSize:snpReportSize]), nil
}
