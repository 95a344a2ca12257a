//go:build manifests

package e2e

import (
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// manifest is a file that is shipped, and what it runs.
type manifest struct {
	file                     string
	routes, services, policy bool
	k3s                      bool
	beside                   string // a DaemonSet of the user's, that file is applied for
	former                   bool   // the cluster has an earlier release's before
}

// The capabilities of agents with and without routes: the bits of
// CAP_NET_ADMIN (12), NET_RAW (13), SYS_MODULE (16) and NET_BIND_SERVICE (10).
const (
	plainCapabilities  = "0000000000013000"
	routesCapabilities = "0000000000013400"
)

// The DaemonSet of a user, as a course on kube-router prints it.
//
//go:embed testdata/custom-daemonset.yaml
var customDaemonSet string

func shippedManifests() []manifest {
	all := func(file string) manifest {
		return manifest{file: file, routes: true, services: true, policy: true}
	}
	former := all("daemonset/kubeadm/kube-router-all-features.yaml")
	former.former = true
	list := []manifest{
		all("deploy/kube-router-all-features.yaml"),
		former,
		all("daemonset/kube-router-all-service-daemonset.yaml"),
		{file: "deploy/kube-router-service-proxy-only.yaml", services: true},
		{file: "deploy/kube-router-firewall-only.yaml", policy: true},
		{file: "deploy/kube-router-router-and-firewall.yaml", routes: true, policy: true},
		{file: "deploy/k3s/kube-router-all-features.yaml", routes: true, services: true, policy: true, k3s: true},
		{file: "deploy/k3s/kube-router-service-proxy-only.yaml", services: true, k3s: true},
		{file: "deploy/k3s/kube-router-firewall-only.yaml", policy: true, k3s: true},
		{file: "deploy/k3s/kube-router-router-and-firewall.yaml", routes: true, policy: true, k3s: true},
	}
	custom := all("deploy/kube-router-custom.yaml")
	custom.beside = customDaemonSet
	return append(list, custom)
}

// Every manifest makes of a cluster that has nothing of what it runs one in
// which pods, Services and policies work; with no more rights than it says.
// Each has a cluster of its own.
func TestManifests(t *testing.T) {
	for _, m := range shippedManifests() {
		t.Run(strings.TrimSuffix(m.file, ".yaml"), func(t *testing.T) {
			t.Cleanup(func() {
				if out, err := sh(context.Background(), "$LAB down"); err != nil {
					t.Errorf("lab down: %s", out)
				}
			})
			must(t, "$LAB up --nodes %d --router none", nodes)
			m.surround(t)
			if m.former {
				replaceFormer(t)
			}
			m.apply(t)
			m.works(t)
			m.isContent(t)
			if m.former {
				adopted(t)
				cleanedUp(t, 2) // where the server was
			}
		})
	}
}

// surround gives the cluster what the manifest's agents are to work beside.
func (m manifest) surround(t *testing.T) {
	if m.k3s {
		for n := 1; n <= nodes; n++ {
			onNode(t, n, `cd /var/lib && mkdir -p rancher/k3s/agent/etc/cni rancher/k3s/data &&
				cp /etc/kubernetes/kubelet.conf rancher/k3s/agent/kubelet.kubeconfig && mv /etc/kubernetes/kubelet.conf /etc/kubernetes/elsewhere.conf &&
				ln -s /etc/cni/net.d rancher/k3s/agent/etc/cni/net.d && ln -s /opt/cni/bin rancher/k3s/data/cni`)
		}
	}
	if m.beside != "" || m.former { // packages of kubeadm bring them
		for n := 1; n <= nodes; n++ {
			onNode(t, n, "cd "+os.Getenv("BIN")+" && cp bridge host-local portmap /opt/cni/bin/")
		}
	}
	if !m.routes {
		network(t)
	}
	if !m.services {
		kubeProxy(t, "iptables")
	}
}

func (m manifest) apply(t *testing.T) {
	file, err := filepath.Abs("../../" + m.file)
	if err != nil {
		t.Fatal(err)
	}
	server := must(t, "kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server}'")
	must(t, `sed "s|https://SERVER:6443|%s|" %s | kubectl apply -f -`, server, file)
	if m.beside != "" {
		// The nodes cannot pull an image, also not one that is there.
		ds := strings.Replace(m.beside, "kube-router:latest\n", "kube-router:latest\n        imagePullPolicy: IfNotPresent\n", 1)
		must(t, "kubectl apply -f - <<'EOF'\n%s\nEOF", ds)
	}
	must(t, "kubectl -n kube-system rollout status daemonset/kube-router --timeout=%s", patience)
	must(t, "kubectl wait --for=condition=Ready nodes --all --timeout=%s", patience)
}

// works tries what the cluster is to do now.
func (m manifest) works(t *testing.T) {
	const ns = "manifest"
	must(t, "kubectl create namespace %s", ns)
	ip := serve(t, ns, "server", 2)
	client(t, ns, "client", 1)
	apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
`)
	vip := must(t, "kubectl -n %s get service web -o jsonpath='{.spec.clusterIP}'", ns)
	connects(t, ns, "client", "http://"+ip+":8080/hostname")
	connects(t, ns, "client", "http://"+vip+"/hostname")
	if !m.policy {
		return
	}
	apply(t, ns, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}
`)
	blocked(t, ns, "client", "http://"+ip+":8080/hostname")
	blocked(t, ns, "client", "http://"+vip+"/hostname")
}

