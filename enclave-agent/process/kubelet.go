package process

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// The facts that the kubelet tells of a pod and of the container in it.
const (
	KubernetesNamespace      = "k8s:namespace"
	KubernetesServiceAccount = "k8s:service_account"
	KubernetesPod            = "k8s:pod"
	KubernetesPodLabel       = "k8s:pod_label" // "key:value"
	KubernetesContainer      = "k8s:container"
	KubernetesImageDigest    = "k8s:image_digest" // "sha256:…"
)

// Kubelet says where the node's kubelet is and how it is known.
type Kubelet struct {
	// URL of its API; "https://127.0.0.1:10250" where it is empty.
	URL string
	// CA is a PEM file with the authorities of its serving certificate, or with that
	// certificate: most kubelets sign their own (/var/lib/kubelet/pki/kubelet.crt).
	// Required: what answers is believed, and is sent the token.
	CA string
	// Token is a file with the bearer token, read for each question: it rotates.
	Token string
}

// Where pods find what they need (Kubernetes, "Accessing the API from a Pod").
const (
	DefaultKubelet      = "https://127.0.0.1:10250"
	DefaultKubeletToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path
)

// maxPods bounds the list of a node's pods.
const maxPods = 64 << 20 // bytes

type kubelet struct {
	url, token string
	api        *asker
}

// NewKubelet is the source of the kind "k8s".
func NewKubelet(k Kubelet) (Source, error) {
	if k.URL == "" {
		k.URL = DefaultKubelet
	}
	if !strings.HasPrefix(k.URL, "https://") {
		return nil, fmt.Errorf("the kubelet's URL %.80q is not one of https", k.URL)
	}
	if k.CA == "" {
		return nil, errors.New("the kubelet's CA is not named: anybody could answer in its place")
	}
	pem, err := os.ReadFile(k.CA)
	if err != nil {
		return nil, fmt.Errorf("the kubelet's CA: %w", err)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the kubelet's CA: %s holds no certificate", k.CA)
	}
	return &kubelet{strings.TrimSuffix(k.URL, "/"), k.Token, newAsker(&http.Transport{TLSClientConfig: t, ForceAttemptHTTP2: true})}, nil
}

// Kind implements [Source].
func (*kubelet) Kind() string { return "k8s" }

// pods is the part of a v1.PodList that is needed.
type pods struct {
	Items []struct {
		Metadata struct {
			Name, Namespace, UID string
			Labels               map[string]string
		}
		Spec   struct{ ServiceAccountName string }
		Status struct {
			ContainerStatuses, InitContainerStatuses, EphemeralContainerStatuses []containerStatus
		}
	}
}

type containerStatus struct {
	Name, ContainerID, ImageID string
	State                      struct{ Running *struct{} }
}

// Facts implements [Source].
func (k *kubelet) Facts(ctx context.Context, p *Process, types []string) ([]Fact, error) {
	id, pod, err := p.container()
	if err != nil || id == "" {
		return nil, err
	}
	return k.of(ctx, id, pod, types)
}

// of tells about the container with an id, in the pod with a uid; "" where the
// kernel does not name one.
func (k *kubelet) of(ctx context.Context, id, pod string, types []string) ([]Fact, error) {
	token := ""
	if k.token != "" {
		b, err := os.ReadFile(k.token)
		if err != nil {
			return nil, fmt.Errorf("the token for the kubelet: %w", err)
		}
		token = strings.TrimSpace(string(b))
	}
	// A container that began within the last second is not in a list of before.
	for _, fresh := range []bool{false, true} {
		list, err := ask[pods](ctx, k.api, k.url+"/pods", token, maxPods, fresh)
		if err != nil {
			return nil, fmt.Errorf("the kubelet: %w", err)
		}
		if facts, ok := list.of(id, pod, types); ok {
			return facts, nil
		}
	}
	return nil, errors.New("the kubelet knows no running container of that id")
}

// of tells about a running container, of those in the list.
func (list *pods) of(id, pod string, types []string) ([]Fact, bool) {
	for _, item := range list.Items {
		// The kernel names the pod as well: a container id alone would be the
		// kubelet's word.
		if pod != "" && strings.ReplaceAll(item.Metadata.UID, "-", "") != strings.ReplaceAll(pod, "-", "") {
			continue
		}
		for _, group := range [][]containerStatus{item.Status.ContainerStatuses, item.Status.InitContainerStatuses, item.Status.EphemeralContainerStatuses} {
			for _, c := range group {
				if _, cid, ok := strings.Cut(c.ContainerID, "://"); !ok || cid != id || c.State.Running == nil {
					continue
				}
				var out []Fact
				for _, t := range types {
					switch t {
					case KubernetesNamespace:
						out = append(out, Fact{t, item.Metadata.Namespace})
					case KubernetesServiceAccount:
						out = append(out, Fact{t, item.Spec.ServiceAccountName})
					case KubernetesPod:
						out = append(out, Fact{t, item.Metadata.Name})
					case KubernetesContainer:
						out = append(out, Fact{t, c.Name})
					case KubernetesPodLabel:
						for key, v := range item.Metadata.Labels {
							out = append(out, Fact{t, key + ":" + v})
						}
					case KubernetesImageDigest:
						if _, digest, ok := strings.Cut(c.ImageID, "@"); ok {
							out = append(out, Fact{t, digest})
						}
					}
				}
				return out, true
			}
		}
	}
	return nil, false
}
