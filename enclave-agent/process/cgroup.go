package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// SystemdUnit is the unit of the machine's service manager that the process
// belongs to: "orders.service".
const SystemdUnit = "systemd:unit"

// errNoCgroup is a process that is in no control group, or in one that cannot be
// told from here.
var errNoCgroup = errors.New("the process is in no control group that can be seen from here")

// cgroup is the path of the process's control group (cgroups(7)): of the unified
// hierarchy, or of systemd's own beside the older ones.
func (p *Process) cgroup() (string, error) {
	b, err := os.ReadFile(p.path("cgroup"))
	if err != nil {
		return "", gone(err)
	}
	return cgroupOf(string(b))
}

func cgroupOf(file string) (string, error) {
	found := ""
	for line := range strings.Lines(file) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			return "", fmt.Errorf("a line of another form than cgroups(7): %.80q", line)
		}
		if parts[0] == "0" && parts[1] == "" || parts[1] == "name=systemd" {
			if found = parts[2]; found != "/" && parts[1] != "" {
				break
			}
		}
	}
	// A path with ".." is outside the namespace of this process (cgroup_namespaces(7)).
	if !strings.HasPrefix(found, "/") || strings.Contains(found+"/", "/../") {
		return "", errNoCgroup
	}
	return found, nil
}

// unitOf is the first component of a control group's path below the slices: what
// comes further down a service names as it likes.
func unitOf(cgroup string) string {
	for part := range strings.SplitSeq(strings.TrimPrefix(cgroup, "/"), "/") {
		if strings.HasSuffix(part, ".slice") {
			continue
		}
		if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
			return part
		}
		return ""
	}
	return ""
}

// systemd is what the service manager arranged.
type systemd struct{}

// NewSystemd is the source of the kind "systemd".
func NewSystemd() Source { return systemd{} }

// Kind implements [Source].
func (systemd) Kind() string { return "systemd" }

// Facts implements [Source].
func (systemd) Facts(_ context.Context, p *Process, types []string) ([]Fact, error) {
	var out []Fact
	for _, t := range types {
		if t != SystemdUnit {
			continue
		}
		path, err := p.cgroup()
		if err != nil {
			return nil, err
		}
		if unit := unitOf(path); unit != "" {
			out = append(out, Fact{t, unit})
		}
	}
	return out, nil
}

// containerOf finds the id of the container, and the uid of the pod where there is
// one, in the path of a control group. Engines write it in a few ways:
//
//	/docker/ID                                        docker, cgroupfs
//	/system.slice/docker-ID.scope                     docker, systemd
//	/kubepods/burstable/podUID/ID                     kubelet, cgroupfs
//	/kubepods.slice/…/kubepods-podUID.slice/cri-containerd-ID.scope
//
// Only groups that root alone makes lead to a container. A user's service manager,
// and every service that control groups are delegated to, makes groups below its
// own and names them as it likes: there the search ends.
func containerOf(cgroup string) (id, pod string) {
	engines := false // the component before is one that holds containers by their bare ids
	for part := range strings.SplitSeq(strings.TrimPrefix(cgroup, "/"), "/") {
		if name, ok := strings.CutSuffix(part, ".scope"); ok {
			for _, engine := range []string{"docker-", "cri-containerd-", "crio-", "libpod-"} {
				if x, ok := strings.CutPrefix(name, engine); ok && isContainerID(x) {
					return x, pod
				}
			}
			return "", ""
		}
		if engines && isContainerID(part) {
			return part, pod
		}
		uid, isPod := podOf(part)
		switch {
		case isPod && pod == "":
			pod, engines = uid, true
		case part == "docker", part == "libpod_parent", part == "kubepods", part == "burstable", part == "besteffort":
			engines = true
		case strings.HasSuffix(part, ".slice") && !strings.HasPrefix(part, "user"):
			engines = false
		default:
			return "", ""
		}
	}
	return "", ""
}

func podOf(part string) (string, bool) {
	part = strings.TrimSuffix(part, ".slice")
	i := strings.LastIndex(part, "pod")
	if i < 0 || i > 0 && part[i-1] != '-' {
		return "", false
	}
	uid := strings.ReplaceAll(part[i+len("pod"):], "_", "-")
	if len(uid) != 36 && len(uid) != 32 {
		return "", false
	}
	if strings.Trim(uid, lowerHex+"-") != "" {
		return "", false
	}
	return uid, true
}

const lowerHex = "0123456789abcdef"

func isContainerID(s string) bool {
	return len(s) == 64 && strings.Trim(s, lowerHex) == ""
}

// container is the container that the process runs in; "" for a process that is in
// none, which is no error: of such a one everything is known.
func (p *Process) container() (id, pod string, err error) {
	path, err := p.cgroup()
	if err != nil {
		return "", "", err
	}
	id, pod = containerOf(path)
	return id, pod, nil
}
