package process

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	cid   = "9f3c1d2e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
	other = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	pod   = "7c5bd1a2-0a8b-4c3d-9e4f-5a6b7c8d9e0f"
	image = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	repo  = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

func TestControlGroupsNameContainersAndUnits(t *testing.T) {
	low := strings.ReplaceAll(pod, "-", "_")
	for _, x := range []struct{ file, unit, container, pod string }{
		{"0::/system.slice/orders.service\n", "orders.service", "", ""},
		// What a service, or a user's service manager, makes below itself is no container.
		{"0::/system.slice/orders.service/docker-" + cid + ".scope\n", "orders.service", "", ""},
		{"0::/system.slice/orders.service/docker/" + cid + "\n", "orders.service", "", ""},
		{"0::/user.slice/user-1000.slice/user@1000.service/docker-" + cid + ".scope\n", "user@1000.service", "", ""},
		{"0::/user.slice/user-1000.slice/kubepods-pod" + low + ".slice/cri-containerd-" + cid + ".scope\n", "cri-containerd-" + cid + ".scope", "", ""},
		{"0::/user.slice/user-1000.slice/user@1000.service/kubepods-pod" + low + ".slice/cri-containerd-" + cid + ".scope\n", "user@1000.service", "", ""},
		{"0::/system.slice/other-" + cid + ".scope\n", "other-" + cid + ".scope", "", ""},
		{"0::/" + cid + "\n", "", "", ""},
		{"0::/user.slice/user-1000.slice/user@1000.service/app.slice/evil.service\n", "user@1000.service", "", ""},
		{"0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope", "", ""},
		{"12:cpu:/x\n1:name=systemd:/system.slice/a.service\n0::/\n", "a.service", "", ""},
		{"0::/docker/" + cid + "\n", "", cid, ""},
		{"0::/machine.slice/libpod-" + cid + ".scope/container\n", "libpod-" + cid + ".scope", cid, ""},
		{"0::/system.slice/docker-" + cid + ".scope\n", "docker-" + cid + ".scope", cid, ""},
		{"0::/system.slice/docker-" + cid + ".scope/docker-" + other + ".scope\n", "docker-" + cid + ".scope", cid, ""},
		{"0::/kubepods/burstable/pod" + pod + "/" + cid + "\n", "", cid, pod},
		{"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + low + ".slice/cri-containerd-" + cid + ".scope\n", "cri-containerd-" + cid + ".scope", cid, pod},
		{"0::/kubepods.slice/kubepods-pod" + low + ".slice/crio-" + cid + ".scope/kubepods-pod" + strings.ReplaceAll(pod, "7", "8") + ".slice\n", "crio-" + cid + ".scope", cid, pod},
		{"0::/docker/" + cid[:63] + "G\n", "", "", ""},
		{"0::/made/by/hand.service\n", "", "", ""},
		{"0::/\n", "", "", ""},
	} {
		path, err := cgroupOf(x.file)
		if err != nil {
			t.Errorf("%q: %v", x.file, err)
			continue
		}
		id, p := containerOf(path)
		if got := unitOf(path); got != x.unit || id != x.container || p != x.pod {
			t.Errorf("%q: unit %q, container %q, pod %q; want %q, %q, %q", x.file, got, id, p, x.unit, x.container, x.pod)
		}
	}
	for _, file := range []string{"", "0::/../../docker/" + cid + "\n", "0::/..\n", "garbage\n", "7:cpu:/docker/" + cid + "\n"} {
		if path, err := cgroupOf(file); err == nil {
			t.Errorf("%q is taken for %q", file, path)
		}
	}
}

func FuzzControlGroups(f *testing.F) {
	f.Add("0::/kubepods/burstable/pod" + pod + "/" + cid + "\n")
	f.Add("1:name=systemd:/system.slice/a.service\n0::/\n")
	f.Fuzz(func(t *testing.T, file string) {
		path, err := cgroupOf(file)
		if err != nil {
			return
		}
		id, p := containerOf(path)
		if id != "" && !isContainerID(id) || strings.ContainsAny(p, "/.") || strings.Contains(unitOf(path), "/") {
			t.Errorf("%q: container %q, pod %q, unit %q", file, id, p, unitOf(path))
		}
	})
}

// The kernel's own word, where this test may make control groups.
func TestTheKernelTellsInWhichContainerAProcessIs(t *testing.T) {
	group := ""
	for _, root := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
		dir := filepath.Join(root, "docker", cid)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir); _ = os.Remove(filepath.Dir(dir)) })
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			group = dir
			break
		}
	}
	if group == "" {
		t.Skip("SKIPPED: NO CONTROL GROUP CAN BE MADE HERE")
	}
	c := connect(t, self(t), nil)
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(c.Process.Pid)), 0o600); err != nil {
		t.Skipf("SKIPPED: NO PROCESS CAN BE PUT INTO A CONTROL GROUP HERE: %v", err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() }) // before the group is removed
	p := pinned(t, c)
	id, _, err := p.container()
	if err != nil || id != cid {
		t.Fatalf("container %q, %v", id, err)
	}
	set, err := NewSet(NewDocker(engine(t, nil)))
	if err != nil {
		t.Fatal(err)
	}
	want := []Fact{{DockerName, "orders"}, {DockerLabel, "tier:gold"}}
	if s, err := set.Look(t.Context(), p, want); err != nil || !s.Matches(want) {
		t.Errorf("the container's facts: %+v, %v", s, err)
	}
}

