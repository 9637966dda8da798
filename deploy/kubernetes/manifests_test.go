package kubernetes

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// kustomization is what the manifests use of Kustomize.
type kustomization struct {
	metav1.TypeMeta `json:",inline"`
	Resources       []string `json:"resources"`
}

// set is what one directory's kustomization applies.
type set struct {
	pods          map[string]corev1.PodTemplateSpec // by "Kind/namespace/name"
	services      []corev1.Service
	configs       map[string]corev1.ConfigMap
	claims, names map[string]bool
	policies      []networkingv1.NetworkPolicy
	budgets       []policyv1.PodDisruptionBudget
	statefulSets  []appsv1.StatefulSet
	drivers       []storagev1.CSIDriver
	namespaces    map[string]corev1.Namespace
}

// load decodes every document strictly: a key that the type does not have, or one
// that comes twice, is an error.
func load(t *testing.T, dir string) *set {
	t.Helper()
	s := &set{pods: map[string]corev1.PodTemplateSpec{}, configs: map[string]corev1.ConfigMap{}, claims: map[string]bool{}, names: map[string]bool{}, namespaces: map[string]corev1.Namespace{}}
	var k kustomization
	decode(t, filepath.Join(dir, "kustomization.yaml"), read(t, filepath.Join(dir, "kustomization.yaml")), &k)
	if len(k.Resources) == 0 {
		t.Fatalf("%s has no resources", dir)
	}
	listed := map[string]bool{"kustomization.yaml": true}
	for _, r := range k.Resources {
		listed[r] = true
		file := filepath.Join(dir, r)
		for i, doc := range bytes.Split(read(t, file), []byte("\n---\n")) {
			s.add(t, fmt.Sprintf("%s[%d]", file, i), doc)
		}
	}
	all, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if !listed[filepath.Base(f)] {
			t.Errorf("%s is in no kustomization", f)
		}
	}
	return s
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t *testing.T, where string, doc []byte, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(doc, into); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
}

func (s *set) add(t *testing.T, where string, doc []byte) {
	t.Helper()
	var head metav1.PartialObjectMetadata
	if err := yaml.Unmarshal(doc, &head); err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	key := head.Kind + "/" + head.Namespace + "/" + head.Name
	if s.names[key] {
		t.Errorf("%s: %s comes twice", where, key)
	}
	s.names[key] = true
	version := map[string]string{
		"Namespace": "v1", "ServiceAccount": "v1", "ConfigMap": "v1", "Service": "v1", "PersistentVolumeClaim": "v1", "Job": "batch/v1",
		"StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "NetworkPolicy": "networking.k8s.io/v1", "PodDisruptionBudget": "policy/v1", "CSIDriver": "storage.k8s.io/v1",
	}
	if head.APIVersion != version[head.Kind] {
		t.Fatalf("%s: %s %s, want the version %q", where, head.APIVersion, head.Kind, version[head.Kind])
	}
	if head.Namespace == "" && head.Kind != "Namespace" && head.Kind != "CSIDriver" {
		t.Errorf("%s: %s has no namespace", where, key)
	}
	switch head.Kind {
	case "Namespace":
		var o corev1.Namespace
		decode(t, where, doc, &o)
		s.namespaces[o.Name] = o
	case "ServiceAccount":
		var o corev1.ServiceAccount
		decode(t, where, doc, &o)
		if o.AutomountServiceAccountToken == nil || *o.AutomountServiceAccountToken {
			t.Errorf("%s: %s mounts a token that nothing needs", where, key)
		}
	case "ConfigMap":
		var o corev1.ConfigMap
		decode(t, where, doc, &o)
		s.configs[o.Namespace+"/"+o.Name] = o
	case "Service":
		var o corev1.Service
		decode(t, where, doc, &o)
		s.services = append(s.services, o)
	case "PersistentVolumeClaim":
		var o corev1.PersistentVolumeClaim
		decode(t, where, doc, &o)
		s.claims[o.Namespace+"/"+o.Name] = true
	case "Job":
		var o batchv1.Job
		decode(t, where, doc, &o)
		s.pods[key] = o.Spec.Template
	case "StatefulSet":
		var o appsv1.StatefulSet
		decode(t, where, doc, &o)
		s.statefulSets = append(s.statefulSets, o)
		s.pods[key] = o.Spec.Template
		selects(t, key, o.Spec.Selector, o.Spec.Template)
	case "DaemonSet":
		var o appsv1.DaemonSet
		decode(t, where, doc, &o)
		s.pods[key] = o.Spec.Template
		selects(t, key, o.Spec.Selector, o.Spec.Template)
	case "NetworkPolicy":
		var o networkingv1.NetworkPolicy
		decode(t, where, doc, &o)
		s.policies = append(s.policies, o)
	case "PodDisruptionBudget":
		var o policyv1.PodDisruptionBudget
		decode(t, where, doc, &o)
		s.budgets = append(s.budgets, o)
	case "CSIDriver":
		var o storagev1.CSIDriver
		decode(t, where, doc, &o)
		s.drivers = append(s.drivers, o)
	}
}

