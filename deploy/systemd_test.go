package deploy

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	agentconfig "github.com/assay-project/assay/enclave-agent/config"
	"github.com/assay-project/assay/issuer/config"
)

// unit is a parsed unit: the values of each key, in order.
type unit map[string][]string

func parseUnit(t *testing.T, name string) unit {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	out := unit{}
	section := ""
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" || strings.TrimSpace(key) != key || strings.HasSuffix(line, "\\") {
				t.Fatalf("%s:%d: not a line of a unit: %q", name, i+1, line)
			}
			out[key] = append(out[key], value)
		}
	}
	return out
}

var units = []string{"assayd.service", "assay-agent.service", "assay-signer.service"}

// Every unit gives up what its program does not need. A unit that leaves one out
// says why in a comment that names the directive.
func TestEveryUnitIsHardened(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "ProtectSystem": "strict", "ProtectHome": "yes",
		"PrivateTmp": "yes", "PrivateDevices": "yes", "DevicePolicy": "closed", "ProtectClock": "yes", "ProtectHostname": "yes",
		"ProtectKernelLogs": "yes", "ProtectKernelModules": "yes", "ProtectKernelTunables": "yes", "ProtectControlGroups": "yes",
		"ProtectProc": "invisible", "ProcSubset": "pid", "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6", "RestrictNamespaces": "yes",
		"RestrictRealtime": "yes", "RestrictSUIDSGID": "yes", "RemoveIPC": "yes", "KeyringMode": "private", "LockPersonality": "yes",
		"MemoryDenyWriteExecute": "yes", "SystemCallArchitectures": "native", "UMask": "0077", "LimitCORE": "0",
	}
	except := map[string][]string{"assay-agent.service": {"PrivateDevices", "ProtectProc", "ProcSubset"}}
	for _, name := range units {
		u := parseUnit(t, name)
		for key, value := range want {
			if slices.Contains(except[name], key) {
				if len(u[key]) > 0 {
					t.Errorf("%s: %s is there after all: take it off the list", name, key)
				}
				continue
			}
			if got := u[key]; len(got) != 1 || got[0] != value {
				t.Errorf("%s: %s is %q, want %q", name, key, got, value)
			}
		}
		calls := []string{"@system-service", "~@privileged @resources"}
		if name != "assayd.service" {
			calls = append(calls, "@chown") // socket_group
		}
		if got := u["SystemCallFilter"]; !slices.Equal(got, calls) {
			t.Errorf("%s: SystemCallFilter is %q", name, got)
		}
		if user := u["User"]; len(user) != 1 || user[0] == "root" {
			t.Errorf("%s runs as %q", name, user)
		}
	}
}

