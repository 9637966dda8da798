package eventlog_test

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-eventlog/extract"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	"github.com/google/go-eventlog/testdata"
	attestpb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// moduleDir is where the go command keeps a module that this one requires.
func moduleDir(t testing.TB, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// realLogs are the logs of real machines that the libraries' modules hold, by name.
func realLogs(t testing.TB) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	for module, pattern := range map[string]string{
		"github.com/google/go-eventlog":    "testdata/eventlogs/tpm/*",
		"github.com/google/go-attestation": "attest/testdata/*eventlog",
		"github.com/google/go-tpm-tools":   "internal/test/eventlogs/*",
	} {
		files, err := filepath.Glob(filepath.Join(moduleDir(t, module), filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.Base(module)+"/"+filepath.Base(f)] = b
		}
	}
	if len(out) < 35 {
		t.Fatalf("only %d logs of real machines", len(out))
	}
	return out
}

// machine is a log with the PCRs of the machine that wrote it.
type machine struct {
	log   []byte
	banks map[crypto.Hash]map[int]attest.Bytes
}

// machines are the logs of which go-eventlog's tests know the PCRs: values that
// were read from real TPMs. They are taken from the source of those tests.
func machines(t testing.TB) map[string]machine {
	t.Helper()
	logs := map[string][]byte{
		"Debian10EventLog": testdata.Debian10EventLog, "GlinuxAlexEventLog": testdata.GlinuxAlexEventLog, "Rhel8EventLog": testdata.Rhel8EventLog,
		"Ubuntu1804AmdSevEventLog": testdata.Ubuntu1804AmdSevEventLog, "Ubuntu2104NoDbxEventLog": testdata.Ubuntu2104NoDbxEventLog,
		"Ubuntu2104NoSecureBootEventLog": testdata.Ubuntu2104NoSecureBootEventLog, "Ubuntu2404AmdSevSnpEventLog": testdata.Ubuntu2404AmdSevSnpEventLog,
		"ArchLinuxWorkstationEventLog": testdata.ArchLinuxWorkstationEventLog, "Cos85AmdSevEventLog": testdata.Cos85AmdSevEventLog,
		"Cos93AmdSevEventLog": testdata.Cos93AmdSevEventLog, "Cos101AmdSevEventLog": testdata.Cos101AmdSevEventLog, "Cos121AmdSevEventLog": testdata.Cos121AmdSevEventLog,
		"GdcHost": testdata.GdcHost,
	}
	source := filepath.Join(moduleDir(t, "github.com/google/go-eventlog"), "tpmeventlog", "replay_test.go")
	file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]machine)
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		var name string
		m := machine{banks: make(map[crypto.Hash]map[int]attest.Bytes)}
		for _, e := range lit.Elts {
			kv, ok := e.(*ast.KeyValueExpr)
			if !ok {
				continue
			}
			if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "RawLog" {
				if s, ok := kv.Value.(*ast.SelectorExpr); ok {
					name = s.Sel.Name
				}
			}
		}
		if m.log = logs[name]; m.log == nil {
			return true
		}
		ast.Inspect(lit, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 2 {
				return true
			}
			bank, ok := call.Args[0].(*ast.SelectorExpr)
			if !ok {
				return true
			}
			hash := map[string]crypto.Hash{"HashAlgo_SHA1": crypto.SHA1, "HashAlgo_SHA256": crypto.SHA256, "HashAlgo_SHA384": crypto.SHA384}[bank.Sel.Name]
			values, ok := call.Args[1].(*ast.CompositeLit)
			if hash == 0 || !ok {
				return true
			}
			m.banks[hash] = pcrsOf(t, values)
			return true
		})
		out[name] = m
		return true
	})
	if len(out) < 12 {
		t.Fatalf("only %d machines with known PCRs", len(out))
	}
	return out
}

func pcrsOf(t testing.TB, values *ast.CompositeLit) map[int]attest.Bytes {
	t.Helper()
	out := make(map[int]attest.Bytes)
	for _, e := range values.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			t.Fatalf("%T", e)
		}
		index, err := strconv.Atoi(kv.Key.(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(kv.Value, func(n ast.Node) bool {
			if s, ok := n.(*ast.BasicLit); ok && s.Kind == token.STRING {
				text, err := strconv.Unquote(s.Value)
				if err != nil {
					t.Fatal(err)
				}
				if out[index], err = hex.DecodeString(text); err != nil {
					t.Fatal(err)
				}
			}
			return true
		})
	}
	return out
}

// staticPCRs are the values that a server asks for.
func staticPCRs(pcrs map[int]attest.Bytes) map[int]attest.Bytes {
	out := make(map[int]attest.Bytes)
	for i, v := range pcrs {
		if i < 16 {
			out[i] = v
		}
	}
	return out
}

