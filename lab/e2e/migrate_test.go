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
	client(t, ns, "client", 1)
	serve(t, ns, "servera", 2)
	apply(t, ns, fmt.Sprintf(service, "NodePort"))
	for mode, sign := range map[string]string{"iptables": "iptables-legacy-save | grep -q KUBE-SVC-", "ipvs": "ipset list -name | grep -q KUBE-CLUSTER-IP && ip link show kube-ipvs0"} {
		t.Run(mode, func(t *testing.T) { migrateFrom(t, ns, mode, sign) })
	}
}

func migrateFrom(t *testing.T, ns, mode, sign string) {
	vip := clusterIP(t, ns)
	connects(t, ns, "client", "http://"+vip+"/hostname")
	before := settledState(t)
	agent := must(t, "kubectl -n kube-system get pod -l k8s-app=kube-router --field-selector spec.nodeName=node1 -o name")

	later(t, "kubectl -n kube-system exec %s -- kube-router --cleanup-config", agent)
	stop := startKubeProxy(t, mode)
	eventually(t, succeeds, "%s exec --node 1 %s", lab, quote(sign))
	connects(t, ns, "client", "http://"+vip+"/hostname")
	answered := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		out, _ := sh(ctx, in(ns, "client", fmt.Sprintf(`(for i in $(seq 2 %d); do printf 'GET /hostname HTTP/1.1\r\nHost: a\r\n\r\n'; sleep 1; done
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
	connects(t, ns, "client", "http://"+vip+"/hostname")
	if after := onNode(t, 1, kernelState); after != before {
		t.Errorf("the node was\n%s\nand is\n%s", before, after)
	}
}

// startKubeProxy runs kube-proxy on node 1, waits until both of its ports
// answer, and returns what ends it and waits until it has ended.
func startKubeProxy(t *testing.T, mode string) (stop func()) {
	t.Helper()
	command := fmt.Sprintf("%s/kube-proxy --kubeconfig=%s --hostname-override=node1 --cluster-cidr=10.244.0.0/16 --proxy-mode=%s", os.Getenv("BIN"), os.Getenv("KUBECONFIG"), mode)
	onNode(t, 1, "setsid "+command+" </dev/null >/var/log/kube-proxy.log 2>&1 & echo $! > /run/kube-proxy.pid")
	const end = "pid=$(cat /run/kube-proxy.pid 2>/dev/null) || exit 0; kill $pid 2>/dev/null; while [ -d /proc/$pid ]; do sleep 0.1; done; rm /run/kube-proxy.pid"
	t.Cleanup(func() {
		if out, err := sh(context.Background(), lab+" exec --node 1 "+quote(end)); err != nil {
			t.Logf("kube-proxy: %s", out)
		}
	})
	eventually(t, succeeds, "%s exec --node 1 'curl -sf --max-time 1 http://127.0.0.1:10249/proxyMode && curl -s --max-time 1 http://127.0.0.1:10256/healthz'", lab)
	return func() { onNode(t, 1, end) }
}
