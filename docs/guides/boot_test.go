package guides

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/internal/prebuilt"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

const bootGuide = "boot.md"

// bootBlocks are the guide's blocks of commands, and its script.
func bootBlocks(t *testing.T) (commands []string, script string) {
	t.Helper()
	text, err := os.ReadFile(bootGuide)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)(<!-- script -->\n)?```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if m[1] != "" {
			script = m[2]
		} else {
			commands = append(commands, m[2])
		}
	}
	if len(commands) != 4 || script == "" {
		t.Fatalf("%d blocks of commands, and a script of %d bytes", len(commands), len(script))
	}
	return commands, script
}

// configuration is a folder with the two files that are hashed.
func configuration(t *testing.T, dir string) string {
	t.Helper()
	config := filepath.Join(dir, "config")
	if err := os.Mkdir(config, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(config, "assay-agent.yaml"), []byte("server: vsock:parent:9443\n"))
	write(t, filepath.Join(config, "bootstrap-root.pem"), []byte("a root\n"))
	return config
}

// hashOf is what the guide's commands hash of a configuration, by their definition.
func hashOf(t *testing.T, config string) [32]byte {
	t.Helper()
	var list strings.Builder
	for _, name := range []string{"assay-agent.yaml", "bootstrap-root.pem"} {
		b, err := os.ReadFile(filepath.Join(config, name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256(b), name)
	}
	return sha256.Sum256([]byte(list.String()))
}

// shell runs commands in a folder, with the programs of bin before all others.
func shell(t *testing.T, dir, bin, script string) (string, error) {
	t.Helper()
	cmd := exec.Command("bash", "-c", "set -euo pipefail\n"+script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, stderr.String())
	}
	return out.String(), err
}

// The real command takes every policy of the guide, and has nothing to say about it.
// What the commands measure goes into those policies.
func TestTheBootGuideMeasuresAndItsPoliciesHold(t *testing.T) {
	t.Parallel()
	dir := shortTempDir(t)
	bin := filepath.Join(dir, "bin")
	if err := prebuilt.Into(bin, "../..", "assay", "teesim"); err != nil {
		t.Fatal(err)
	}
	commands, _ := bootBlocks(t)
	config := configuration(t, dir)
	write(t, filepath.Join(dir, "OVMF.amdsev.fd"), hashingFirmware(t))
	write(t, filepath.Join(dir, "vmlinuz"), []byte("kernel"))
	write(t, filepath.Join(dir, "initrd.img"), []byte("initrd"))
	out, err := shell(t, dir, bin, "teesim nitro eif --name payments --file payments.eif\n"+strings.Join(commands, "\n")+"\ncat payments-images.yaml guest-images.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)

	// HOST_DATA, as the policy has it and as QEMU wants it; and PCR15.
	hash := hashOf(t, config)
	word := sha256.Sum256([]byte("assay-agent " + hex.EncodeToString(hash[:])))
	pcr15 := sha256.Sum256(append(make([]byte, 32), word[:]...))
	measured := map[string]string{}
	for _, want := range []string{
		fmt.Sprintf(`host_data: {eq: "%x"}`, hash), base64.StdEncoding.EncodeToString(hash[:]) + "\n", fmt.Sprintf(`pcr15: {eq: "%x"}`, pcr15),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the commands never printed %s", want)
		}
		if claim, rule, ok := strings.Cut(want, ": "); ok {
			measured[claim] = rule
		}
	}
	for name, pattern := range map[string]string{"payments-images": "[0-9a-f]{96}", "guest-images": "[0-9a-f]{96}"} {
		m := regexp.MustCompile(`(?s)references:\n  ` + name + `:\n    - \{value: "(` + pattern + `)"`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("nothing was measured for %s", name)
		}
		measured[name] = m[1]
	}

	text, err := os.ReadFile(bootGuide)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
		n++
		policy := whole(m[3])
		for claim, rule := range measured {
			switch claim {
			case "host_data", "pcr15": // a rule of its own, in place of the one that is there
				policy = regexp.MustCompile(`(?m)^(      )`+claim+`: \{.*?\}`).ReplaceAllString(policy, "${1}"+claim+": "+rule)
			default: // a value, in place of the set's first one
				policy = regexp.MustCompile(`(  `+claim+`:\n    - \{value: )"[0-9a-f]+"`).ReplaceAllString(policy, `${1}"`+rule+`"`)
			}
		}
		policy = strings.ReplaceAll(policy, "  configurations:\n", "  unused:\n")
		if strings.Contains(policy, "host_data: {eq") { // the set is no longer used
			policy = regexp.MustCompile(`(?ms)^  unused:\n(    .*?\n)+`).ReplaceAllString(policy, "")
		}
		for what, src := range map[string]string{"as it stands": whole(m[3]), "with what was measured": policy} {
			write(t, filepath.Join(dir, "policy.yaml"), []byte(src))
			out, err := exec.Command(filepath.Join(bin, "assay"), "policy", "check", filepath.Join(dir, "policy.yaml")).CombinedOutput()
			if err != nil || strings.Contains(string(out), "warning") || !strings.HasPrefix(string(out), "ok: example@1, 1 workload") {
				t.Errorf("a policy %s: %v\n%s\n%s", what, err, out, src)
			}
		}
	}
	if n != 7 {
		t.Errorf("%d policies were checked, want one for each row of the table", n)
	}
}

// hashingFirmware is the smallest image that tells QEMU where to put the hashes of kernel,
// initrd and command line (edk2, OvmfPkg/ResetVector): what an AmdSev build is to
// `assay measure`.
func hashingFirmware(t *testing.T) []byte {
	t.Helper()
	const page, tail = 4096, 32
	image := bytes.Repeat([]byte{0x90}, 2*page)
	le := binary.LittleEndian
	sections := [][3]uint32{ // address, size, type
		{0x800000, 0x9000, 1}, {0x80a000, 0x3000, 1}, {0x80d000, 0x1000, 2}, {0x80e000, 0x1000, 3}, {0x80f000, 0x1000, 0x10}, {0x810000, 0x10000, 1},
	}
	meta := []byte("ASEV")
	for _, n := range []uint32{uint32(16 + 12*len(sections)), 1, uint32(len(sections))} {
		meta = le.AppendUint32(meta, n)
	}
	for _, s := range sections {
		meta = le.AppendUint32(le.AppendUint32(le.AppendUint32(meta, s[0]), s[1]), s[2])
	}
	copy(image[page:], meta)
	entry := func(guid string, words ...uint32) (b []byte) {
		for _, w := range words {
			b = le.AppendUint32(b, w)
		}
		id, err := hex.DecodeString(guid)
		if err != nil {
			t.Fatal(err)
		}
		return append(le.AppendUint16(b, uint16(len(b)+18)), id...)
	}
	table := slices.Concat(
		entry("1f3755723b3a044b927b1da6efa8d454", 0x80fc00, 0x400), // where the hashes go
		entry("de71f7007e1acb4f890e68c77e2fb44e", 0x80b004),        // where other virtual CPUs begin
		entry("666588dc4a989847a75e5585a7bf67cc", page),            // how far from the end the metadata is
	)
	footer := entry("de82b596b21ff745baeaa366c55a082d")
	le.PutUint16(footer, uint16(len(table)+18))
	table = append(table, footer...)
	copy(image[len(image)-tail-len(table):], table)
	return image
}

// tsm is what configfs-tsm is to the script: a directory that is made there has a file
// into which the report data go, and one from which the report comes. The report is a
// simulated guest's. It returns the script as it runs here, and a directory with the
// commands that stand in.
func tsm(t *testing.T, dir, script string, hostData []byte, provider string) (changed, bin string) {
	t.Helper()
	a, err := simsnp.NewAuthority(simsnp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	chip, err := a.Chip(simsnp.Genoa, "rack-4")
	if err != nil {
		t.Fatal(err)
	}
	guest, err := chip.Launch(simsnp.Launch{Measurement: simsnp.MeasurementFromSeed("ledger"), HostData: hostData})
	if err != nil {
		t.Fatal(err)
	}
	report, err := guest.Report([64]byte{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "report"), report)
	bin = filepath.Join(dir, "stand-ins")
	for _, d := range []string{bin, filepath.Join(dir, "tsm")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		// The kernel fills a new directory, and empties it before it goes.
		"mkdir": `/bin/mkdir "$1"; case $1 in */tsm/*) cp "$REPORT" "$1/outblob"; echo "$PROVIDER" >"$1/provider";; esac`,
		"rmdir": `[ "$(wc -c <"$1/inblob")" = 64 ] || exit 9; rm "$1"/*; /bin/rmdir "$1"`,
		// What comes in the place of the agent says that it has run, and with what.
		"assay-agent": `echo "RAN $*"`,
	} {
		path := filepath.Join(bin, name)
		write(t, path, []byte("#!/bin/sh\nset -eu\nREPORT="+dir+"/report PROVIDER="+provider+"\n"+text+"\n"))
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	changed = strings.NewReplacer("/sys/kernel/config/tsm/report", dir+"/tsm", "/run/assay-config", dir+"/copied").Replace(script)
	return changed, bin
}

func TestTheScriptStartsTheAgentWithTheConfigurationOfHostDataAndWithNoOther(t *testing.T) {
	t.Parallel()
	_, script := bootBlocks(t)
	for name, c := range map[string]struct {
		change   func(t *testing.T, config string)
		hostData func(hash []byte) []byte
		provider string
		runs     bool
	}{
		"the configuration that it was launched with": {runs: true},
		"another configuration": {change: func(t *testing.T, config string) {
			write(t, filepath.Join(config, "assay-agent.yaml"), []byte("server: evil:1\n"))
		}},
		"another root": {change: func(t *testing.T, config string) { write(t, filepath.Join(config, "bootstrap-root.pem"), nil) }},
		"a line moved from one file to the other": {change: func(t *testing.T, config string) {
			write(t, filepath.Join(config, "assay-agent.yaml"), nil)
			write(t, filepath.Join(config, "bootstrap-root.pem"), []byte("server: vsock:parent:9443\na root\n"))
		}},
		"a file that is missing": {change: func(t *testing.T, config string) {
			if err := os.Remove(filepath.Join(config, "bootstrap-root.pem")); err != nil {
				t.Error(err)
			}
		}},
		"no HOST_DATA":        {hostData: func([]byte) []byte { return nil }},
		"one byte is another": {hostData: func(h []byte) []byte { h[31] ^= 1; return h }},
		"another TEE":         {provider: "tdx_guest"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := shortTempDir(t)
			config := configuration(t, dir)
			hash := hashOf(t, config)
			hostData := hash[:]
			if c.hostData != nil {
				hostData = c.hostData(hostData)
			}
			if c.change != nil {
				c.change(t, config)
			}
			if c.provider == "" {
				c.provider = "sev_guest"
			}
			changed, bin := tsm(t, dir, script, hostData, c.provider)
			write(t, filepath.Join(dir, "assay-boot"), []byte(changed))
			out, err := shell(t, dir, bin, "sh ./assay-boot "+config+" --user 65532:65532 -- /payload")
			if c.runs {
				if want := "RAN exec --config " + dir + "/copied/assay-agent.yaml --user 65532:65532 -- /payload\n"; err != nil || out != want {
					t.Errorf("%v: %q, want %q", err, out, want)
				}
				return
			}
			if err == nil || out != "" {
				t.Errorf("the agent ran: %q", out)
			}
			t.Log(err)
		})
	}
}

// The word that the guide's unit measures leaves in a TPM what the guide computes.
func TestARealTPMsRegisterIsWhatTheGuideComputes(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("NOT RUN: swtpm is not installed (Debian: apt-get install swtpm)")
	}
	dir := shortTempDir(t)
	commands, _ := bootBlocks(t)
	hash := hashOf(t, configuration(t, dir))
	out, err := shell(t, dir, dir, commands[3])
	if err != nil {
		t.Fatal(err)
	}
	a, err := simtpm.NewAuthority(simtpm.Options{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	m, err := a.Start(simtpm.Machine{Boot: simtpm.Boot{Image: "ledger"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	word := sha256.Sum256([]byte("assay-agent " + hex.EncodeToString(hash[:])))
	if _, err := (tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(15), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: word[:]}}},
	}).Execute(m); err != nil {
		t.Fatal(err)
	}
	r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(15)}}}}.Execute(m)
	if err != nil || len(r.PCRValues.Digests) != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if want := fmt.Sprintf("pcr15: {eq: \"%x\"}\n", r.PCRValues.Digests[0].Buffer); out != want {
		t.Errorf("%q, the TPM has %q", out, want)
	}
}
