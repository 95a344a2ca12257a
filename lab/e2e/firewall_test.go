//go:build firewall

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nodes are those of the cluster without a network, to which these tests give
// one of the reference CNI plugins.
const nodes = 2

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

// network gives the nodes what Flannel would: the bridge plugin with a subnet
// each, and routes to the subnets of the others.
func network(t *testing.T) {
	bin := os.Getenv("BIN")
	var address, subnet [nodes + 1]string
	for n := 1; n <= nodes; n++ {
		address[n] = must(t, `kubectl get node node%d -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'`, n)
		subnet[n] = eventually(t, func(out string, err error) bool { return err == nil && out != "" },
			"kubectl get node node%d -o jsonpath='{.spec.podCIDR}'", n)
	}
	for n := 1; n <= nodes; n++ {
		conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,
"ipam":{"type":"host-local","subnet":"%s","routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}`, subnet[n])
		onNode(t, n, fmt.Sprintf("cp %s/bridge %s/host-local %s/portmap /opt/cni/bin/ && modprobe br_netfilter && sysctl -qw net.bridge.bridge-nf-call-iptables=1", bin, bin, bin))
		onNode(t, n, "cat > /etc/cni/net.d/10-other.conflist <<'EOF'\n"+conf+"\nEOF")
		for other := 1; other <= nodes; other++ {
			if other != n {
				onNode(t, n, fmt.Sprintf("ip route replace %s via %s", subnet[other], address[other]))
			}
		}
	}
	must(t, "kubectl wait --for=condition=Ready nodes --all --timeout=%s", patience)
}

func applyManifest(t *testing.T) {
	manifest, err := filepath.Abs("../../deploy/kube-router-firewall-only.yaml")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "kubectl apply -f %s && kubectl -n kube-system rollout status daemonset/kube-router --timeout=%s", manifest, patience)
}

// kubeProxy runs kube-proxy in a mode on each node until the test ends.
func kubeProxy(t *testing.T, mode string) {
	bin, config := os.Getenv("BIN"), os.Getenv("KUBECONFIG")
	for n := 1; n <= nodes; n++ {
		flags := fmt.Sprintf("--kubeconfig=%s --hostname-override=node%d --cluster-cidr=10.244.0.0/16", config, n)
		onNode(t, n, fmt.Sprintf("setsid %s/kube-proxy %s --proxy-mode=%s </dev/null >/var/log/kube-proxy.log 2>&1 & echo $! > /run/kube-proxy.pid", bin, flags, mode))
		t.Cleanup(func() {
			onNodeAfterwards(t, n, fmt.Sprintf("kill $(cat /run/kube-proxy.pid); %s/kube-proxy %s --cleanup", bin, flags))
		})
	}
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
	before := foreign(t)
	urls := []string{"http://" + near + ":8080/hostname", "http://" + vip + "/hostname"}
	all := []string{"good", "bad", "goodfar", "badfar"}
	each(all, urls, func(pod, url string) { connects(t, ns, pod, url) })
	if from := connects(t, ns, "goodfar", "http://"+vip+"/clientip"); !strings.HasPrefix(from, goodFar+":") {
		t.Errorf("through the Service the server sees %s, not the client's address %s", from, goodFar)
	}
	apply(t, ns, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
`)
	each(all, urls, func(pod, url string) { blocked(t, ns, pod, url) })
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

// onNodeAfterwards is onNode for cleaning up, when the test's context has ended.
func onNodeAfterwards(t *testing.T, node int, command string) {
	t.Helper()
	if out, err := sh(context.Background(), fmt.Sprintf("%s exec --node %d %s", os.Getenv("LAB"), node, quote(command))); err != nil {
		t.Errorf("node %d: %s: %s", node, command, out)
	}
}
