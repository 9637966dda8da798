package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the guide shows of processes is a configuration that loads, and names every
// key that there is.
func TestTheGuidesProcessesLoad(t *testing.T) {
	b, err := os.ReadFile("../../docs/guides/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?m)^    processes:\n(?:      .*\n)+`).FindString(string(b))
	if block == "" {
		t.Fatal("the guide shows no processes")
	}
	dir := t.TempDir()
	root(t, filepath.Join(dir, "root.pem"), "attested.example.org")
	text := regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, "")
	text = regexp.MustCompile(`ca: \S+`).ReplaceAllString(text, "ca: root.pem")
	for _, key := range []string{"docker_socket:", "kubelet:", "ca:", "token:"} {
		if !strings.Contains(text, key) {
			t.Errorf("it does not name %s", key)
		}
	}
	s, err := Parse(filepath.Join(dir, FileName), []byte("trust_domain: attested.example.org\nserver: 10.0.0.1:8443\nbootstrap_roots: [root.pem]\n"+text))
	if err != nil || s.Processes == nil || s.Config.Processes.Kubelet == nil || s.Config.Processes.DockerSocket == "" {
		t.Errorf("%v\n%s", err, text)
	}
}
