package deploy

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	agentconfig "github.com/assay-project/assay/enclave-agent/config"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/policy"
)

// The configurations and policies in the manifests are read by the programs' own
// parsers.
func TestTheManifestsConfigurationsAreOnes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("kubernetes/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, file := range files {
		d := yaml.NewDecoder(strings.NewReader(read(t, file)))
		for {
			var o struct {
				Kind     string
				Metadata struct{ Name string }
				Data     map[string]string
			}
			err := d.Decode(&o)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && o.Kind == "" {
				t.Fatalf("%s: %v", file, err)
			}
			if o.Kind != "ConfigMap" {
				continue
			}
			for name, text := range o.Data {
				path := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				found[name]++
				switch name {
				case "assayd.yaml":
					c, err := config.Load(path)
					if err != nil {
						t.Errorf("%s, %s: %v", file, o.Metadata.Name, err)
					} else if c.MetricsListen != ":9464" || c.Policy != "/etc/assay/policy.yaml" {
						t.Errorf("%s, %s: metrics at %s, policy %s", file, o.Metadata.Name, c.MetricsListen, c.Policy)
					}
				case "policy.yaml":
					if _, err := policy.Parse(path, []byte(text)); err != nil {
						t.Errorf("%s, %s: %v", file, o.Metadata.Name, err)
					}
				case "assay-agent.yaml":
					// The root is what the operator adds.
					text = strings.ReplaceAll(text, "/etc/assay/bootstrap-root.pem", path)
					if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
					if _, err := agentconfig.Load(path); err != nil && !strings.Contains(err.Error(), "bootstrap") {
						t.Errorf("%s, %s: %v", file, o.Metadata.Name, err)
					}
				case "bootstrap-root.pem":
				default:
					t.Errorf("%s, %s: what is %s?", file, o.Metadata.Name, name)
				}
			}
		}
	}
	if found["assayd.yaml"] != 3 || found["policy.yaml"] != 2 || found["assay-agent.yaml"] != 1 {
		t.Errorf("found %v", found)
	}
}