func TestTheLogsOfRealMachinesReplayToTheirPCRs(t *testing.T) {
	yes, no := true, false
	type want struct {
		secureBoot *bool
		firmware   string
		loaders    int
		line       string // its beginning
		commands   int
		files      int
	}
	wants := map[string]want{
		"ArchLinuxWorkstationEventLog":   {&no, "546bfb1e-1d0c-4055-a4ad-4ef4bf17b83a", 2, `initrd=\intel-ucode.img initrd=`, 0, 0},
		"Cos85AmdSevEventLog":            {&yes, "GCE Virtual Firmware v1 (AMD SEV)", 3, testdata.Cos85AmdSevCmdline, 15, 2},
		"Cos93AmdSevEventLog":            {&yes, "GCE Virtual Firmware v1 (AMD SEV)", 3, testdata.Cos93AmdSevCmdline, 15, 2},
		"Cos101AmdSevEventLog":           {&yes, "GCE Virtual Firmware v1 (AMD SEV)", 4, testdata.Cos101AmdSevCmdline, 15, 2},
		"Cos121AmdSevEventLog":           {&yes, "GCE Virtual Firmware v2 (AMD SEV)", 3, "/syslinux/vmlinuz.A init=", 15, 2},
		"Debian10EventLog":               {&yes, "GCE Virtual Firmware v1", 3, "", 0, 0},
		"GdcHost":                        {&no, "", 3, "/vmlinuz-6.9.0-rc7+ root=", 66, 14}, // its version's digest is of something else
		"GlinuxAlexEventLog":             {&no, "", 1, "", 0, 0},
		"Rhel8EventLog":                  {&yes, "GCE Virtual Firmware v1", 3, "(hd0,gpt2)/boot/vmlinuz-4.18.0-240.22.1.el8_3.x86_64 root=", 50, 2},
		"Ubuntu1804AmdSevEventLog":       {&no, "GCE Virtual Firmware v1 (AMD SEV)", 2, "/boot/vmlinuz-5.4.0-1046-gcp root=", 52, 10},
		"Ubuntu2104NoDbxEventLog":        {&no, "GCE Virtual Firmware v1", 2, "/boot/vmlinuz-5.11.0-1008-gcp root=", 73, 9},
		"Ubuntu2104NoSecureBootEventLog": {&no, "GCE Virtual Firmware v1", 2, "/boot/vmlinuz-5.11.0-1006-gcp root=", 67, 9},
		"Ubuntu2404AmdSevSnpEventLog":    {&no, "GCE Virtual Firmware v2 (AMD SEV-SNP)", 2, testdata.Ubuntu2404AmdSevSnpCmdline, 71, 12},
	}
	for name, m := range machines(t) {
		w, ok := wants[name]
		if !ok {
			t.Errorf("%s: nothing is expected of it", name)
		}
		for bank, pcrs := range m.banks {
			pcrs := staticPCRs(pcrs)
			got, err := eventlog.Replay(m.log, bank, pcrs)
			if err != nil {
				t.Errorf("%s, %s: %v", name, bank, err)
				continue
			}
			if len(got.Replayed) < 8 || len(got.Loaders) != w.loaders || got.Firmware != w.firmware || len(got.GRUBCommands) != w.commands || len(got.GRUBFiles) != w.files || len(got.Keys) != 4 {
				t.Errorf("%s, %s: %+v", name, bank, got)
			}
			if diff := cmp.Diff(w.secureBoot, got.SecureBoot); diff != "" {
				t.Errorf("%s, %s: secure boot (-want +got):\n%s", name, bank, diff)
			}
			if line := strings.TrimSuffix(w.line, "\x00"); !strings.HasPrefix(got.CommandLine, line) || line == "" && got.CommandLine != "" {
				t.Errorf("%s, %s: command line %q", name, bank, got.CommandLine)
			}
		}
	}
}

func TestTheLogOfAnotherMachineIsRefused(t *testing.T) {
	all := machines(t)
	for name, m := range all {
		for other, o := range all {
			pcrs, ok := o.banks[crypto.SHA256]
			if _, own := m.banks[crypto.SHA256]; name == other || !ok || !own {
				continue
			}
			_ = refused(t, m.log, crypto.SHA256, staticPCRs(pcrs), eventlog.CheckReplay)
		}
	}
}

// What a log yields by itself is what Replay demands of it, and go-eventlog's own
// extractors say nothing else about it, where they say something.
func TestEveryRealLogYieldsWhatItReplaysTo(t *testing.T) {
	n := 0
	for name, log := range realLogs(t) {
		for _, bank := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384} {
			l, err := eventlog.Events(log, bank)
			if err != nil {
				if attest.CheckOf(err) != eventlog.CheckReplay || !strings.Contains(err.Error(), "digest") {
					t.Errorf("%s, %s: %v", name, bank, err)
				}
				continue
			}
			n++
			got, err := eventlog.Replay(log, bank, l.PCRs)
			if err != nil {
				t.Errorf("%s, %s: %v", name, bank, err)
				continue
			}
			if len(got.Replayed) != len(l.PCRs) {
				t.Errorf("%s, %s: %d of %d PCRs are replayed", name, bank, len(got.Replayed), len(l.PCRs))
			}
			compareWithLibrary(t, name, log, bank, l.PCRs, got)
		}
	}
	if n < 60 {
		t.Errorf("only %d banks of logs", n)
	}
}

