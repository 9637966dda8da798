package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// debian is one package.
type debian struct {
	name, binary string
	summary      string
	description  string
	depends      string
	units        []string
	files        []file
	user         bool // it needs the users and the sockets' directory
}

// packages makes the Debian packages. Names: the binaries', but assay-cli, since
// "assay" alone says too little.
func (r *release) packages(arch, bin string) error {
	docs, err := r.docs("usr/share/doc/assay")
	if err != nil {
		return err
	}
	deploy := func(name string) string { return filepath.Join(r.source, "deploy", name) }
	unit := func(name string) file {
		return file{name: "usr/lib/systemd/system/" + name, from: deploy("systemd/" + name), mode: 0o644}
	}
	for _, d := range []debian{
		{
			name: "assay-common", summary: "users and directories of Assay's services, and its documents",
			description: "The system users of Assay's server, agent and signer, the directory of their\n sockets, and the documents.",
			depends:     "systemd (>= 249)",
			files: append(docs,
				file{name: "usr/lib/sysusers.d/assay.conf", from: deploy("systemd/sysusers.conf"), mode: 0o644},
				file{name: "usr/lib/tmpfiles.d/assay.conf", from: deploy("systemd/tmpfiles.conf"), mode: 0o644}),
			user: true,
		},
		{
			name: "assayd", binary: "assayd", summary: "attestation service that issues SPIFFE identities",
			description: "Checks hardware evidence against policy and issues attested SVIDs.",
			depends:     "assay-common (= " + r.version + ")", units: []string{"assayd.service"},
			files: []file{
				{name: "usr/share/assay/grafana/assay.json", from: deploy("grafana/assay.json"), mode: 0o644},
				{name: "usr/share/assay/prometheus/assay.rules.yaml", from: deploy("prometheus/assay.rules.yaml"), mode: 0o644},
			},
		},
		{
			name: "assay-agent", binary: "assay-agent", summary: "SPIFFE Workload API inside a TEE",
			description: "Attests a Nitro Enclave, an SEV-SNP guest or a machine with a TPM, and serves\n SVIDs to workloads.",
			depends:     "assay-common (= " + r.version + ")", units: []string{"assay-agent.service"},
			files: []file{{name: "usr/lib/udev/rules.d/60-assay-agent.rules", from: deploy("systemd/60-assay-agent.rules"), mode: 0o644}},
		},
		{
			name: "assay-cli", binary: "assay", summary: "policy, evidence, ledger and administration of Assay",
			description: "The command of security teams and administrators.",
		},
		{
			name: "assay-signer", binary: "assay-signer", summary: "keys of Assay in a key service",
			description: "Signs for assayd with keys in AWS KMS, Vault, Google Cloud KMS or Azure Key\n Vault. This build has no PKCS#11, which needs cgo: see docs/guides/hsm.md.",
			depends:     "assay-common (= " + r.version + ")", units: []string{"assay-signer.service"},
		},
	} {
		if d.binary != "" {
			d.files = append(d.files, file{name: "usr/bin/" + d.binary, from: filepath.Join(bin, d.binary), mode: 0o755})
			completions, err := r.completions(d.binary)
			if err != nil {
				return err
			}
			d.files = append(d.files, completions...)
		}
		for _, u := range d.units {
			d.files = append(d.files, unit(u))
		}
		if err := r.deb(d, arch); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

// completions are made by running the binary of this machine's architecture: they
// are the same for all.
func (r *release) completions(binary string) (out []file, err error) {
	dir := filepath.Join(r.work, runtime.GOARCH) // as it was released, if it was
	if _, err := os.Stat(filepath.Join(dir, binary)); err != nil {
		if err := r.buildHost(dir); err != nil {
			return nil, err
		}
	}
	for shell, name := range map[string]string{
		"bash": "usr/share/bash-completion/completions/" + binary, "zsh": "usr/share/zsh/vendor-completions/_" + binary, "fish": "usr/share/fish/vendor_completions.d/" + binary + ".fish",
	} {
		body, err := exec.Command(filepath.Join(dir, binary), "completion", shell).Output()
		if err != nil {
			return nil, fmt.Errorf("%s completion %s: %w", binary, shell, err)
		}
		out = append(out, file{name: name, body: body, mode: 0o644})
	}
	return out, nil
}

func (r *release) buildHost(dir string) error {
	for _, m := range [][]string{{r.source, "./cmd/assayd", "./cmd/assay-agent", "./cmd/assay"}, {filepath.Join(r.source, "cmd", "assay-signer"), "."}} {
		c := exec.Command("go", append([]string{"build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", dir + string(filepath.Separator)}, m[1:]...)...)
		c.Dir, c.Env = m[0], append(environment(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	return nil
}

// deb lays a package out and has dpkg-deb put it together. dpkg-deb takes times
// from SOURCE_DATE_EPOCH and owners from --root-owner-group; what is left to see
// to are the modes and times of the files.
func (r *release) deb(d debian, arch string) error {
	root := filepath.Join(r.work, "deb", arch, d.name)
	size := int64(0)
	slices.SortFunc(d.files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	var sums bytes.Buffer
	for _, f := range d.files {
		body, err := f.read()
		if err != nil {
			return err
		}
		size += int64(len(body))
		if err := r.place(root, f.name, body, f.mode); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(&sums, "%s  %s\n", md5Hex(body), f.name)
	}
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: The Assay project <maintainers@assay-project.invalid>\nInstalled-Size: %d\n", d.name, r.version, arch, (size+1023)/1024)
	if d.depends != "" {
		control += "Depends: " + d.depends + "\n"
	}
	control += fmt.Sprintf("Section: net\nPriority: optional\nHomepage: https://github.com/assay-project/assay\nDescription: %s\n %s\n", d.summary, d.description)
	if err := r.place(root, "DEBIAN/control", []byte(control), 0o644); err != nil {
		return err
	}
	if err := r.place(root, "DEBIAN/md5sums", sums.Bytes(), 0o644); err != nil {
		return err
	}
	for name, body := range scripts(d) {
		if err := r.place(root, "DEBIAN/"+name, []byte(body), 0o755); err != nil {
			return err
		}
	}
	if err := r.settle(root); err != nil {
		return err
	}
	c := exec.Command("dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build", root, filepath.Join(r.out, d.name+"_"+r.version+"_"+arch+".deb"))
	c.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.at.Unix()), "LC_ALL=C")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb: %w\n%s", err, out)
	}
	return nil
}

func (r *release) place(root, name string, body []byte, mode os.FileMode) error {
	path := filepath.Join(root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // the directories of a package
		return err
	}
	return os.WriteFile(path, body, mode)
}

// settle gives everything the modes that it was made with, whatever the umask, and
// the commit's time.
func (r *release) settle(root string) error {
	return filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() || info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		if err := os.Chmod(p, mode); err != nil {
			return err
		}
		return os.Chtimes(p, r.at, r.at)
	})
}

// scripts are the maintainer scripts. A package starts nothing: there is no
// configuration yet. What runs is started again after an upgrade.
func scripts(d debian) map[string]string {
	out := map[string]string{}
	if d.user {
		out["postinst"] = "#!/bin/sh\nset -e\nif [ \"$1\" = configure ] && command -v systemd-sysusers >/dev/null; then\n\tsystemd-sysusers assay.conf\n\tsystemd-tmpfiles --create assay.conf || true\nfi\n"
	}
	for _, u := range d.units {
		out["postinst"] = "#!/bin/sh\nset -e\nif [ \"$1\" = configure ] && [ -d /run/systemd/system ]; then\n\tsystemctl daemon-reload\n\tsystemctl try-restart " + u + " || true\nfi\n"
		out["prerm"] = "#!/bin/sh\nset -e\nif [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then\n\tsystemctl disable --now " + u + " || true\nfi\n"
		out["postrm"] = "#!/bin/sh\nset -e\n# Data and keys stay, whatever is purged: /var/lib/assay is the operator's to remove.\nif [ -d /run/systemd/system ]; then\n\tsystemctl daemon-reload || true\nfi\n"
	}
	return out
}
