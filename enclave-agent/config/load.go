package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/process"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
)

// Settings is a validated configuration.
type Settings struct {
	Config      Config             // with absolute paths
	Memberships []agent.Membership // the trust domains, in their order: one at least
	KeyType     agent.KeyType
	SocketMode  fs.FileMode
	SocketGroup *int       // nil: the agent's own
	KDS         *agent.KDS // nil: the agent fetches no certificate

	KeyResidency agent.KeyResidency
	// Processes tells callers apart.
	Processes *process.Set
	NotBefore time.Time // zero: the file says nothing
}

// maxFile is far more than a configuration needs, in bytes.
const maxFile = 1 << 20

// Load reads and validates a configuration file and the roots that it names. A
// file that cannot be read is a [cli.UsageError]; everything wrong inside is in
// one [strictyaml.Errors].
func Load(path string) (*Settings, error) {
	src, err := cli.ReadFile(path, maxFile)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "make one with `assay-agent init --server ADDR --bootstrap-root FILE`, or name it with --config or --data-dir"
		}
		return nil, cli.Usagef(hint, "cannot read the configuration: %w", err)
	}
	return Parse(path, src)
}

// Parse validates the content of a configuration file and reads the roots that
// it names. Relative paths in it become relative to the directory of file.
func Parse(file string, src []byte) (*Settings, error) {
	s := &Settings{Config: Default()}
	doc := strictyaml.Open(file, src)
	if err := doc.Decode(&s.Config); err != nil {
		return nil, err
	}
	v := validator{doc, s, filepath.Dir(file)}
	v.memberships()
	v.device()
	v.keys()
	v.notBefore()
	v.socket()
	v.processes()
	v.log()
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

// Level is the level of the log.
func (s *Settings) Level() slog.Level {
	var l slog.Level
	_ = l.UnmarshalText([]byte(s.Config.Log.Level)) // validated; the zero level is info
	return l
}

type validator struct {
	doc  *strictyaml.Document
	s    *Settings
	base string
}

func (v validator) report(msg, hint string, path ...string) {
	v.doc.Report(v.doc.At(path...), msg, hint)
}

func (v validator) absolute(p *string) {
	if *p != "" && !filepath.IsAbs(*p) {
		if abs, err := filepath.Abs(filepath.Join(v.base, *p)); err == nil {
			*p = abs
		}
	}
}

func (v validator) device() {
	c := &v.s.Config
	if err := CheckTee(c.Tee); err != nil {
		v.report(err.Error(), teeHint, "tee")
	}
	if c.Nitro.Device == "" {
		v.report("nitro.device is empty", "remove the line for the default", "nitro", "device")
	}
	if c.SNP.Device == "" {
		v.report("snp.device is empty", "remove the line for the default", "snp", "device")
	}
	v.simulated()
	v.tpm()
	v.absolute(&c.Nitro.Device)
	v.absolute(&c.Nitro.Socket)
	v.absolute(&c.SNP.Socket)
	if c.SNP.Device != DeviceAuto && c.SNP.Device != DeviceConfigFS {
		v.absolute(&c.SNP.Device)
	}
	if f := c.SNP.FetchVCEK; f != nil {
		if f.KDS == "" {
			f.KDS = agent.AMDKDS
		}
		kds, err := agent.NewKDS(f.KDS)
		if err != nil {
			v.report("snp.fetch_vcek.kds is no address of a KDS: "+err.Error(), "remove the line for AMD's, "+agent.AMDKDS, "snp", "fetch_vcek", "kds")
		}
		v.s.KDS = kds
	}
}

// simulated wants one simulated device at most, where its kind is not named.
func (v validator) simulated() {
	c := &v.s.Config
	if c.Tee != TeeAuto {
		return
	}
	named := 0
	for _, d := range []struct{ tee, socket string }{{"nitro", c.Nitro.Socket}, {"snp", c.SNP.Socket}, {"tpm", c.TPM.Socket}} {
		if d.socket == "" {
			continue
		}
		if named++; named > 1 {
			v.report("two simulated devices", "keep one, or name the kind with tee", d.tee, "socket")
		}
	}
}

func (v validator) tpm() {
	c := &v.s.Config.TPM
	if c.Device == "" {
		v.report("tpm.device is empty", "remove the line for the default", "tpm", "device")
	}
	if path, ok := strings.CutPrefix(c.Device, "unix:"); ok {
		v.absolute(&path)
		c.Device = "unix:" + path
	} else if c.Device != DeviceAuto {
		v.absolute(&c.Device)
	}
	v.absolute(&c.Socket)
	if c.EK == "" {
		v.report("tpm.ek is empty", "remove the line for the default", "tpm", "ek")
	} else if err := agent.CheckTPMKeys(tpmKey(c.EK), ""); err != nil {
		v.report(err.Error(), "or auto, for what the TPM has", "tpm", "ek")
	}
	if c.AK == "" {
		v.report("tpm.ak is empty", "remove the line for the default", "tpm", "ak")
	} else if err := agent.CheckTPMKeys("", tpmKey(c.AK)); err != nil {
		v.report(err.Error(), "or auto, for what the TPM has", "tpm", "ak")
	}
	switch c.EventLog {
	case "":
		v.report("tpm.event_log is empty", "remove the line for the default, or write none", "tpm", "event_log")
	case DeviceAuto, agent.NoEventLog:
	default:
		v.absolute(&c.EventLog)
	}
}

func (v validator) keys() {
	k, err := agent.ParseKeyType(v.s.Config.KeyType)
	if err != nil {
		v.report(err.Error(), "", "key_type")
	}
	v.s.KeyType = k
	r, err := agent.ParseKeyResidency(v.s.Config.KeyResidency)
	switch {
	case err != nil:
		v.report(err.Error(), "", "key_residency")
	case r == agent.TPMKeys && k != agent.P256 && k != "":
		v.report(fmt.Sprintf("keys in the TPM are of type %s, not %s", agent.P256, k), "remove key_type, or key_residency", "key_type")
	case r == agent.TPMKeys && v.s.Config.Tee != TeeAuto && v.s.Config.Tee != string(attest.TPM2):
		v.report("there is no TPM to keep keys in: tee is "+v.s.Config.Tee, "key_residency: tpm needs tee: tpm2 or auto", "key_residency")
	}
	v.s.KeyResidency = r
}

func (v validator) notBefore() {
	s := v.s.Config.NotBefore
	if s == "" {
		return
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, s); err == nil {
			v.s.NotBefore = at
			return
		}
	}
	v.report(fmt.Sprintf("not_before %q is no time", s), `a day in UTC, "2026-11-22", or a moment, "2026-11-22T13:00:00Z"`, "not_before")
}

