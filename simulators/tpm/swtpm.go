package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// program is the software TPM.
const program = "swtpm"

// ErrNotInstalled is in the error of Installed and Start where there is no swtpm.
var ErrNotInstalled = errors.New("swtpm, the software TPM, is not installed")

// InstallHint says what to do then.
const InstallHint = "`apt-get install swtpm`, or `dnf install swtpm`"

// Installed is nil where simulated TPMs can be started, and else an error with
// [ErrNotInstalled] and [InstallHint] in it.
func Installed() error {
	_, err := find()
	return err
}

func find() (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("tpm: %w: %s", ErrNotInstalled, InstallHint)
	}
	return path, nil
}

// How long things may take: a TPM makes an RSA key in seconds, and swtpm, which
// starts in 10 ms, can be held up by a busy machine.
const (
	commandTime = 60 * time.Second
	controlTime = 30 * time.Second
	endTime     = 5 * time.Second
	wordsTime   = time.Second
)

// Commands of swtpm's control channel, and the frame they have: a four-byte
// command and its parameters; the response begins with a TPM result (swtpm's
// manual page swtpm_ioctls(3)).
const (
	controlInit        = 2
	controlSetLocality = 5
)

// process is a running swtpm. Its sockets are pairs without a name: nobody else
// can reach it, and it ends by itself when this process does.
type process struct {
	pid     int
	data    net.Conn // TPM commands and responses
	control net.Conn
	said    *tail         // the end of what it wrote
	ended   chan struct{} // closed once it was waited for
}

// start runs swtpm over a state directory. It answers commands after init.
// Extra stays open in it: the state's lock.
func start(dir string, extra *os.File) (*process, error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	data, theirData, err := pair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirData.Close() }()
	control, theirControl, err := pair()
	if err != nil {
		_ = data.Close()
		return nil, err
	}
	defer func() { _ = theirControl.Close() }()
	p := &process{data: data, control: control, said: &tail{}, ended: make(chan struct{})}
	// Descriptors 3, 4 and 5, in the order of ExtraFiles. It ends when the
	// connection 3 does.
	c := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+dir+",mode=0600", "--fd", "3", "--ctrl", "type=unixio,clientfd=4")
	c.ExtraFiles = []*os.File{theirData, theirControl, extra}
	c.Stdout, c.Stderr = p.said, p.said
	c.SysProcAttr = endsWithParent()
	started := make(chan error)
	go func() {
		// The kernel counts the thread that starts a child as its parent, so this
		// one waits for it, and does nothing else.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		err := c.Start()
		if err == nil {
			p.pid = c.Process.Pid
		}
		started <- err
		if err == nil {
			_ = c.Wait() // its words are in p.said
		}
	}()
	if err := <-started; err != nil {
		_ = data.Close()
		_ = control.Close()
		return nil, fmt.Errorf("tpm: starting %s: %w", path, err)
	}
	return p, nil
}

// pair makes two connected sockets: a connection for us, a file for a child.
func pair() (net.Conn, *os.File, error) {
	syscall.ForkLock.RLock() // no child may start before the sockets are closed to it
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "swtpm"), os.NewFile(uintptr(fds[1]), "swtpm")
	c, err := net.FileConn(ours) // its own copy
	_ = ours.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("tpm: %w", err)
	}
	return c, theirs, nil
}

// stop ends the process, by its own id, and waits for it.
func (p *process) stop() {
	_ = p.data.Close() // at which it ends
	_ = p.control.Close()
	select {
	case <-p.ended:
		return
	case <-time.After(endTime):
	}
	_ = syscall.Kill(p.pid, syscall.SIGKILL) // gone already is as good
	<-p.ended
}

// send carries out one TPM command.
func (p *process) send(command []byte) ([]byte, error) {
	response, err := p.exchange(command)
	if err != nil {
		// A late response would be taken for that to the next command.
		_ = p.data.Close()
		return nil, p.failed(err)
	}
	return response, nil
}

func (p *process) exchange(command []byte) ([]byte, error) {
	if err := p.data.SetDeadline(time.Now().Add(commandTime)); err != nil {
		return nil, err
	}
	if _, err := p.data.Write(command); err != nil {
		return nil, err
	}
	return readMessage(p.data)
}

// powerCycle takes the TPM's power away and gives it back; it wants TPM2_Startup
// next.
func (p *process) powerCycle() error {
	return p.do("powering up", binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, controlInit), 0))
}

// setLocality sets from where commands come from now on (PC Client Platform TPM
// Profile, section 3.3).
func (p *process) setLocality(l uint8) error {
	return p.do("setting the locality", append(binary.BigEndian.AppendUint32(nil, controlSetLocality), l))
}

func (p *process) do(what string, request []byte) error {
	if err := p.control.SetDeadline(time.Now().Add(controlTime)); err != nil {
		return fmt.Errorf("tpm: %w", err)
	}
	if _, err := p.control.Write(request); err != nil {
		return p.failed(err)
	}
	var result [4]byte
	if _, err := io.ReadFull(p.control, result[:]); err != nil {
		return p.failed(err)
	}
	if n := binary.BigEndian.Uint32(result[:]); n != 0 {
		return p.failed(fmt.Errorf("%s: result 0x%x", what, n))
	}
	return nil
}

// failed adds what swtpm said: all of it, where it has ended.
func (p *process) failed(err error) error {
	gone := []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE}
	if slices.ContainsFunc(gone, func(e error) bool { return errors.Is(err, e) }) {
		select {
		case <-p.ended:
		case <-time.After(wordsTime):
		}
	}
	if said := p.said.String(); said != "" {
		return fmt.Errorf("tpm: swtpm: %w; it said: %s", err, said)
	}
	return fmt.Errorf("tpm: swtpm: %w", err)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	end []byte
}

const tailSize = 2048

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, b...)
	if n := len(t.end) - tailSize; n > 0 {
		t.end = append(t.end[:0], t.end[n:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.end))
}
