// Dist makes a release from a source tree: for amd64 and arm64 a tarball of static
// binaries, Debian packages, and a software bill of materials (CycloneDX), and
// SHA256SUMS over all.
//
//	go -C scripts/dist run . -version 1.2.0 -out /tmp/dist
//
// It is repeatable: the same sources and the same Go make the same bytes, wherever
// and whenever. Nothing that is written knows a path, a user or a time but that of
// the commit (SOURCE_DATE_EPOCH). It runs no shell, and needs nothing but Go and,
// for packages, dpkg-deb.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("dist: ", err)
	}
}

// release is what is being made.
type release struct {
	source  string // the tree
	out     string
	work    string
	version string // "1.2.0"
	at      time.Time
}

// The binaries of a release, each in a package of its own.
var binaries = []string{"assayd", "assay-agent", "assay", "assay-signer"}

var versions = regexp.MustCompile(`^[0-9][0-9A-Za-z.+~-]{0,63}$`)

func run() (err error) {
	var r release
	arches := flag.String("arch", "amd64,arm64", "architectures, separated by commas")
	flag.StringVar(&r.source, "source", "../..", "the source tree")
	flag.StringVar(&r.out, "out", "", "the directory to make (required); it must be empty or missing")
	flag.StringVar(&r.version, "version", "", "the version; otherwise that of the commit")
	debs := flag.Bool("deb", true, "make Debian packages (needs dpkg-deb)")
	flag.Parse()
	if r.out == "" {
		return errors.New("-out is required")
	}
	for _, p := range []*string{&r.source, &r.out} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if r.at, err = commitTime(r.source); err != nil {
		return err
	}
	if r.version == "" {
		if r.version, err = commitVersion(r.source); err != nil {
			return err
		}
	}
	if !versions.MatchString(r.version) {
		return fmt.Errorf("%q is not a version: it begins with a digit", r.version)
	}
	if left, err := os.ReadDir(r.out); err == nil && len(left) > 0 {
		return fmt.Errorf("%s is not empty", r.out)
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil { //nolint:gosec // releases are public
		return err
	}
	if r.work, err = os.MkdirTemp("", "assay-dist"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.work)) }()

	for _, arch := range strings.Split(*arches, ",") {
		if err := r.architecture(arch, *debs); err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
	}
	return r.sums()
}

// architecture makes everything for one.
func (r *release) architecture(arch string, debs bool) error {
	if arch != "amd64" && arch != "arm64" {
		return errors.New("not an architecture that is released")
	}
	bin, err := r.build(arch)
	if err != nil {
		return err
	}
	if err := r.tarball(arch, bin); err != nil {
		return err
	}
	if err := r.billOfMaterials(arch, bin); err != nil {
		return err
	}
	if !debs {
		return nil
	}
	return r.packages(arch, bin)
}

// build builds the static binaries of an architecture. assay-signer is a module
// of its own, and without cgo it has no PKCS#11: `make signer` builds that where a
// C compiler is.
func (r *release) build(arch string) (dir string, err error) {
	dir = filepath.Join(r.work, arch)
	flags := []string{
		"build", "-mod=readonly", "-trimpath", "-tags=grpcnotrace", "-buildvcs=false",
		"-ldflags=-s -w -buildid= -X github.com/assay-project/assay/internal/cli.release=" + r.version, "-o", dir + string(filepath.Separator),
	}
	for _, m := range []struct {
		dir      string
		packages []string
	}{
		{r.source, []string{"./cmd/assayd", "./cmd/assay-agent", "./cmd/assay"}},
		{filepath.Join(r.source, "cmd", "assay-signer"), []string{"."}},
	} {
		c := exec.Command("go", append(flags, m.packages...)...)
		c.Dir = m.dir
		c.Env = append(environment(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if out, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build in %s: %w\n%s", m.dir, err, out)
		}
	}
	return dir, nil
}

// environment is the caller's, without what would change the binaries.
func environment() []string {
	var out []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		switch name {
		case "GOFLAGS", "GOAMD64", "GOARM64", "GOEXPERIMENT", "GOOS", "GOARCH", "CGO_ENABLED", "GOWORK", "GODEBUG", "GOFIPS140":
		default:
			out = append(out, e)
		}
	}
	return append(out, "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0")
}

// commitTime is SOURCE_DATE_EPOCH, or the time of the commit.
func commitTime(source string) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := git(source, "log", "-1", "--format=%ct")
		if err != nil {
			return time.Time{}, fmt.Errorf("set SOURCE_DATE_EPOCH: %w", err)
		}
		text = out
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q, want seconds", text)
	}
	return time.Unix(n, 0).UTC(), nil
}

// commitVersion is the tag of the commit without its v; otherwise a version that
// sorts by time and names the commit.
func commitVersion(source string) (string, error) {
	if tag, err := git(source, "describe", "--tags", "--exact-match", "--match", "v[0-9]*"); err == nil {
		return strings.TrimPrefix(tag, "v"), nil
	}
	out, err := git(source, "log", "-1", "--date=format-local:%Y%m%d%H%M%S", "--format=%cd.%h", "--abbrev=12")
	if err != nil {
		return "", fmt.Errorf("give -version: %w", err)
	}
	return "0~" + out, nil
}

func git(dir string, args ...string) (string, error) {
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "TZ=UTC")
	out, err := c.Output()
	return strings.TrimSpace(string(out)), err
}
