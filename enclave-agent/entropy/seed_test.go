package entropy

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/attest"
)

// source is a Source from a function.
type source func(ctx context.Context, n int) ([]byte, error)

func (s source) Entropy(ctx context.Context, n int) ([]byte, error) { return s(ctx, n) }

func good(context.Context, int) ([]byte, error) { return random(Bytes), nil }

func logTo(b *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// The kernel's own device takes it: credited for who has CAP_SYS_ADMIN, and mixed in for
// everybody.
func TestTheKernelTakesTheBytes(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var given []byte
	err := Seed(t.Context(), source(func(_ context.Context, n int) ([]byte, error) {
		given = random(n)
		return given, nil
	}), logTo(&log))
	want := "credited=false"
	if hasSysAdmin(t) {
		want = "credited=true"
	}
	if err != nil || !strings.Contains(log.String(), want) || !strings.Contains(log.String(), "level=INFO") {
		t.Errorf("%v, want %s:\n%s", err, want, log.String())
	}
	if len(given) != Bytes || !bytes.Equal(given, make([]byte, Bytes)) {
		t.Errorf("the bytes stayed in memory: %x", given)
	}
	if err := Seed(t.Context(), source(good), nil); err != nil {
		t.Errorf("without a log: %v", err)
	}
}

func hasSysAdmin(t *testing.T) bool {
	t.Helper()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// A file takes what is written and knows nothing of entropy, as the kernel does for who may
// not credit it.
func TestWhatMayNotBeCreditedIsMixedInAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "urandom")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b := random(Bytes)
	want := bytes.Clone(b)
	if err := seed(t.Context(), source(func(context.Context, int) ([]byte, error) { return b, nil }), logTo(&log), path); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x %v, want %x", got, err, want)
	}
	if !strings.Contains(log.String(), "credited=false") {
		t.Error(log.String())
	}
}

// Whatever a source does, the agent goes on, and the log says what was not done.
func TestASourceThatFailsIsAnErrorWithANameAndALineInTheLog(t *testing.T) {
	t.Parallel()
	refused := &attest.Error{Kind: attest.Internal, Check: "nsm", Err: errors.New("refused"), Hint: "try the other one"}
	for name, c := range map[string]struct {
		src    source
		check  string
		device string
		log    string
	}{
		"an error":    {func(context.Context, int) ([]byte, error) { return nil, refused }, "nsm", device, "try the other one"},
		"too short":   {func(context.Context, int) ([]byte, error) { return random(Bytes - 1), nil }, CheckLength, device, "wrong length"},
		"too long":    {func(context.Context, int) ([]byte, error) { return random(Bytes + 1), nil }, CheckLength, device, "wrong length"},
		"nothing":     {func(context.Context, int) ([]byte, error) { return nil, nil }, CheckLength, device, "wrong length"},
		"all zeros":   {func(context.Context, int) ([]byte, error) { return make([]byte, Bytes), nil }, CheckConstant, device, "all the same"},
		"no device":   {good, CheckKernel, "/dev/no-such-device", "is there a /dev/no-such-device"},
		"full device": {good, CheckKernel, "/dev/full", "takes no bytes"},
	} {
		var log bytes.Buffer
		err := seed(t.Context(), c.src, logTo(&log), c.device)
		if attest.CheckOf(err) != c.check {
			t.Errorf("%s: %v, want the check %s", name, err, c.check)
		}
		line := log.String()
		if strings.Count(line, "\n") != 1 || !strings.Contains(line, "level=WARN") || !strings.Contains(line, c.log) || !strings.Contains(line, "check="+c.check) {
			t.Errorf("%s: the log says %s", name, line)
		}
	}
}

// A source that hangs is given up with the context.
func TestASourceThatHangsDoesNotHoldTheAgent(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	var limit time.Duration
	err := Seed(ctx, source(func(ctx context.Context, _ int) ([]byte, error) {
		deadline, ok := ctx.Deadline()
		if !ok {
			t.Error("no deadline")
		}
		limit = time.Until(deadline)
		<-ctx.Done()
		return nil, ctx.Err()
	}), nil)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 2*time.Second || limit > Limit {
		t.Errorf("%v after %s, with a limit of %s", err, time.Since(begin), limit)
	}
}
