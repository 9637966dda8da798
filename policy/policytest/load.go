package policytest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

// Suite is a file of tests with the policy that it is about.
type Suite struct {
	File       *File
	Bundle     *policy.Bundle
	PolicyFile string // its path
	Read       Reader // of files beside the tests
}

// Find lists the files of tests that a path means: itself, where it ends in
// .test.yaml; those about it, where it is a policy; those in it, where it is a
// directory. It is an error when there are none.
func Find(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() && strings.HasSuffix(path, Suffix) {
		return []string{path}, nil
	}
	dir := path
	if !info.IsDir() {
		dir = filepath.Dir(path)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.IsDir() || !strings.HasSuffix(e.Name(), Suffix) {
			continue
		}
		if info.IsDir() {
			out = append(out, name)
			continue
		}
		f, err := load(name)
		if err != nil {
			return nil, err
		}
		if filepath.Join(dir, f.Policy) == filepath.Clean(path) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: there are no tests: no file *%s in %s is about it", path, Suffix, dir)
	}
	slices.Sort(out)
	return out, nil
}

func reader(file string) Reader {
	return func(name string) ([]byte, error) {
		return cli.ReadFile(filepath.Join(filepath.Dir(file), name), MaxSize)
	}
}

func load(file string) (*File, error) {
	src, err := cli.ReadFile(file, MaxSize+1)
	if err != nil {
		return nil, err
	}
	return Parse(file, src, reader(file))
}

// Load reads a file of tests and compiles the policy that it is about. Evidence is
// not verified yet: see [File.Verify].
func Load(file string) (*Suite, error) {
	f, err := load(file)
	if err != nil {
		return nil, err
	}
	s := &Suite{File: f, PolicyFile: filepath.Join(filepath.Dir(file), f.Policy), Read: reader(file)}
	src, err := cli.ReadFile(s.PolicyFile, policy.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("%s: the policy: %w", file, err)
	}
	if s.Bundle, err = policy.Parse(s.PolicyFile, src); err != nil {
		return nil, err
	}
	return s, nil
}