// isContent wants every controller ready, no complaint about rights in the
// log, and the agent with the capabilities that it is given, and no others.
func (m manifest) isContent(t *testing.T) {
	for n := 1; n <= nodes; n++ {
		ready := eventually(t, succeeds, "$LAB exec --node %d %s", n, quote("curl -sSf http://127.0.0.1:20244/readyz"))
		for name, on := range map[string]bool{"routes": m.routes, "services": m.services, "policy": m.policy} {
			if strings.Contains(ready, name+": ready") != on {
				t.Errorf("node %d: controller %s: want it there: %t, in\n%s", n, name, on, ready)
			}
		}
		if m.beside != "" {
			continue // it is privileged
		}
		want := plainCapabilities
		if m.routes {
			want = routesCapabilities
		}
		if got := onNode(t, n, "grep CapEff /proc/$(pidof -s kube-router)/status"); !strings.HasSuffix(got, want) {
			t.Errorf("node %d: %s, want %s", n, got, want)
		}
	}
	logs := must(t, "kubectl -n kube-system logs -l k8s-app=kube-router --all-containers --tail=-1")
	for line := range strings.Lines(logs) {
		for _, complaint := range []string{"not permitted", "permission", "read-only", "forbidden", "level=ERROR"} {
			if strings.Contains(line, complaint) {
				t.Errorf("the log says: %s", line)
			}
		}
	}
	restarts := must(t, "kubectl -n kube-system get pods -l k8s-app=kube-router -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'")
	if want := strings.TrimSpace(strings.Repeat("0 ", nodes)); restarts != want {
		t.Errorf("agents were started anew: %s", restarts)
	}
}

// Every file that is shipped is applied above.
func TestNoManifestIsForgotten(t *testing.T) {
	applied := map[string]bool{
		"deploy/kube-router-loadbalancer.yaml": true, // by the tests of load balancers
	}
	for _, m := range shippedManifests() {
		applied[m.file] = true
	}
	for _, pattern := range []string{"deploy/*.yaml", "deploy/k3s/*.yaml", "daemonset/*.yaml", "daemonset/*/*.yaml"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %v, %v", pattern, files, err)
		}
		for _, f := range files {
			if name := strings.TrimPrefix(f, "../../"); !applied[name] {
				t.Errorf("%s is applied by no test", name)
			}
		}
	}
}