func selects(t *testing.T, key string, selector *metav1.LabelSelector, pod corev1.PodTemplateSpec) {
	t.Helper()
	m, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || m.Empty() || !m.Matches(labels.Set(pod.Labels)) {
		t.Errorf("%s does not select its own pods (%v)", key, err)
	}
}

var sets = []string{"base", "postgresql"}

func each(t *testing.T, f func(t *testing.T, s *set)) {
	t.Helper()
	for _, dir := range sets {
		t.Run(dir, func(t *testing.T) { f(t, load(t, dir)) })
	}
}

// Whatever a pod mounts or names is there, and every mount has its volume.
func TestPodsNameWhatIsThere(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		for key, pod := range s.pods {
			ns := strings.Split(key, "/")[1]
			volumes := map[string]bool{}
			for _, v := range pod.Spec.Volumes {
				volumes[v.Name] = true
				if c := v.PersistentVolumeClaim; c != nil && !s.claims[ns+"/"+c.ClaimName] {
					t.Errorf("%s: there is no claim %s", key, c.ClaimName)
				}
				if v.Projected != nil {
					for _, p := range v.Projected.Sources {
						if c := p.ConfigMap; c == nil || len(s.configs[ns+"/"+c.Name].Data) == 0 {
							t.Errorf("%s: the volume %s projects what is not there", key, v.Name)
						}
					}
				}
			}
			used := map[string]bool{}
			for _, c := range pod.Spec.Containers {
				for _, m := range c.VolumeMounts {
					used[m.Name] = true
					if !volumes[m.Name] {
						t.Errorf("%s: %s mounts %s, which is no volume", key, c.Name, m.Name)
					}
				}
			}
			for v := range volumes {
				if !used[v] {
					t.Errorf("%s: nobody mounts the volume %s", key, v)
				}
			}
			if account := pod.Spec.ServiceAccountName; !s.names["ServiceAccount/"+ns+"/"+account] {
				t.Errorf("%s: there is no service account %q", key, account)
			}
			if s.namespaces[ns].Name == "" {
				t.Errorf("%s: there is no namespace %q", key, ns)
			}
		}
	})
}

// The server's pods are as closed as the "restricted" standard demands, and more:
// nothing of the cluster is in them, and nothing writes but to the volume.
func TestServersRunWithoutRightsAndAgentsWithTheirDevice(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		if got := s.namespaces["assay"].Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
			t.Errorf("the namespace enforces %q", got)
		}
		for key, pod := range s.pods {
			if a := pod.Spec.AutomountServiceAccountToken; a == nil || *a {
				t.Errorf("%s mounts a token", key)
			}
			// The agent alone sees the host's processes: it tells callers apart by them.
			if agent := key == "DaemonSet/assay-agents/assay-agent"; pod.Spec.HostNetwork || pod.Spec.HostIPC || pod.Spec.HostPID != agent {
				t.Errorf("%s: host's namespaces: network %t, IPC %t, PID %t", key, pod.Spec.HostNetwork, pod.Spec.HostIPC, pod.Spec.HostPID)
			}
			for _, c := range pod.Spec.Containers {
				sc := c.SecurityContext
				if sc == nil || sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem {
					t.Errorf("%s/%s can write to its image", key, c.Name)
					continue
				}
				if strings.Contains(key, "/assay-agents/") {
					continue
				}
				if sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation || sc.Privileged != nil || sc.Capabilities == nil || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(sc.Capabilities.Add) > 0 {
					t.Errorf("%s/%s has rights", key, c.Name)
				}
			}
			if strings.Contains(key, "/assay-agents/") {
				continue
			}
			p := pod.Spec.SecurityContext
			if p == nil || p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.RunAsUser == nil || *p.RunAsUser != 65532 || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s runs with %+v", key, p)
			} else if p.FSGroupChangePolicy == nil || *p.FSGroupChangePolicy != corev1.FSGroupChangeOnRootMismatch {
				t.Errorf("%s opens the keys to its group at every start", key)
			}
			for _, v := range pod.Spec.Volumes {
				if v.HostPath != nil {
					t.Errorf("%s has a path of the host's", key)
				}
			}
		}
	})
}

