package tpm

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// clock is what quotes say of the counters; an AK of the endorsement hierarchy
// sees them as they are.
func clock(t *testing.T, tpm transport.TPM) tpm2.TPMSClockInfo {
	t.Helper()
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](attestTo(t, tpm, nil).attest)
	if err != nil {
		t.Fatal(err)
	}
	return a.ClockInfo
}

func TestARebootGrowsTheResetCountAndMeasuresTheNewImage(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	tpm := startMachine(t, Machine{Boot: Boot{Image: "one"}, EventLogFile: log})
	before := clock(t, tpm)
	extend(t, tpm, 9) // what an operating system does
	if err := tpm.Reset(Boot{Image: "two"}); err != nil {
		t.Fatal(err)
	}
	after := clock(t, tpm)
	if after.ResetCount != before.ResetCount+1 || after.RestartCount != 0 || !bool(after.Safe) {
		t.Errorf("from %+v to %+v", before, after)
	}
	want, err := Measurements(Boot{Image: "two"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.PCRs[crypto.SHA256], readPCRs(t, tpm, crypto.SHA256)); diff != "" {
		t.Error(diff)
	}
	b, err := os.ReadFile(log)
	if err != nil || !bytes.Equal(b, want.Log) {
		t.Errorf("the file with the log is that of another boot (%v)", err)
	}
	if err := tpm.Reset(Boot{}); err != nil || tpm.Booted().Image != "two" {
		t.Errorf("the same again: %v, %+v", err, tpm.Booted())
	}
	if err := tpm.Reset(Boot{Loader: "lilo"}); err == nil {
		t.Error("a boot that can't be was started")
	}
}

func extend(t *testing.T, tpm transport.TPM, pcr tpm2.TPMHandle) {
	t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: pcr, Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
}

func TestAResumeKeepsRegistersAndGrowsTheRestartCount(t *testing.T) {
	tpm := startMachine(t, Machine{})
	before, pcrs := clock(t, tpm), readPCRs(t, tpm, crypto.SHA256)
	if err := tpm.Resume(); err != nil {
		t.Fatal(err)
	}
	after := clock(t, tpm)
	if after.ResetCount != before.ResetCount || after.RestartCount != before.RestartCount+1 {
		t.Errorf("from %+v to %+v", before, after)
	}
	if diff := cmp.Diff(pcrs, readPCRs(t, tpm, crypto.SHA256)); diff != "" {
		t.Error(diff)
	}
}

func TestAPowerCutMakesTheClockUnsafe(t *testing.T) {
	tpm := startMachine(t, Machine{})
	before := clock(t, tpm)
	if err := tpm.PowerCut(Boot{}); err != nil {
		t.Fatal(err)
	}
	if after := clock(t, tpm); bool(after.Safe) || after.ResetCount != before.ResetCount+1 {
		t.Errorf("from %+v to %+v", before, after)
	}
}

func TestAClearedTPMStartsItsCountersAgainAndKeepsItsEK(t *testing.T) {
	tpm := startMachine(t, Machine{})
	for range 3 {
		if err := tpm.Reset(Boot{}); err != nil {
			t.Fatal(err)
		}
	}
	before, ak := clock(t, tpm), attestTo(t, tpm, nil).ak.Name.Buffer
	ek, _ := tpm.EK(P256)
	if err := tpm.Clear(); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(ek.Handle)}).Execute(tpm); !errors.Is(err, tpm2.TPMRCHandle) {
		t.Errorf("the persistent EK is still there: %v", err)
	}
	if err := tpm.Reset(Boot{}); err != nil {
		t.Fatal(err)
	}
	if after := clock(t, tpm); after.ResetCount >= before.ResetCount {
		t.Errorf("resets: from %d to %d", before.ResetCount, after.ResetCount)
	}
	if got := attestTo(t, tpm, nil).ak.Name.Buffer; !bytes.Equal(got, ak) {
		t.Error("the AK, a primary of the endorsement hierarchy, is another")
	}
	there, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(ek.Handle)}.Execute(tpm)
	if err != nil || !bytes.Equal(there.OutPublic.Bytes(), ek.Public) {
		t.Errorf("the EK is another, or gone: %v", err)
	}
	if got := certificateIn(t, tpm); !bytes.Equal(got, ek.Certificate) {
		t.Error("the EK certificate is another")
	}
}