// What a unit names is where the program looks when nobody tells it otherwise.
func TestUnitsNameTheProgramsOwnDefaults(t *testing.T) {
	t.Parallel()
	server, agent := config.Default(), agentconfig.Default()
	signer := signerDefaults(t)
	has := func(name, key, want string) {
		t.Helper()
		if got := parseUnit(t, name)[key]; !slices.Contains(got, want) {
			t.Errorf("%s: %s is %q, want %q", name, key, got, want)
		}
	}
	has("assayd.service", "ConditionPathExists", config.DefaultPath)
	has("assayd.service", "StateDirectory", strings.TrimPrefix(server.DataDir, "/var/lib/"))
	has("assayd.service", "ReadWritePaths", filepath.Dir(server.AdminSocket))
	has("assayd.service", "ExecStart", "/usr/bin/assayd run")
	has("assay-agent.service", "ConditionPathExists", agentconfig.DefaultPath)
	has("assay-agent.service", "ReadWritePaths", filepath.Dir(agent.Socket))
	has("assay-agent.service", "ExecStart", "/usr/bin/assay-agent run")
	for _, device := range []string{agent.Nitro.Device, "/dev/sev-guest", "/dev/tpmrm0", "/dev/tpm0"} {
		has("assay-agent.service", "DeviceAllow", device+" rw")
	}
	has("assay-signer.service", "ConditionPathExists", signer["DefaultPath"])
	has("assay-signer.service", "RuntimeDirectory", strings.TrimPrefix(filepath.Dir(signer["DefaultSocket"]), "/run/"))
	has("assay-signer.service", "ExecStart", "/usr/bin/assay-signer run")

	tmpfiles := read(t, "systemd/tmpfiles.conf")
	if filepath.Dir(server.AdminSocket) != filepath.Dir(agent.Socket) || !strings.Contains(tmpfiles, "\nd "+filepath.Dir(agent.Socket)+" 1775 root assay -\n") {
		t.Error("tmpfiles.conf does not make the directory of both sockets, sticky")
	}
	sysusers := read(t, "systemd/sysusers.conf")
	for _, name := range units {
		user := parseUnit(t, name)["User"][0]
		if !regexp.MustCompile(`(?m)^u ` + user + ` `).MatchString(sysusers) {
			t.Errorf("sysusers.conf does not make %s, the user of %s", user, name)
		}
	}
	// Who may write to the sockets' directory can stand in the agent's place: workloads
	// have a group of their own.
	if !strings.Contains(sysusers, "\ng assay-workloads -\n") || !strings.Contains(sysusers, "\nm assay-agent  assay-workloads\n") {
		t.Error("sysusers.conf does not make the workloads' group")
	}
	has("assay-agent.service", "SupplementaryGroups", "assay-workloads")
	for _, m := range regexp.MustCompile(`(?m)^m (\S+) +assay$`).FindAllStringSubmatch(sysusers, -1) {
		if m[1] != "assay-agent" && m[1] != "assay-signer" {
			t.Errorf("%s may write to the sockets' directory", m[1])
		}
	}
	// What the guide tells of and the unit does not permit stands in it as a drop-in.
	text := read(t, "systemd/assay-agent.service")
	for _, line := range []string{"CapabilityBoundingSet=CAP_SYS_PTRACE", "AmbientCapabilities=CAP_SYS_PTRACE", "RestrictAddressFamilies=AF_VSOCK"} {
		if !strings.Contains(text, "\n#     "+line+"\n") {
			t.Errorf("assay-agent.service names no drop-in with %s", line)
		}
	}
	rules := read(t, "systemd/60-assay-agent.rules")
	for _, device := range []string{agent.Nitro.Device, "/dev/sev-guest"} {
		if !strings.Contains(rules, `KERNEL=="`+filepath.Base(device)+`", OWNER="assay-agent", GROUP="root", MODE="0600"`) {
			t.Errorf("the udev rules do not give %s to the agent alone", device)
		}
	}
}

// The server starts without the tenants that are broken. What a unit runs before it
// would not: one tenant's policy would decide whether all others are served.
func TestNothingKeepsTheServerFromStartingForABrokenTenant(t *testing.T) {
	t.Parallel()
	u := parseUnit(t, "assayd.service")
	for _, key := range []string{"ExecStartPre", "ExecCondition", "ExecStartPost", "AssertPathExists", "RequiresMountsFor", "Requires", "BindsTo"} {
		if got := u[key]; len(got) > 0 {
			t.Errorf("%s=%s has to succeed before all trust domains are served", key, got)
		}
	}
	if got := u["ExecStart"]; !slices.Equal(got, []string{"/usr/bin/assayd run"}) {
		t.Errorf("ExecStart is %q", got)
	}
}

// signerDefaults reads the constants of assay-signer, which is a module of its own.
func signerDefaults(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, m := range regexp.MustCompile(`(Default\w+)\s*=\s*"([^"]+)"`).FindAllStringSubmatch(read(t, "../cmd/assay-signer/internal/config/config.go"), -1) {
		out[m[1]] = m[2]
	}
	if out["DefaultPath"] == "" || out["DefaultSocket"] == "" {
		t.Fatal("assay-signer's defaults were not found")
	}
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// systemd itself reads the units, where it is there: no key that it does not know,
// and an exposure of 2.0 at most, on its scale of 10.
func TestSystemdTakesTheUnits(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); errors.Is(err, exec.ErrNotFound) {
		t.Skip("systemd-analyze is not here; the directives are checked by TestEveryUnitIsHardened")
	}
	dir := t.TempDir()
	var paths []string
	for _, name := range units {
		// It wants the programs to be there.
		text := regexp.MustCompile(`/usr/bin/assay[a-z-]*`).ReplaceAllString(read(t, "systemd/"+name), "/bin/true")
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
		if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", path).CombinedOutput(); err != nil {
			t.Errorf("systemd-analyze security: %v\n%s", err, out)
		}
	}
	out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, paths...)...).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
