//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// requests is how many a client sends over one connection, one a second.
const requests = 60

// From kube-proxy, in each mode that the guests' kernel has: the connection of a
// client goes on, nothing is touched while kube-proxy runs, and when it has gone
// the node is as it was before it.
func TestMigrateFromKubeProxy(t *testing.T) {
	ns := namespace(t)
	serve(t, ns, "server", 3)
	apply(t, ns, fmt.Sprintf(service, "NodePort"))
	for _, m := range []migration{
		{node: 1, mode: "iptables", sign: "iptables-legacy-save | grep -q KUBE-SVC-"},
		{node: 2, mode: "ipvs", sign: "ipset list -name | grep -q KUBE-CLUSTER-IP && ip link show kube-ipvs0"},
	} {
		m.client = fmt.Sprint("client", m.node)
		client(t, ns, m.client, m.node)
		connects(t, ns, m.client, "http://"+clusterIP(t, ns)+"/hostname")
		t.Run(m.mode, func(t *testing.T) {
			t.Parallel() // each on its node
			m.run(t, ns)
		})
	}
}

// migration is one from a mode of kube-proxy, which a sign tells, on a node.
type migration struct {
	node               int
	client, mode, sign string
}

func (m migration) run(t *testing.T, ns string) {
	vip := clusterIP(t, ns)
	before := settledState(t, m.node)
	agent := agentOf(t, m.node)

	later(t, "kubectl -n kube-system exec %s -- kube-router --cleanup-config", agent)
	stop := startKubeProxy(t, m.node, m.mode)
	eventually(t, succeeds, "%s exec --node %d %s", lab, m.node, quote(m.sign))
	connects(t, ns, m.client, "http://"+vip+"/hostname")
	answered := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		out, _ := sh(ctx, in(ns, m.client, fmt.Sprintf(`(for i in $(seq 2 %d); do printf 'GET /hostname HTTP/1.1\r\nHost: a\r\n\r\n'; sleep 1; done
			printf 'GET /hostname HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'; sleep 5) | timeout %d nc %s 80 | grep -o 'HTTP/1.1 200' | wc -l`, requests, 2*requests, vip)))
		answered <- out
	}()
	if out, err := sh(t.Context(), fmt.Sprintf("kubectl -n kube-system exec %s -- kube-router migrate --from=kube-proxy --apply", agent)); err == nil || !strings.Contains(out, "kubectl -n kube-system delete ds kube-proxy") {
		t.Errorf("beside kube-proxy: %v\n%s", err, out)
	}
	stop()
	told := must(t, "kubectl -n kube-system exec %s -- kube-router migrate --from=kube-proxy", agent)
	if !strings.Contains(told, "would remove iptables") || !strings.HasSuffix(told, "nothing was changed: run it again with --apply to remove this") {
		t.Errorf("it tells\n%s", told)
	}
	done := must(t, "kubectl -n kube-system exec %s -- kube-router --cleanup-config", agent)
	t.Logf("$ kube-router --cleanup-config\n%s", done)
	if !strings.Contains(done, "removed iptables") || !strings.Contains(done, "kept what is kube-router's") {
		t.Error("it does not say what it has done")
	}
	if out := <-answered; out != fmt.Sprint(requests) {
		t.Errorf("of %d requests over one connection %s were answered", requests, out)
	}
	connects(t, ns, m.client, "http://"+vip+"/hostname")
	if after := onNode(t, m.node, kernelState); after != before {
		t.Errorf("the node was\n%s\nand is\n%s", before, after)
	}
}

// startKubeProxy runs kube-proxy on a node, waits until both of its ports
// answer, and returns what ends it and waits until it has ended.
func startKubeProxy(t *testing.T, node int, mode string) (stop func()) {
	t.Helper()
	command := fmt.Sprintf("%s/kube-proxy --kubeconfig=%s --hostname-override=node%d --cluster-cidr=10.244.0.0/16 --proxy-mode=%s", os.Getenv("BIN"), os.Getenv("KUBECONFIG"), node, mode)
	onNode(t, node, "setsid "+command+" </dev/null >/var/log/kube-proxy.log 2>&1 & echo $! > /run/kube-proxy.pid")
	const end = "pid=$(cat /run/kube-proxy.pid 2>/dev/null) || exit 0; kill $pid 2>/dev/null; while [ -d /proc/$pid ]; do sleep 0.1; done; rm /run/kube-proxy.pid"
	t.Cleanup(func() {
		if out, err := sh(context.Background(), fmt.Sprintf("%s exec --node %d %s", lab, node, quote(end))); err != nil {
			t.Logf("kube-proxy: %s", out)
		}
	})
	eventually(t, succeeds, "%s exec --node %d 'curl -sf --max-time 1 http://127.0.0.1:10249/proxyMode && curl -s --max-time 1 http://127.0.0.1:10256/healthz'", lab, node)
	return func() { onNode(t, node, end) }
}