func TestServersAreProbedAndStoppedInTime(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		servers := map[string]bool{}
		for _, o := range s.statefulSets {
			if o.Spec.Replicas == nil || *o.Spec.Replicas != 1 {
				t.Errorf("%s has more than one replica: each server has keys and a chain of its own", o.Name)
			}
			pod := o.Spec.Template
			if g := pod.Spec.TerminationGracePeriodSeconds; g == nil || *g < 30 {
				t.Errorf("%s is killed before the ledger's last checkpoint", o.Name)
			}
			c := pod.Spec.Containers[0]
			ports := map[string]int32{}
			for _, p := range c.Ports {
				ports[p.Name] = p.ContainerPort
			}
			for what, p := range map[string]*corev1.Probe{"/live liveness": c.LivenessProbe, "/ready readiness": c.ReadinessProbe, "/live startup": c.StartupProbe} {
				path, _, _ := strings.Cut(what, " ")
				if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || ports[p.HTTPGet.Port.String()] != 9464 {
					t.Errorf("%s: the %s probe asks %+v", o.Name, what, p)
				}
			}
			// The configuration that it mounts listens where its ports are.
			text := ""
			for _, v := range pod.Spec.Volumes {
				if v.Projected != nil {
					for _, p := range v.Projected.Sources {
						text += s.configs["assay/"+p.ConfigMap.Name].Data["assayd.yaml"]
					}
				}
			}
			for _, want := range []string{fmt.Sprintf(`listen: ":%d"`, ports["attestation"]), fmt.Sprintf(`metrics_listen: ":%d"`, ports["metrics"]), "data_dir: /var/lib/assay/data\n"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s: its configuration does not say %s", o.Name, want)
				}
			}
			server := pod.Labels["assay.example.org/server"]
			if servers[server] || !strings.Contains(text, "server: "+server+"\n") {
				t.Errorf("%s: the server %q comes twice, or its configuration has another name", o.Name, server)
			}
			servers[server] = true
		}
		if len(servers) == 0 {
			t.Error("there is no server")
		}
	})
}

// Evidence is bound to the TLS connection: whatever forwards it is layer 4.
func TestOnlyLayerFourStandsBeforeTheServers(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		public := 0
		for _, v := range s.services {
			matched := 0
			for _, pod := range s.pods {
				if labels.SelectorFromSet(v.Spec.Selector).Matches(labels.Set(pod.Labels)) {
					matched++
					for _, p := range v.Spec.Ports {
						ok := slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool {
							return c.Name == p.TargetPort.String() && c.ContainerPort == p.Port && c.Protocol == p.Protocol
						})
						if !ok || p.Protocol != corev1.ProtocolTCP || p.AppProtocol != nil {
							t.Errorf("%s: port %s is not plain TCP to the port of that name", v.Name, p.Name)
						}
					}
				}
			}
			if matched == 0 {
				t.Errorf("%s selects nothing", v.Name)
			}
			if v.Spec.Type == corev1.ServiceTypeLoadBalancer {
				public++
				if v.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
					t.Errorf("%s hides the agents' addresses", v.Name)
				}
				if len(v.Spec.Ports) != 1 || v.Spec.Ports[0].Port != 8443 {
					t.Errorf("%s shows more than the attestation service", v.Name)
				}
			} else if v.Spec.ClusterIP != corev1.ClusterIPNone {
				t.Errorf("%s is neither a balancer nor headless", v.Name)
			}
		}
		if public != 1 {
			t.Errorf("%d services are public", public)
		}
		for key := range s.names {
			if strings.HasPrefix(key, "Ingress/") {
				t.Errorf("%s ends TLS", key)
			}
		}
	})
}