func (v validator) socket() {
	c := &v.s.Config
	if strings.HasPrefix(c.Socket, "@") {
		v.report("an abstract socket", "the Workload API is served on a file: abstract sockets have no owner and no mode", "socket")
		return
	}
	v.absolute(&c.Socket)
	if err := agent.CheckSocketPath(c.Socket); err != nil {
		v.report(err.Error(), "for example socket: "+agent.DefaultSocket, "socket")
	}
	mode, err := strconv.ParseUint(c.SocketMode, 8, 32)
	if err != nil || mode == 0 || mode > 0o777 || mode&0o111 != 0 {
		v.report(fmt.Sprintf("socket_mode %q is no mode of a socket", c.SocketMode), `in octal and quoted: "0666", "0660" or "0600"`, "socket_mode")
		return
	}
	v.s.SocketMode = fs.FileMode(mode)
	v.socketGroup()
}

func (v validator) socketGroup() {
	name := v.s.Config.SocketGroup
	if name == "" {
		return
	}
	if v.s.SocketMode&0o006 != 0 {
		v.report("socket_group says nothing while socket_mode lets everybody in", `add socket_mode: "0660"`, "socket_group")
		return
	}
	gid, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		g, lerr := user.LookupGroup(name)
		if lerr == nil {
			gid, lerr = strconv.ParseUint(g.Gid, 10, 31)
		}
		if lerr != nil {
			v.report(fmt.Sprintf("socket_group: %v", lerr), "groupadd it, or name one of /etc/group", "socket_group")
			return
		}
	}
	n := int(gid)
	v.s.SocketGroup = &n
}

func (v validator) processes() {
	p := &v.s.Config.Processes
	v.absolute(&p.DockerSocket)
	var sources []process.Source
	if p.DockerSocket != "" {
		sources = append(sources, process.NewDocker(p.DockerSocket))
	}
	if k := p.Kubelet; k != nil {
		v.absolute(&k.CA)
		v.absolute(&k.Token)
		src, err := process.NewKubelet(process.Kubelet{URL: k.URL, CA: k.CA, Token: k.Token})
		if err != nil {
			v.report(err.Error(), "for example kubelet: {url: "+process.DefaultKubelet+", ca: /etc/kubernetes/kubelet-ca.pem, token: "+process.DefaultKubeletToken+"}", "processes", "kubelet")
			return
		}
		sources = append(sources, src)
	}
	set, err := process.NewSet(sources...)
	if err != nil {
		v.report(err.Error(), "", "processes")
		return
	}
	v.s.Processes = set
}

func (v validator) log() {
	switch v.s.Config.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		v.report(fmt.Sprintf("unknown log level %q", v.s.Config.Log.Level), "debug, info, warn or error", "log", "level")
	}
	switch v.s.Config.Log.Format {
	case "text", "json":
	default:
		v.report(fmt.Sprintf("unknown log format %q", v.s.Config.Log.Format), "text or json", "log", "format")
	}
}
