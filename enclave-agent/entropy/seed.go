package entropy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
)

const (
	// Bytes is how much is taken. The kernel's generator counts as seeded from 256
	// bits on; half of what these have is credited.
	Bytes = 64
	// Limit bounds the device's part: it does not keep an agent from starting.
	Limit = 5 * time.Second

	device = "/dev/urandom"
)

// Seed takes [Bytes] bytes from src and has the kernel mix them into its generator.
// Where the process may (CAP_SYS_ADMIN) they are also credited, with half a bit a bit,
// so that a guest which waits for entropy waits no longer, and the generator is seeded anew at once;
// else the kernel uses them when it next seeds it by itself, within a minute. It takes [Limit] at
// most, or until ctx ends.
//
// An error says what was not done. It was logged already, and is no reason to stop:
// the kernel's generator is then what it was. log may be nil.
func Seed(ctx context.Context, src Source, log *slog.Logger) error {
	return seed(ctx, src, log, device)
}

func seed(ctx context.Context, src Source, log *slog.Logger, device string) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	waiting := starved()
	credited, err := feed(ctx, src, device)
	switch {
	case err != nil && waiting:
		log.Warn("no entropy of the TEE was added, and the kernel has not enough of its own yet: the first key waits for it", describe(err)...)
	case err != nil:
		log.Warn("no entropy of the TEE was added: the kernel's own is used alone", describe(err)...)
	case !credited && waiting:
		log.Warn("entropy of the TEE was mixed in, but this process may not credit it (CAP_SYS_ADMIN), and the kernel has not enough of its own yet: the first key waits for it", "bytes", Bytes)
	default:
		log.Info("entropy of the TEE was mixed into the kernel's", "bytes", Bytes, "credited", credited)
	}
	return err
}

func describe(err error) []any {
	args := []any{"kind", attest.KindOf(err).String(), "check", attest.CheckOf(err), "error", err.Error()}
	var e *attest.Error
	if errors.As(err, &e) && e.Hint != "" {
		args = append(args, "hint", e.Hint)
	}
	return args
}

// feed carries the bytes from the source to the kernel.
func feed(ctx context.Context, src Source, device string) (credited bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	b, err := src.Entropy(ctx, Bytes)
	if err != nil {
		return false, err
	}
	defer clear(b)
	if len(b) != Bytes {
		return false, &attest.Error{Kind: attest.Internal, Check: CheckLength, Err: errors.New("the source's bytes have the wrong length"), Expected: fmt.Sprint(Bytes), Got: fmt.Sprint(len(b))}
	}
	if err := varied(b); err != nil {
		return false, err
	}
	if credited, err = mix(device, b); err != nil {
		return false, &attest.Error{
			Kind: attest.Unavailable, Check: CheckKernel, Err: fmt.Errorf("the kernel's generator takes no bytes: %w", err),
			Hint: "is there a " + device + " in the image, and may the agent write to it",
		}
	}
	return credited, nil
}

// mix hands bytes to the kernel's generator, credited where that is allowed.
func mix(device string, b []byte) (credited bool, err error) {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if add(f, b) == nil {
		// The generator takes what came in when it is seeded next: now.
		_ = unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0)
		return true, nil
	}
	_, err = f.Write(b) // random(4): mixed, and not credited
	return false, err
}

// add is RNDADDENTROPY of random(4): struct rand_pool_info, whose fields are the bits
// to credit, the bytes that follow, and the bytes.
func add(f *os.File, b []byte) error {
	info := binary.NativeEndian.AppendUint32(make([]byte, 0, 8+len(b)), uint32(len(b)*8/2))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(b)))
	info = append(info, b...)
	defer clear(info)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))) //nolint:gosec // the ioctl takes a pointer
	if errno != 0 {
		return errno
	}
	return nil
}

// starved reports whether the kernel's generator has not been seeded yet.
func starved() bool {
	var b [1]byte
	_, err := unix.Getrandom(b[:], unix.GRND_NONBLOCK)
	return errors.Is(err, unix.EAGAIN)
}