func TestEveryPodHasANetworkPolicyAndServersABudget(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		for key, pod := range s.pods {
			if strings.HasPrefix(key, "Job/") {
				continue
			}
			ns := strings.Split(key, "/")[1]
			found := false
			for _, p := range s.policies {
				m, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
				if err == nil && p.Namespace == ns && m.Matches(labels.Set(pod.Labels)) {
					found = found || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
				}
			}
			if !found {
				t.Errorf("%s has no network policy in both directions", key)
			}
		}
		for _, p := range s.policies {
			for _, in := range p.Spec.Ingress {
				for _, port := range in.Ports {
					if port.Port.IntVal == 9464 && len(in.From) == 0 {
						t.Errorf("%s: everybody reads the metrics", p.Name)
					}
				}
			}
		}
		if len(s.budgets) != 1 {
			t.Fatalf("%d disruption budgets", len(s.budgets))
		}
		b := s.budgets[0]
		m, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, o := range s.statefulSets {
			if m.Matches(labels.Set(o.Spec.Template.Labels)) {
				n++
			}
		}
		if n != len(s.statefulSets) {
			t.Errorf("the budget is for %d of %d servers", n, len(s.statefulSets))
		}
		if n > 1 && (b.Spec.MinAvailable == nil || b.Spec.MinAvailable.IntVal < 1) {
			t.Error("all servers may be drained at once")
		}
		if n == 1 && b.Spec.MaxUnavailable == nil {
			t.Error("the only server's node cannot be drained")
		}
	})
}

// Pods find the agent's socket through the CSI driver, under the name that both
// agree on.
func TestTheAgentsSocketIsWhereTheDriverLooks(t *testing.T) {
	s := load(t, "base")
	pod, ok := s.pods["DaemonSet/assay-agents/assay-agent"]
	if !ok || len(s.drivers) != 1 {
		t.Fatal("there is no agent or no driver")
	}
	host := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		if v.HostPath != nil {
			host[v.Name] = v.HostPath.Path
		}
	}
	if !strings.Contains(s.configs["assay-agents/assay-agent"].Data["assay-agent.yaml"], "socket: "+host["socket"]+"/agent.sock\n") {
		t.Error("the agent's socket is elsewhere than the host's path")
	}
	for _, c := range pod.Spec.Containers {
		args := strings.Join(c.Args, " ")
		switch c.Name {
		case "assay-agent":
			if c.ReadinessProbe == nil || c.ReadinessProbe.Exec == nil || !slices.Equal(c.ReadinessProbe.Exec.Command, []string{"/usr/bin/assay-agent", "healthcheck"}) {
				t.Error("the agent is not probed")
			}
		case "spiffe-csi-driver":
			i := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "socket" })
			if i < 0 || !c.VolumeMounts[i].ReadOnly || !strings.Contains(args, "-workload-api-socket-dir "+c.VolumeMounts[i].MountPath+" ") || !strings.Contains(args, "-plugin-name "+s.drivers[0].Name+" ") {
				t.Errorf("the driver looks elsewhere: %s", args)
			}
		case "registrar":
			if !strings.Contains(args, host["csi"]+"/csi.sock") || !strings.HasSuffix(host["csi"], "/"+s.drivers[0].Name) {
				t.Errorf("the driver is registered elsewhere: %s", args)
			}
		}
	}
	if !slices.Equal(s.drivers[0].Spec.VolumeLifecycleModes, []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}) {
		t.Error("the driver's volumes outlive their pods")
	}
}

// An unknown key must not pass: this is what makes the other tests worth having.
func TestAKeyThatKubernetesDoesNotKnowIsFound(t *testing.T) {
	var o appsv1.StatefulSet
	doc := bytes.Replace(read(t, "base/server.yaml"), []byte("terminationGracePeriodSeconds"), []byte("terminationGraceSeconds"), 1)
	found := false
	for _, d := range bytes.Split(doc, []byte("\n---\n")) {
		if bytes.Contains(d, []byte("kind: StatefulSet")) {
			found = true
			if err := yaml.UnmarshalStrict(d, &o); err == nil {
				t.Error("it passed")
			}
		}
	}
	if !found {
		t.Fatal("there is no StatefulSet")
	}
}
