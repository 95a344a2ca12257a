// Package check judges what is shipped beside the program with the libraries
// that will read it: Helm, kustomize and Prometheus. It is a module of its own,
// so that these are in no other program's dependencies.
package check

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const deploy = "../../deploy"

// controllers are what the manifests of a name run.
var controllers = map[string]map[string]any{
	"all-features":        {"router": true, "serviceProxy": true, "firewall": true},
	"service-proxy-only":  {"router": false, "serviceProxy": true, "firewall": false},
	"firewall-only":       {"router": false, "serviceProxy": false, "firewall": true},
	"router-and-firewall": {"router": true, "serviceProxy": false, "firewall": true},
}

// Manifest, kustomize base and Helm chart are the same objects.
func TestAllRenderTheSame(t *testing.T) {
	for name, set := range controllers {
		for platform, at := range map[string]struct{ manifests, bases string }{"kubeadm": {"", ""}, "k3s": {"k3s", "k3s-"}} {
			manifest := objects(t, read(t, filepath.Join(deploy, at.manifests, "kube-router-"+name+".yaml")))
			if len(manifest) != 4 {
				t.Errorf("%s for %s has %d objects", name, platform, len(manifest))
			}
			chart := objects(t, helm(t, map[string]any{"controllers": set, "platform": platform}))
			same(t, name+" for "+platform+": chart", chart, manifest)
			base := objects(t, kustomize(t, filepath.Join(deploy, "kustomize", at.bases+name)))
			same(t, name+" for "+platform+": kustomize base", base, manifest)
		}
	}
}

// Every value of the chart arrives where it belongs, and no other is taken.
func TestValuesOfTheChart(t *testing.T) {
	for _, c := range []struct {
		values string
		want   []string // in the objects, as JSON
	}{
		{`{image: {repository: registry.example/kr, tag: v1, pullPolicy: Always}, imagePullSecrets: [{name: key}]}`,
			[]string{`"image":"registry.example/kr:v1"`, `"imagePullPolicy":"Always"`, `"imagePullSecrets":[{"name":"key"}]`}},
		{`{args: ["--cluster-asn=64513"]}`, []string{`"--hairpin-mode=true","--cluster-asn=64513"]`}},
		{`{metricsPort: 8080}`, []string{`"ports":[{"containerPort":8080,"name":"metrics"}]`}},
		{`{healthPort: 20245}`, []string{`"--health-port=20245"`, `"httpGet":{"host":"127.0.0.1","path":"/readyz","port":20245}`, `"path":"/healthz","port":20245}`}},
		{`{healthPort: 0}`, []string{`"--health-port=0"`}},
		{`{privileged: true}`, []string{`"securityContext":{"privileged":true}`}},
		{`{nodeSelector: {a: b}, podAnnotations: {c: d}, tolerations: [{operator: Exists}]}`,
			[]string{`"nodeSelector":{"a":"b"}`, `"c":"d"`, `"tolerations":[{"operator":"Exists"}]`}},
		{`{maxUnavailable: "10%", priorityClassName: mine, resources: {limits: {memory: 1Gi}}}`,
			[]string{`"maxUnavailable":"10%"`, `"priorityClassName":"mine"`, `"limits":{"memory":"1Gi"}`}},
		{`{controllers: {serviceProxy: false}}`, []string{`"endpointslices"`, `"--run-service-proxy=false"`}},
		{`{controllers: {loadBalancer: true}}`, []string{`"--run-loadbalancer=true"`, `"services/status"`, `"leases"`}},
	} {
		var values map[string]any
		if err := yaml.Unmarshal([]byte(c.values), &values); err != nil {
			t.Fatal(err)
		}
		all := strings.Join(slices.Collect(maps.Values(objects(t, helm(t, values)))), "\n")
		for _, want := range c.want {
			if !strings.Contains(all, want) {
				t.Errorf("%s: %s is not in\n%s", c.values, want, all)
			}
		}
	}
	if all := string(helm(t, map[string]any{"healthPort": 0})); strings.Contains(all, "Probe:") {
		t.Errorf("without a health server there are probes:\n%s", all)
	}
	ranged := string(helm(t, map[string]any{"platform": "k3s", "args": []any{"--service-cluster-ip-range=10.50.0.0/16"}}))
	if strings.Contains(ranged, "10.43.0.0/16") || !strings.Contains(ranged, "10.50.0.0/16") {
		t.Errorf("k3s with cluster IPs of the user's:\n%s", ranged)
	}
	for _, bad := range []string{`{controler: {}}`, `{watchServices: true}`, `{platform: k0s}`, `{controllers: {router: false, firewall: false, serviceProxy: false}}`, `{args: [run]}`} {
		var values map[string]any
		if err := yaml.Unmarshal([]byte(bad), &values); err != nil {
			t.Fatal(err)
		}
		if _, err := render(values); err == nil {
			t.Errorf("the chart takes %s", bad)
		}
	}
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for id := range maps.Keys(want) {
		if got[id] != want[id] {
			t.Errorf("%s: %s is\n%s\nand in the manifest\n%s", what, id, got[id], want[id])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d objects, and %d in the manifest", what, len(got), len(want))
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// objects are the objects of a stream, by kind and name, as JSON.
func objects(t *testing.T, stream []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	for part := range bytes.SplitSeq(stream, []byte("\n---\n")) {
		var o map[string]any
		if err := yaml.Unmarshal(part, &o); err != nil {
			t.Fatal(err)
		}
		if o == nil {
			continue
		}
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		meta := o["metadata"].(map[string]any)
		all[o["kind"].(string)+" "+meta["name"].(string)] = string(text)
	}
	return all
}

func helm(t *testing.T, values map[string]any) []byte {
	t.Helper()
	text, err := render(values)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// render is what helm template prints.
func render(values map[string]any) ([]byte, error) {
	chart, err := loader.Load(filepath.Join(deploy, "helm", "kube-router"))
	if err != nil {
		return nil, err
	}
	all, err := chartutil.ToRenderValues(chart, values, common.ReleaseOptions{Name: "kube-router", Namespace: "kube-system"}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, err
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		parts = append(parts, strings.TrimSuffix(files[name], "\n"))
	}
	return []byte(strings.Join(parts, "\n---\n")), nil
}

func kustomize(t *testing.T, directory string) []byte {
	t.Helper()
	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		t.Fatal(err)
	}
	text, err := result.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return text
}
