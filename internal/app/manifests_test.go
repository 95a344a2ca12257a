package app

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// Each manifest lets the agents do what its own arguments make them do, also
// where a user adds BGP peers to them, and nothing else: list and watch what the
// controllers subscribe to, post Events, and what giving out addresses takes.
func TestManifestsGrantWhatIsUsed(t *testing.T) {
	var files []string
	for _, pattern := range []string{"deploy/kube-router-*.yaml", "deploy/k3s/*.yaml", "daemonset/*.yaml", "daemonset/*/*.yaml"} {
		found, err := filepath.Glob(filepath.Join("../..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	judged := 0
	for _, file := range files {
		args, granted := readManifest(t, file)
		switch filepath.Base(file) {
		case "kube-router-loadbalancer.yaml": // its flags are the user's
			args = []string{"--run-router=false", "--run-service-proxy=false", "--run-firewall=false", "--run-loadbalancer", "--loadbalancer-ip-range=192.0.2.0/24"}
		case "kube-router-custom.yaml": // what its DaemonSet has in the manual
			args = strings.Fields("--run-router=true --run-firewall=true --run-service-proxy=true --bgp-graceful-restart=true")
		}
		args = append(args, "--peer-router-ips=192.0.2.1", "--peer-router-asns=64512")
		if want := used(t, args); !slices.Equal(granted, want) {
			t.Errorf("%s grants\n%s\nand its agents use\n%s", file, strings.Join(granted, "\n"), strings.Join(want, "\n"))
		}
		judged++
	}
	if judged < 12 {
		t.Errorf("%d manifests were judged", judged)
	}
}

// The paths at which tutorials apply the manifest have the objects of
// deploy/kube-router-all-features.yaml.
func TestKnownPaths(t *testing.T) {
	want := objectsOf(t, "deploy/kube-router-all-features.yaml")
	for _, name := range []string{"daemonset/kubeadm/kube-router-all-features.yaml", "daemonset/kube-router-all-service-daemonset.yaml"} {
		if got := objectsOf(t, name); !slices.Equal(got, want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
}

// The DaemonSet of a tutorial, as it is printed there, finds the account and
// the kubeconfig that it names in deploy/kube-router-custom.yaml, and its agents
// take its arguments.
func TestCustomDaemonSet(t *testing.T) {
	text, err := os.ReadFile("../../lab/e2e/testdata/custom-daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.DaemonSet
	if err := yaml.UnmarshalStrict(text, &d); err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	cfg := testAgent(t, pod.Containers[0].Args...).cfg
	if !cfg.RunRouter || !cfg.RunFirewall || !cfg.RunServiceProxy || !cfg.BGP.GracefulRestart || len(cfg.Warnings) > 0 {
		t.Errorf("its arguments make %+v", cfg)
	}
	var config string
	for _, v := range pod.Volumes {
		if v.ConfigMap != nil {
			config = v.ConfigMap.Name
		}
	}
	beside := objectsOf(t, "deploy/kube-router-custom.yaml")
	for _, want := range []string{"kind: ServiceAccount\nmetadata:\n  name: " + pod.ServiceAccountName, "kind: ConfigMap\nmetadata:\n  name: " + config + "\n  namespace: kube-system\ndata:\n  kubeconfig: |"} {
		if !slices.ContainsFunc(beside, func(object string) bool { return strings.Contains(object, want) }) {
			t.Errorf("deploy/kube-router-custom.yaml has no %q", want)
		}
	}
}

// objectsOf are the objects of a manifest without its comments at the top.
func objectsOf(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	_, objects, _ := strings.Cut(string(text), "\napiVersion:")
	return strings.Split(objects, "\n---\n")
}

// used is what agents with these arguments ask of the API server.
func used(t *testing.T, args []string) []string {
	a := testAgent(t, args...)
	client, err := a.openClient()
	if err != nil {
		t.Fatal(err)
	}
	a.build(drivers{}, client)
	list := []string{"create events"}
	for _, resource := range a.feeds.Waiting() {
		list = append(list, "list "+resource, "watch "+resource)
	}
	if a.cfg.RunLoadBalancer {
		list = append(list, "patch services/status", "create leases", "get leases kube-router-lballoc", "update leases kube-router-lballoc")
	}
	slices.Sort(list)
	return list
}

// readManifest returns the agents' arguments and what their roles grant.
func readManifest(t *testing.T, file string) (args, granted []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal(part, &role); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		switch role.Kind {
		case "ClusterRole", "Role":
			granted = append(granted, grants(role.Rules)...)
		case "DaemonSet":
			var d appsv1.DaemonSet
			if err := yaml.UnmarshalStrict(part, &d); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			args = d.Spec.Template.Spec.Containers[0].Args
		}
	}
	slices.Sort(granted)
	return args, granted
}

func grants(rules []rbacv1.PolicyRule) []string {
	var list []string
	for _, r := range rules {
		for _, resource := range r.Resources {
			for _, verb := range r.Verbs {
				list = append(list, strings.TrimSpace(verb+" "+resource+" "+strings.Join(r.ResourceNames, ",")))
			}
		}
	}
	return list
}
