package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// The facts that the Docker engine tells of a container.
const (
	DockerImageID     = "docker:image_id"     // "sha256:…", of the image's configuration
	DockerImageDigest = "docker:image_digest" // "sha256:…", of the manifest in a registry
	DockerName        = "docker:name"         // without the slash
	DockerLabel       = "docker:label"        // "key:value"
)

// DefaultDockerSocket is where the engine listens.
const DefaultDockerSocket = "/var/run/docker.sock"

// maxEngineAnswer bounds what an engine says of one container or image.
const maxEngineAnswer = 4 << 20 // bytes

// docker asks the engine (Docker Engine API v1.41 or later; Podman speaks it too).
type docker struct{ engine *asker }

// NewDocker is the source of the kind "docker", which asks the engine on its
// socket.
func NewDocker(socket string) Source {
	return &docker{newAsker(&http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
	})}
}

// dockerContainer is the part of an inspected container that is needed.
type dockerContainer struct {
	ID     string `json:"Id"`
	Name   string
	Image  string
	State  struct{ Running bool }
	Config struct{ Labels map[string]string }
}

// dockerImage is that of an inspected image.
type dockerImage struct {
	ID          string `json:"Id"`
	RepoDigests []string
}

// Kind implements [Source].
func (*docker) Kind() string { return "docker" }

// Facts implements [Source].
func (d *docker) Facts(ctx context.Context, p *Process, types []string) ([]Fact, error) {
	id, _, err := p.container()
	if err != nil || id == "" {
		return nil, err
	}
	return d.of(ctx, id, types)
}

// of tells about the container with an id.
func (d *docker) of(ctx context.Context, id string, types []string) ([]Fact, error) {
	c, err := ask[dockerContainer](ctx, d.engine, "http://docker/v1.41/containers/"+id+"/json", "", maxEngineAnswer, false)
	if err != nil {
		return nil, fmt.Errorf("the engine: %w", err)
	}
	if c.ID != id || !c.State.Running {
		return nil, errors.New("the engine knows the container as another one, or as stopped")
	}
	var out []Fact
	for _, t := range types {
		switch t {
		case DockerImageID:
			out = append(out, Fact{t, c.Image})
		case DockerName:
			out = append(out, Fact{t, strings.TrimPrefix(c.Name, "/")})
		case DockerLabel:
			for k, v := range c.Config.Labels {
				if !strings.Contains(k, ":") { // "a:b" and "c" would read as "a" and "b:c"
					out = append(out, Fact{t, k + ":" + v})
				}
			}
		case DockerImageDigest:
			digests, err := d.digests(ctx, c.Image)
			if err != nil {
				return nil, err
			}
			for _, v := range digests {
				out = append(out, Fact{t, v})
			}
		}
	}
	return out, nil
}

// digests are those of the manifests under which registries gave out the image.
func (d *docker) digests(ctx context.Context, id string) ([]string, error) {
	i, err := ask[dockerImage](ctx, d.engine, "http://docker/v1.41/images/"+url.PathEscape(id)+"/json", "", maxEngineAnswer, false)
	if err != nil {
		return nil, fmt.Errorf("the engine: %w", err)
	}
	if i.ID != id {
		return nil, errors.New("the engine tells of another image than it was asked for")
	}
	var out []string
	for _, r := range i.RepoDigests {
		if _, digest, ok := strings.Cut(r, "@"); ok {
			out = append(out, digest)
		}
	}
	return out, nil
}