// engine answers as the Docker Engine does (API v1.41): the fields that are read,
// among others.
func engine(t *testing.T, change func(container, img map[string]any)) string {
	t.Helper()
	container := map[string]any{
		"Id": cid, "Created": "2026-11-22T08:00:00.123456789Z", "Path": "/api", "Args": []string{}, "Name": "/orders", "Image": image,
		"State":  map[string]any{"Status": "running", "Running": true, "Paused": false, "Pid": 4242, "ExitCode": 0},
		"Config": map[string]any{"Hostname": "9f3c1d2e4b5a", "Image": "registry.example.org/orders:41", "Labels": map[string]string{"tier": "gold", "a:b": "c"}},
	}
	img := map[string]any{"Id": image, "RepoTags": []string{"registry.example.org/orders:41"}, "RepoDigests": []string{"registry.example.org/orders@" + repo}}
	if change != nil {
		change(container, img)
	}
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1.41/containers/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != cid {
			http.Error(w, `{"message":"No such container"}`, http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(container)
	})
	mux.HandleFunc("GET /v1.41/images/{id}/json", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(img) })
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	s.Start()
	t.Cleanup(s.Close)
	return l.Addr().String()
}

func TestTheEngineTellsOfTheContainer(t *testing.T) {
	d := NewDocker(engine(t, nil)).(*docker)
	types := []string{DockerImageID, DockerImageDigest, DockerName, DockerLabel}
	got, err := d.of(t.Context(), cid, types)
	want := []Fact{{DockerImageID, image}, {DockerImageDigest, repo}, {DockerName, "orders"}, {DockerLabel, "tier:gold"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, facts (-want +got):\n%s", err, diff)
	}
}

func TestAnEngineThatDoesNotKnowTheContainerTellsNothing(t *testing.T) {
	for name, x := range map[string]struct {
		id     string
		change func(c, i map[string]any)
	}{
		"unknown":       {other, nil},
		"another one":   {cid, func(c, _ map[string]any) { c["Id"] = other }},
		"stopped":       {cid, func(c, _ map[string]any) { c["State"] = map[string]any{"Running": false} }},
		"another image": {cid, func(_, i map[string]any) { i["Id"] = repo }},
		"not of a form": {cid, func(c, _ map[string]any) { c["Config"] = "text" }},
		"without end":   {cid, func(c, _ map[string]any) { c["Path"] = strings.Repeat("x", maxEngineAnswer) }},
	} {
		d := NewDocker(engine(t, x.change)).(*docker)
		if got, err := d.of(t.Context(), x.id, []string{DockerName, DockerImageDigest}); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got, err := NewDocker(filepath.Join(t.TempDir(), "none")).(*docker).of(t.Context(), cid, []string{DockerName}); err == nil {
		t.Errorf("no engine: %v", got)
	}
}

// node answers as a kubelet does on /pods, for who shows the token.
func node(t *testing.T, change func(pod map[string]any)) Kubelet {
	t.Helper()
	running := map[string]any{"running": map[string]any{"startedAt": "2026-11-22T08:00:00Z"}}
	item := map[string]any{
		"metadata": map[string]any{"name": "orders-0", "namespace": "shop", "uid": pod, "labels": map[string]string{"app": "orders"}},
		"spec":     map[string]any{"serviceAccountName": "orders", "containers": []any{map[string]any{"name": "api"}}},
		"status": map[string]any{"phase": "Running", "containerStatuses": []any{
			map[string]any{"name": "sidecar", "containerID": "containerd://" + other, "imageID": "registry.example.org/sidecar@" + image, "state": running},
			map[string]any{"name": "api", "containerID": "containerd://" + cid, "imageID": "registry.example.org/orders@" + repo, "state": running},
		}},
	}
	if change != nil {
		change(item)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /pods", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "PodList", "apiVersion": "v1", "items": []any{item}})
	})
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return Kubelet{URL: s.URL, CA: ca, Token: token}
}

func podFacts(t *testing.T, k Kubelet, id, uid string) ([]Fact, error) {
	t.Helper()
	src, err := NewKubelet(k)
	if err != nil {
		t.Fatal(err)
	}
	return src.(*kubelet).of(t.Context(), id, uid, []string{KubernetesNamespace, KubernetesServiceAccount, KubernetesPod, KubernetesContainer, KubernetesPodLabel, KubernetesImageDigest})
}

func TestTheKubeletTellsOfThePod(t *testing.T) {
	want := []Fact{
		{KubernetesNamespace, "shop"}, {KubernetesServiceAccount, "orders"}, {KubernetesPod, "orders-0"},
		{KubernetesContainer, "api"}, {KubernetesPodLabel, "app:orders"}, {KubernetesImageDigest, repo},
	}
	k := node(t, nil)
	got, err := podFacts(t, k, cid, pod)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, facts (-want +got):\n%s", err, diff)
	}
}

