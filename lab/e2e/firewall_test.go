//go:build firewall

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFirewallOnly runs the policy controller alone, from the manifest that is
// shipped for that, beside the reference bridge plugin with static routes
// between the nodes, and beside kube-proxy in each of its modes.
func TestFirewallOnly(t *testing.T) {
	network(t)
	applyManifest(t)
	for _, mode := range []string{"iptables", "ipvs"} {
		t.Run("kube-proxy "+mode, func(t *testing.T) {
			kubeProxy(t, mode)
			policies(t)
		})
	}
	t.Run("nothing of routes and Services", nothingElse)
}

func applyManifest(t *testing.T) {
	manifest, err := filepath.Abs("../../deploy/kube-router-firewall-only.yaml")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "kubectl apply -f %s && kubectl -n kube-system rollout status daemonset/kube-router --timeout=%s", manifest, patience)
}

// policies proves that policies hold as they do with our own network: on one
// bridge, between nodes and through a Service, and for the client's own address.
func policies(t *testing.T) {
	ns := strings.ToLower(strings.NewReplacer("/", "-", " ", "-", "_", "-").Replace(t.Name()))
	create(t, ns)
	near := serve(t, ns, "server", 1)
	client(t, ns, "good", 1)
	client(t, ns, "bad", 1)
	goodFar := client(t, ns, "goodfar", 2)
	client(t, ns, "badfar", 2)
	apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
`)
	vip := must(t, "kubectl -n %s get service web -o jsonpath='{.spec.clusterIP}'", ns)
	urls := []string{"http://" + near + ":8080/hostname", "http://" + vip + "/hostname"}
	all := []string{"good", "bad", "goodfar", "badfar"}
	around := linkLocal(t, ns, "server")
	each(all, urls, func(pod, url string) { connects(t, ns, pod, url) })
	connects(t, ns, "bad", around)
	if from := connects(t, ns, "goodfar", "http://"+vip+"/clientip"); !strings.HasPrefix(from, goodFar+":") {
		t.Errorf("through the Service the server sees %s, not the client's address %s", from, goodFar)
	}
	before := foreignAtRest(t)
	apply(t, ns, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
`)
	each(all, urls, func(pod, url string) { blocked(t, ns, pod, url) })
	blocked(t, ns, "bad", around)
	apply(t, ns, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchExpressions: [{key: name, operator: In, values: [good, goodfar]}]}}]
    ports: [{protocol: TCP, port: 8080}]
`)
	each([]string{"good", "goodfar"}, urls, func(pod, url string) { connects(t, ns, pod, url) })
	each([]string{"bad", "badfar"}, urls, func(pod, url string) { blocked(t, ns, pod, url) })
	must(t, "kubectl -n %s wait --for=condition=Ready pod --all --timeout=10s", ns)
	if after := foreign(t); after != before {
		t.Errorf("what belongs to kube-proxy and the CNI plugin was\n%s\nand is\n%s", before, after)
	}
}

// foreignAtRest is foreign once kube-proxy has caught up with the cluster: after
// its DNS serves, nothing of it changes for longer than kube-proxy collects.
func foreignAtRest(t *testing.T) string {
	must(t, "kubectl -n kube-system rollout status deployment/coredns --timeout=%s", patience)
	last, since := foreign(t), time.Now()
	for start := time.Now(); time.Since(since) < 5*time.Second; {
		if time.Since(start) > patience {
			t.Fatalf("kube-proxy and the CNI plugin did not come to rest:\n%s", last)
		}
		if now := foreign(t); now != last {
			last, since = now, time.Now()
		}
	}
	return last
}

// foreign is what is not ours in node 1's packet filter, IPVS and routes.
func foreign(t *testing.T) string {
	return onNode(t, 1, `iptables-legacy-save | grep -v -e KUBE-ROUTER -e KUBE-POD-FW -e KUBE-NWPLCY -e '^#' | sed 's/\[.*\]//'; `+
		`cat /proc/net/ip_vs 2>/dev/null | awk '{print $1, $2, $3, $4}'; ip route show table all | sort; cat /etc/cni/net.d/*`)
}

// nothingElse looks for what the other controllers would leave.
func nothingElse(t *testing.T) {
	for n := 1; n <= nodes; n++ {
		out := onNode(t, n, `ip link show kube-bridge 2>&1; ip route show table all proto 17; ls /etc/cni/net.d; ipset list -name; iptables-legacy-save -t nat`)
		for _, ours := range []string{"kube-bridge:", " proto 17", "10-kuberouter", "kube-router-svip", "KUBE-ROUTER"} {
			if strings.Contains(out, ours) {
				t.Errorf("node %d has %s:\n%s", n, ours, out)
			}
		}
		if !strings.Contains(out, "kube-router-local-pods") {
			t.Errorf("node %d lacks the sets of policies:\n%s", n, out)
		}
	}
}
