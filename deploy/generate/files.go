package main

import (
	"bytes"
	"fmt"
	"io/fs"
)

// ours are the directories in which everything is written by this program.
var ours = []string{"daemonset", "deploy/k3s", "deploy/kustomize"}

// values are what differs from the chart's values.yaml.
type values = map[string]any

// features are combinations of controllers that are shipped.
type features struct {
	name, about string
	controllers values
}

func shipped() []features {
	return []features{
		{"all-features", `# kube-router with all three controllers: pod networking by BGP, Services by
# IPVS, NetworkPolicies by iptables and ipset. It replaces the CNI plugin's
# routing, kube-proxy and the policy engine.
`, values{"router": true, "serviceProxy": true, "firewall": true}},
		{"service-proxy-only", `# kube-router's service proxy alone: Services by IPVS in place of kube-proxy,
# beside another CNI plugin. Delete kube-proxy once this serves (docs/migrate.md).
# It touches neither the routes to pods nor NetworkPolicies.
`, values{"router": false, "serviceProxy": true, "firewall": false}},
		{"firewall-only", `# kube-router's policy controller alone: NetworkPolicies by iptables and ipset,
# beside another CNI plugin (Flannel, the reference bridge plugin) and
# kube-proxy in any mode. It touches neither routes nor Services.
`, values{"router": false, "serviceProxy": false, "firewall": true}},
		{"router-and-firewall", `# kube-router's routes and policies: pod networking by BGP, NetworkPolicies by
# iptables and ipset. Services are left to kube-proxy in any mode.
`, values{"router": true, "serviceProxy": false, "firewall": true}},
	}
}

// platforms are where the nodes keep their files.
type platform struct {
	name, directory, prefix string // of manifests, and of kustomize bases
	about                   string
}

func platforms() []platform {
	return []platform{
		{"kubeadm", "deploy/", "", "# For kubeadm and kind."},
		{"k3s", "deploy/k3s/", "k3s-", "# For k3s."},
	}
}

const (
	written = "# Written by 'make manifests' from the chart deploy/helm/kube-router: edit that.\n"
	reached = ` The address of the API server is read from the node's
# kubelet, because the Service address of the API server works only once an
# agent or another proxy has programmed it.
`
)

// generate returns the files, by their path from the top of the tree.
func generate(root fs.FS) (map[string][]byte, error) {
	c, err := openChart(root)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, p := range platforms() {
		for _, f := range shipped() {
			if err := c.addVariant(files, f, p); err != nil {
				return nil, err
			}
		}
	}
	all := files["deploy/kube-router-all-features.yaml"]
	for _, name := range []string{"daemonset/kubeadm/kube-router-all-features.yaml", "daemonset/kube-router-all-service-daemonset.yaml"} {
		files[name] = bytes.Replace(all, []byte("deploy/kube-router-all-features.yaml"), []byte(name), 1)
	}
	if err := c.addExtras(files); err != nil {
		return nil, err
	}
	return files, nil
}

// addVariant adds a manifest, and the kustomize base with the same objects.
func (c chart) addVariant(files map[string][]byte, f features, p platform) error {
	objects, err := c.render(values{"controllers": f.controllers, "platform": p.name}, "serviceaccount", "rbac", "daemonset")
	if err != nil {
		return err
	}
	file := p.directory + "kube-router-" + f.name + ".yaml"
	head := f.about + "#\n#   kubectl apply -f " + file + "\n#\n" + p.about + reached + written
	files[file] = append([]byte(head), objects...)

	base := "deploy/kustomize/" + p.prefix + f.name + "/"
	files[base+"kube-router.yaml"] = append([]byte(f.about+written), objects...)
	files[base+"kustomization.yaml"] = []byte(written + `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- kube-router.yaml
`)
	return nil
}

// addExtras adds what is applied beside a manifest, or beside a DaemonSet that
// the user wrote.
func (c chart) addExtras(files map[string][]byte) error {
	account, err := c.render(values{}, "serviceaccount", "rbac")
	if err != nil {
		return err
	}
	files["deploy/kube-router-custom.yaml"] = append([]byte(customHead), append(account, customConfig...)...)
	more, err := c.render(values{"controllers": values{"router": false, "serviceProxy": false, "firewall": false, "loadBalancer": true}}, "rbac")
	if err != nil {
		return err
	}
	more = bytes.ReplaceAll(more, []byte("name: kube-router\n"), []byte("name: kube-router-loadbalancer\n"))
	more = bytes.ReplaceAll(more, []byte("- kind: ServiceAccount\n  name: kube-router-loadbalancer\n"), []byte("- kind: ServiceAccount\n  name: kube-router\n"))
	files["deploy/kube-router-loadbalancer.yaml"] = append([]byte(loadBalancerHead), more...)
	for name, text := range files {
		if bytes.Contains(text, []byte("<no value>")) {
			return fmt.Errorf("%s: the chart uses a value that its values.yaml lacks", name)
		}
	}
	return nil
}

const loadBalancerHead = `# What the agents need besides for --run-loadbalancer: to write the addresses of
# Services of type LoadBalancer, and to agree on who does. Apply it beside any
# of the manifests, and add the flags to its DaemonSet.
#
#   kubectl apply -f deploy/kube-router-loadbalancer.yaml
#
` + written

const customHead = `# What a DaemonSet of your own needs: its account, and a kubeconfig in the
# ConfigMap kube-router-cfg, for --kubeconfig=/var/lib/kube-router/kubeconfig.
# The server must not be the Service address of the API server: that works only
# once the agent has programmed it.
#
#   server=https://10.0.0.10:6443
#   sed "s|https://SERVER:6443|$server|" deploy/kube-router-custom.yaml | kubectl apply -f -
#
` + written

const customConfig = `---
apiVersion: v1
kind: ConfigMap
metadata:
  name: kube-router-cfg
  namespace: kube-system
data:
  kubeconfig: |
    apiVersion: v1
    kind: Config
    current-context: kube-router
    contexts:
    - name: kube-router
      context:
        cluster: cluster
        user: kube-router
    clusters:
    - name: cluster
      cluster:
        server: https://SERVER:6443
        certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    users:
    - name: kube-router
      user:
        tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
`