func TestAKubeletThatDoesNotKnowTheContainerTellsNothing(t *testing.T) {
	k := node(t, nil)
	if got, err := podFacts(t, k, strings.Repeat("a", 64), pod); err == nil {
		t.Errorf("an unknown container: %v", got)
	}
	if got, err := podFacts(t, k, cid, strings.ReplaceAll(pod, "7", "8")); err == nil {
		t.Errorf("a container that the kernel sees in another pod: %v", got)
	}
	if err := os.WriteFile(k.Token, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := podFacts(t, k, cid, pod); err == nil {
		t.Errorf("a wrong token: %v", got)
	}
	ended := node(t, func(p map[string]any) {
		for _, c := range p["status"].(map[string]any)["containerStatuses"].([]any) {
			c.(map[string]any)["state"] = map[string]any{"terminated": map[string]any{"exitCode": 0}}
		}
	})
	if got, err := podFacts(t, ended, cid, pod); err == nil {
		t.Errorf("a container that ended: %v", got)
	}
}

func TestAKubeletMustShowACertificateThatIsKnown(t *testing.T) {
	k := node(t, nil)
	for name, x := range map[string]Kubelet{
		"no CA":             {URL: k.URL, Token: k.Token},
		"no CA file":        {URL: k.URL, CA: k.CA + "x", Token: k.Token},
		"plain HTTP":        {URL: "http://127.0.0.1:10255", CA: k.CA},
		"no certificate":    {URL: k.URL, CA: k.Token},
		"no URL of a place": {URL: "kubelet", CA: k.CA},
	} {
		if _, err := NewKubelet(x); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	// One that shows another certificate is not sent the token.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := podFacts(t, k, cid, pod); err == nil {
		t.Errorf("a kubelet under another authority: %v", got)
	}
}

func TestThereIsOneSourceOfAKind(t *testing.T) {
	if _, err := NewSet(NewDocker("/a"), NewDocker("/b")); err == nil {
		t.Error("two engines are taken")
	}
}
