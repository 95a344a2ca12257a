//go:build firewall || manifests

package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// nodes are those of a cluster without a network, to which these tests give one.
const nodes = 2

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
		onNode(t, n, fmt.Sprintf("cp %s/bridge %s/host-local %s/portmap /opt/cni/bin/", bin, bin, bin))
		onNode(t, n, "cat > /etc/cni/net.d/10-other.conflist <<'EOF'\n"+conf+"\nEOF")
		for other := 1; other <= nodes; other++ {
			if other != n {
				onNode(t, n, fmt.Sprintf("ip route replace %s via %s", subnet[other], address[other]))
			}
		}
	}
	must(t, "kubectl wait --for=condition=Ready nodes --all --timeout=%s", patience)
}

// kubeProxy runs kube-proxy in a mode on each node until the test ends.
func kubeProxy(t *testing.T, mode string) {
	bin, config := os.Getenv("BIN"), os.Getenv("KUBECONFIG")
	for n := 1; n <= nodes; n++ {
		flags := fmt.Sprintf("--kubeconfig=%s --hostname-override=node%d --cluster-cidr=10.244.0.0/16", config, n)
		onNode(t, n, fmt.Sprintf("setsid %s/kube-proxy %s --proxy-mode=%s </dev/null >/var/log/kube-proxy.log 2>&1 & echo $! > /run/kube-proxy.pid", bin, flags, mode))
		t.Cleanup(func() {
			// What ipvs mode left takes it two goes: the first stumbles over
			// chains that it removes only afterwards.
			cleanup := fmt.Sprintf("%s/kube-proxy %s --cleanup", bin, flags)
			onNodeAfterwards(t, n, fmt.Sprintf("kill $(cat /run/kube-proxy.pid); %s || %s", cleanup, cleanup))
		})
	}
}

// onNodeAfterwards is onNode for cleaning up, when the test's context has ended.
func onNodeAfterwards(t *testing.T, node int, command string) {
	t.Helper()
	if out, err := sh(context.Background(), fmt.Sprintf("%s exec --node %d %s", os.Getenv("LAB"), node, quote(command))); err != nil {
		t.Errorf("node %d: %s: %s", node, command, out)
	}
}
