package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const top = "../.."

func generated(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := generate(os.DirFS(top))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// What is in the tree is what the chart says.
func TestTreeIsUpToDate(t *testing.T) {
	if err := run(top, true); err != nil {
		t.Error(err)
	}
}

// A file that is edited, missing or left over is found, and put right.
func TestCheckFindsDifferences(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, directory), os.DirFS(filepath.Join(top, directory))); err != nil {
		t.Fatal(err)
	}
	if err := run(root, false); err != nil {
		t.Fatal(err)
	}
	if err := run(root, true); err != nil {
		t.Errorf("right after it was written: %v", err)
	}
	const edited, missing, left = "deploy/kube-router-all-features.yaml", "deploy/kube-router-firewall-only.yaml", "deploy/kustomize/old/kube-router.yaml"
	for _, err := range []error{
		os.WriteFile(filepath.Join(root, edited), nil, 0o644),
		os.Remove(filepath.Join(root, missing)),
		os.MkdirAll(filepath.Join(root, "deploy/kustomize/old"), 0o755),
		os.WriteFile(filepath.Join(root, left), nil, 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	err := run(root, true)
	for _, name := range []string{edited, missing, left} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	if err := run(root, false); err != nil {
		t.Fatal(err)
	}
	if err := run(root, true); err != nil {
		t.Error(err)
	}
}

// Everything is YAML, and everything of a kind and name is there once.
func TestObjects(t *testing.T) {
	for name, text := range generated(t) {
		seen := map[string]bool{}
		for _, object := range objects(t, name, text) {
			id := strings.Join([]string{object.Kind, object.Metadata.Namespace, object.Metadata.Name}, " ")
			if object.Kind == "" || seen[id] {
				t.Errorf("%s: %q is twice there, or has no kind", name, id)
			}
			seen[id] = true
		}
	}
}

// Containers have only the capabilities that their controllers need, and what
// is mounted is there.
func TestContainers(t *testing.T) {
	const base = "NET_ADMIN NET_RAW SYS_MODULE"
	for name, want := range map[string]string{
		"deploy/kube-router-all-features.yaml":             base + " NET_BIND_SERVICE",
		"deploy/kube-router-service-proxy-only.yaml":       base,
		"deploy/kube-router-firewall-only.yaml":            base,
		"deploy/kube-router-router-and-firewall.yaml":      base + " NET_BIND_SERVICE",
		"deploy/k3s/kube-router-all-features.yaml":         base + " NET_BIND_SERVICE",
		"daemonset/kube-router-all-service-daemonset.yaml": base + " NET_BIND_SERVICE",
	} {
		list := objects(t, name, generated(t)[name])
		pod := list[len(list)-1].Spec.Template.Spec
		if len(pod.Containers) != 1 {
			t.Fatalf("%s: %d containers", name, len(pod.Containers))
		}
		agent := pod.Containers[0]
		if got := strings.Join(agent.SecurityContext.Capabilities.Add, " "); got != want || agent.SecurityContext.Privileged {
			t.Errorf("%s: capabilities %s, privileged %t; want %s", name, got, agent.SecurityContext.Privileged, want)
		}
		volumes := map[string]bool{}
		for _, v := range pod.Volumes {
			volumes[v.Name] = false
		}
		for _, c := range append(pod.InitContainers, agent) {
			for _, m := range c.VolumeMounts {
				if _, ok := volumes[m.Name]; !ok {
					t.Errorf("%s: there is no volume %s", name, m.Name)
				}
				volumes[m.Name] = true
			}
		}
		for _, needed := range []string{"lib-modules", "sysctl-net", "run"} { // each controller sets sysctls of modules
			if !volumes[needed] {
				t.Errorf("%s: the agent does not have %s", name, needed)
			}
		}
		for _, volume := range slices.Sorted(maps.Keys(volumes)) {
			if !volumes[volume] {
				t.Errorf("%s: nobody mounts %s", name, volume)
			}
		}
	}
}

// object is the part of a Kubernetes object that is looked at here.
type object struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		Template struct {
			Spec struct {
				InitContainers, Containers []container
				Volumes                    []struct{ Name string }
			}
		}
	}
}

type container struct {
	SecurityContext struct {
		Privileged   bool
		Capabilities struct{ Add []string }
	}
	VolumeMounts []struct{ Name string }
}

func objects(t *testing.T, name string, text []byte) []object {
	t.Helper()
	var list []object
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var o object
		if err := yaml.Unmarshal(part, &o); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list = append(list, o)
	}
	return list
}