// compareWithLibrary compares claims with what go-eventlog's extractors say.
func compareWithLibrary(t *testing.T, name string, log []byte, bank crypto.Hash, pcrs map[int]attest.Bytes, ours *attest.MeasuredBoot) {
	t.Helper()
	var mrs []register.MR
	for i, v := range pcrs {
		mrs = append(mrs, register.PCR{Index: i, Digest: v, DigestAlg: bank})
	}
	events, err := tcg.ParseAndReplay(log, mrs, tcg.ParseOpts{})
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	theirs, _ := extract.FirmwareLogState(events, bank, extract.TPMRegisterConfig, extract.Opts{Loader: extract.GRUB, AllowEmptySBVar: true, AllowEFIAppBeforeCallingEvent: true})
	if sb := theirs.GetSecureBoot(); sb != nil && ours.SecureBoot != nil && sb.GetEnabled() != *ours.SecureBoot {
		t.Errorf("%s: secure boot %v, the library says %v", name, *ours.SecureBoot, sb.GetEnabled())
	}
	if sb := theirs.GetSecureBoot(); sb.GetEnabled() && (ours.SecureBoot == nil || !*ours.SecureBoot) {
		t.Errorf("%s: the library says that secure boot is enabled", name)
	}
	if line := strings.TrimSuffix(theirs.GetLinuxKernel().GetCommandLine(), "\x00"); line != "" && line != ours.CommandLine {
		t.Errorf("%s: command line %q, the library says %q", name, ours.CommandLine, line)
	}
	if apps := theirs.GetEfi().GetApps(); len(apps) > 0 {
		var digests []attest.Bytes
		for _, a := range apps {
			digests = append(digests, a.GetDigest())
		}
		if diff := cmp.Diff(digests, ours.Loaders); diff != "" {
			t.Errorf("%s: loaders (-library +ours):\n%s", name, diff)
		}
	}
	if v := theirs.GetPlatform().GetGceVersion(); v != 0 && !strings.HasPrefix(ours.Firmware, fmt.Sprintf("GCE Virtual Firmware v%d", v)) {
		t.Errorf("%s: firmware %q, the library says %d", name, ours.Firmware, v)
	}
}

// The attestations in go-tpm-tools' module, with the quote's own PCRs.
func TestTheLogsOfRecordedAttestationsReplayToTheirQuotes(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(moduleDir(t, "github.com/google/go-tpm-tools"), "internal", "test", "attestations", "*.pb"))
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var a attestpb.Attestation
		if err := proto.Unmarshal(raw, &a); err != nil {
			t.Fatal(err)
		}
		banks := 0
		for _, q := range a.GetQuotes() {
			bank := map[tpmpb.HashAlgo]crypto.Hash{tpmpb.HashAlgo_SHA1: crypto.SHA1, tpmpb.HashAlgo_SHA256: crypto.SHA256, tpmpb.HashAlgo_SHA384: crypto.SHA384}[q.GetPcrs().GetHash()]
			pcrs := make(map[int]attest.Bytes)
			for i, v := range q.GetPcrs().GetPcrs() {
				pcrs[int(i)] = v
			}
			got, err := eventlog.Replay(a.GetEventLog(), bank, staticPCRs(pcrs))
			if err != nil {
				t.Errorf("%s, %s: %v", filepath.Base(f), bank, err)
				continue
			}
			banks++
			if got.SecureBoot == nil || !*got.SecureBoot || got.Firmware != "GCE Virtual Firmware v1 (AMD SEV)" || !strings.HasPrefix(got.CommandLine, "/syslinux/vmlinuz.A ") {
				t.Errorf("%s, %s: %+v", filepath.Base(f), bank, got)
			}
		}
		if banks < 3 {
			t.Errorf("%s: %d banks", filepath.Base(f), banks)
		}
	}
}

func TestTheRecordedWindowsLogReplaysToItsQuote(t *testing.T) {
	for _, v := range vectors.Load(t, "tpm") {
		if v.Name != "tpm/windows-gce-shielded-sha1" {
			continue
		}
		var file map[string]map[string]attest.Bytes
		if err := json.Unmarshal(v.Read(t, "pcrs.json"), &file); err != nil {
			t.Fatal(err)
		}
		pcrs := make(map[int]attest.Bytes)
		for _, values := range file {
			for i, b := range values {
				n, err := strconv.Atoi(i)
				if err != nil {
					t.Fatal(err)
				}
				pcrs[n] = b
			}
		}
		got, err := eventlog.Replay(v.Read(t, "eventlog.bin"), crypto.SHA1, staticPCRs(pcrs))
		if err != nil {
			t.Fatal(err)
		}
		if got.SecureBoot == nil || !*got.SecureBoot || len(got.Loaders) == 0 || len(got.Keys) != 4 {
			t.Errorf("%+v", got)
		}
		return
	}
	t.Fatal("no such recording")
}