func TestKeysOfTheNullHierarchyDieAtAReset(t *testing.T) {
	tpm := startMachine(t, Machine{})
	template := testAK()
	template.ObjectAttributes.Restricted = false
	var names [2][]byte
	for i := range names {
		k, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: tpm2.New2B(template)}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		names[i] = k.Name.Buffer
		if err := tpm.Reset(Boot{}); err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.ReadPublic{ObjectHandle: k.ObjectHandle}).Execute(tpm); err == nil {
			t.Error("the key has outlived a reset")
		}
	}
	if bytes.Equal(names[0], names[1]) {
		t.Error("the same template gives the same key after a reset")
	}
}

// The table of docs/spec/tpm-simulator.md.
func TestWhatBecomesOfKeysAndCounters(t *testing.T) {
	template := testAK()
	template.ObjectAttributes.Restricted = false
	primary := func(tpm *TPM, hierarchy tpm2.TPMHandle) (tpm2.TPMHandle, []byte) {
		k, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		return k.ObjectHandle, k.Name.Buffer
	}
	restart := func(m *TPM) error { // root suspends the TPM, and another boot follows (Part 1, section 12.2.3)
		if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUState}).Execute(m); err != nil {
			return err
		}
		return m.PowerCut(Boot{})
	}
	for name, c := range map[string]struct {
		do                func(*TPM) error
		resets, restarts  uint32 // from 2 and 1
		pcrs, null, owner bool   // stay
		loaded            bool   // a key of the NULL hierarchy
		ek                bool   // is persistent
	}{
		"reboot":    {func(m *TPM) error { return m.Reset(Boot{}) }, 3, 0, false, false, true, false, true},
		"power cut": {func(m *TPM) error { return m.PowerCut(Boot{}) }, 3, 0, false, false, true, false, true},
		"restart":   {restart, 2, 2, false, true, true, false, true},
		"resume":    {(*TPM).Resume, 2, 2, true, true, true, false, true},
		"clear":     {(*TPM).Clear, 0, 0, true, true, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := startMachine(t, Machine{})
			for _, prepare := range []func() error{func() error { return m.Reset(Boot{}) }, m.Resume} {
				if err := prepare(); err != nil {
					t.Fatal(err)
				}
			}
			if was := clock(t, m); was.ResetCount != 2 || was.RestartCount != 1 {
				t.Fatalf("begins with %+v", was)
			}
			extend(t, m, 10)
			pcrs := readPCRs(t, m, crypto.SHA256)
			handle, null := primary(m, tpm2.TPMRHNull)
			other, owner := primary(m, tpm2.TPMRHOwner)
			if _, err := (tpm2.FlushContext{FlushHandle: other}).Execute(m); err != nil {
				t.Fatal(err)
			}
			if err := c.do(m); err != nil {
				t.Fatal(err)
			}
			_, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(m)
			if (err == nil) != c.loaded {
				t.Errorf("the loaded key: %v", err)
			}
			ek, _ := m.EK(P256)
			if _, err := (tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(ek.Handle)}).Execute(m); (err == nil) != c.ek {
				t.Errorf("the persistent EK: %v", err)
			}
			if got := cmp.Equal(pcrs, readPCRs(t, m, crypto.SHA256)); got != c.pcrs {
				t.Errorf("registers stay: %v", got)
			}
			if now := clock(t, m); now.ResetCount != c.resets || now.RestartCount != c.restarts {
				t.Errorf("counters are %d and %d", now.ResetCount, now.RestartCount)
			}
			if _, again := primary(m, tpm2.TPMRHNull); bytes.Equal(again, null) != c.null {
				t.Errorf("the NULL hierarchy's seed stays: %v", !c.null)
			}
			if _, again := primary(m, tpm2.TPMRHOwner); bytes.Equal(again, owner) != c.owner {
				t.Errorf("the owner's seed stays: %v", !c.owner)
			}
		})
	}
}

func TestAMachineKeepsItsTPMBetweenStarts(t *testing.T) {
	needTPM(t)
	a, dir := newTestAuthority(t), filepath.Join(t.TempDir(), "machine")
	var eks [2][]EK
	var resets [2]uint32
	for i := range eks {
		tpm, err := a.Start(Machine{State: dir, EKs: EKKinds()})
		if err != nil {
			t.Fatal(err)
		}
		eks[i], resets[i] = tpm.EKs(), clock(t, tpm).ResetCount
		if _, err := a.Start(Machine{State: dir}); err == nil || !strings.Contains(err.Error(), "is running") {
			t.Errorf("the same machine runs twice: %v", err)
		}
		if err := tpm.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(eks[0], eks[1]); diff != "" {
		t.Error(diff)
	}
	if resets[1] != resets[0]+1 {
		t.Errorf("resets: %d, then %d", resets[0], resets[1])
	}
	read, err := ReadEKs(dir)
	if diff := cmp.Diff(eks[0], read); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := a.Start(Machine{State: dir, EKs: []EKKind{P384}}); err == nil {
		t.Error("a machine has changed its endorsement keys")
	}
	if _, err := newTestAuthority(t).Start(Machine{State: dir}); err == nil || !strings.Contains(err.Error(), "another authority") {
		t.Errorf("a machine has changed its manufacturer: %v", err)
	}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		// swtpm's own lock has nothing in it.
		if err == nil && info.Mode().Perm()&0o077 != 0 && d.Name() != ".lock" {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if _, err := ReadEKs(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("keys of no machine: %v", err)
	}
}

func TestAMachineThatWasMadeByHalfIsMadeAgain(t *testing.T) {
	needTPM(t)
	a, dir := newTestAuthority(t), t.TempDir()
	tpm := startWith(t, a, Machine{State: dir})
	first := tpm.EKs()[0].Digest
	if err := tpm.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil {
		t.Fatal(err)
	}
	if again := startWith(t, a, Machine{State: dir}); again.EKs()[0].Digest == first {
		t.Error("half a machine was kept")
	}
}

func TestARecordThatIsNoneIsRefused(t *testing.T) {
	needTPM(t)
	for _, content := range []string{"", "{}", "null", `{"version":2}`, `{"version":1,"root_sha256":"AAAA","endorsement_keys":[{"kind":"p256"}]}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, recordFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if tpm, err := newTestAuthority(t).Start(Machine{State: dir}); err == nil {
			_ = tpm.Close()
			t.Errorf("%q was accepted", content)
		}
	}
}

func TestTheNVHoldsCertificatesAsTheProfileSays(t *testing.T) {
	tpm := startMachine(t, Machine{EKs: EKKinds(), Padding: 100})
	for kind, index := range map[EKKind]tpm2.TPMHandle{RSA2048: 0x01c00002, P256: 0x01c0000a, P384: 0x01c00016} {
		ek, ok := tpm.EK(kind)
		if !ok {
			t.Fatalf("no %s", kind)
		}
		b, err := readNV(tpm, index)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, append(ek.Certificate, make([]byte, 100)...)) {
			t.Errorf("%s: what is in NV is not the certificate and 100 zeros", kind)
		}
		key, err := publicKey(ek.Public)
		if err != nil {
			t.Fatal(err)
		}
		if got := tpm.authority.complaints(t, b, key); got != "" {
			t.Errorf("%s: a verifier says %s", kind, got)
		}
		there, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(ek.Handle)}.Execute(tpm)
		if err != nil || !bytes.Equal(there.OutPublic.Bytes(), ek.Public) {
			t.Errorf("%s is not at 0x%08x: %v", kind, ek.Handle, err)
		}
	}
	chain, err := readNV(tpm, nvChain)
	if err != nil || !bytes.Equal(chain, tpm.authority.intermediate.cert.Raw) {
		t.Errorf("the intermediate certificate is not in its place: %v", err)
	}
}

func TestNobodyButTheManufacturerCanExchangeTheCertificate(t *testing.T) {
	tpm := startMachine(t, Machine{})
	public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(0x01c0000a)}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHPlatform} {
		_, err := tpm2.NVUndefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(0x01c0000a), Name: public.NVName},
		}.Execute(tpm)
		if err == nil {
			t.Errorf("hierarchy 0x%x has removed it", h)
		}
	}
}

func TestMachinesRunSideBySide(t *testing.T) {
	needTPM(t)
	a := newTestAuthority(t)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[[32]byte]bool{}
	)
	for range 4 {
		wg.Go(func() {
			tpm, err := a.Start(Machine{EKs: []EKKind{P256}})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = tpm.Close() }()
			for range 3 {
				if err := tpm.Reset(Boot{}); err != nil {
					t.Error(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			seen[tpm.EKs()[0].Digest] = true
		})
	}
	wg.Wait()
	if len(seen) != 4 {
		t.Errorf("4 machines have %d endorsement keys", len(seen))
	}
}

// TestMain runs a machine for a test that kills this process.
func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) == "" {
		os.Exit(m.Run())
	}
	a, err := NewAuthority(Options{})
	if err != nil {
		panic(err)
	}
	tpm, err := a.Start(Machine{State: os.Getenv(helperVariable), EKs: []EKKind{P256}})
	if err != nil {
		panic(err)
	}
	fmt.Println(tpm.process.pid)
	select {}
}

const helperVariable = "ASSAY_TEST_MACHINE"

func TestTheTPMEndsWithAProcessThatIsKilled(t *testing.T) {
	needTPM(t)
	dir := t.TempDir()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), helperVariable+"="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscan(out, &pid)
	if killed := c.Process.Kill(); killed != nil {
		t.Error(killed)
	}
	_ = c.Wait() // it was killed
	if err != nil || pid < 2 {
		t.Fatalf("the machine said %d: %v", pid, err)
	}
	// The lock is free once swtpm, which inherits it, has ended.
	for deadline := time.Now().Add(10 * time.Second); ; {
		s, err := openState(dir)
		if err == nil {
			s.close()
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("swtpm has outlived its process: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestNothingIsLeftOfAMachineThatWasClosed(t *testing.T) {
	tpm := startMachine(t, Machine{})
	dir, pid := tpm.state.dir, tpm.process.pid
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("swtpm doesn't run: %v", err)
	}
	for range 2 {
		if err := tpm.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("swtpm runs still: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its state is there still: %v", err)
	}
	if _, err := tpm.Send(startup(tpm2.TPMSUClear)); !errors.Is(err, ErrClosed) {
		t.Errorf("it answers still: %v", err)
	}
	for name, do := range map[string]func() error{
		"reset": func() error { return tpm.Reset(Boot{}) }, "resume": tpm.Resume, "clear": tpm.Clear,
	} {
		if err := do(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWithoutSwtpmTheErrorSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := Installed(); !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "apt-get install swtpm") {
		t.Error(err)
	}
	dir := filepath.Join(t.TempDir(), "machine")
	if _, err := newTestAuthority(t).Start(Machine{State: dir}); !errors.Is(err, ErrNotInstalled) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was made all the same")
	}
}

func TestAnSwtpmThatFailsIsHeard(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\necho the disk is full >&2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if _, err := newTestAuthority(t).Start(Machine{}); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Error(err)
	}
}

func TestAMachineThatCannotBeIsRefused(t *testing.T) {
	for _, m := range []Machine{{Padding: -1}, {Padding: maxPadding + 1}, {EKs: []EKKind{"dsa"}}, {Boot: Boot{Locality: 1}}} {
		if tpm, err := newTestAuthority(t).Start(m); err == nil {
			_ = tpm.Close()
			t.Errorf("%+v was started", m)
		}
	}
}

func TestAnSwtpmThatIsGoneIsAnError(t *testing.T) {
	tpm := startMachine(t, Machine{})
	if err := syscall.Kill(tpm.process.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := (tpm2.GetRandom{BytesRequested: 8}).Execute(tpm); err == nil || !strings.Contains(err.Error(), "swtpm") {
			t.Errorf("a TPM that is gone answers: %v", err)
		}
	}
	if err := tpm.Reset(Boot{}); err == nil {
		t.Error("a TPM that is gone was reset")
	}
}
