//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// kernelState is everything that the agent programs, as the tools print it,
// without counters.
const kernelState = `ip route show proto 17; ip route show table local proto 17; ipvsadm -Sn; ` +
	`ipset save | sort; iptables-legacy-save | grep -v '^[#:]'; cat /etc/cni/net.d/*`

// settledState is the kernelState of a node when nothing of earlier tests goes
// any more.
func settledState(t *testing.T, node int) string {
	t.Helper()
	eventually(t, func(out string, err error) bool { return err == nil && !strings.Contains(out, "Terminating") }, "kubectl get namespaces")
	last := ""
	return eventually(t, func(out string, err error) bool {
		same := err == nil && out == last
		last = out
		return same
	}, "%s exec --node %d %s", lab, node, quote(kernelState))
}

// A rolling restart of all agents while a client fetches page after page, from
// a pod on one node to pods on the others: every request must succeed.
func TestRestartLosesNoRequest(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	serve(t, ns, "servera", 2)
	serve(t, ns, "serverb", 3)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	vip := clusterIP(t, ns)
	connects(t, ns, "client", "http://"+vip+"/hostname")

	ctx, stop := context.WithCancel(t.Context())
	done := make(chan string, 1)
	go func() {
		out, _ := sh(ctx, in(ns, "client", `ok=0; bad=0; end=$(($(date +%s)+40))
			while [ $(date +%s) -lt $end ]; do
			  if curl -sS -o /dev/null --max-time 5 http://`+vip+`/hostname; then ok=$((ok+1)); else bad=$((bad+1)); fi
			done; echo ok=$ok bad=$bad`))
		done <- out
	}()
	defer stop()
	must(t, "kubectl -n kube-system delete pod -l k8s-app=kube-router")
	must(t, "kubectl -n kube-system rollout status daemonset/kube-router --timeout=120s")
	out := <-done
	t.Logf("during the restart of every agent: %s", out)
	if !strings.HasSuffix(out, "bad=0") || strings.Contains(out, "ok=0 ") {
		t.Errorf("requests were lost: %s", out)
	}
}

// A converged node's agent restarts: the kernel must be as it was.
func TestRestartChangesNothing(t *testing.T) {
	ns := namespace(t)
	serve(t, ns, "server", 1)
	apply(t, ns, fmt.Sprintf(service, "NodePort"))
	apply(t, ns, fmt.Sprintf(denyAll, "Ingress"))
	client(t, ns, "client", 1)
	blocked(t, ns, "client", "http://"+clusterIP(t, ns)+"/hostname")
	before := settledState(t, 1)
	must(t, "kubectl -n kube-system delete pod -l k8s-app=kube-router --field-selector spec.nodeName=node1")
	must(t, "kubectl -n kube-system rollout status daemonset/kube-router --timeout=120s")
	if after := onNode(t, 1, kernelState); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// The agent ends within 5 seconds of SIGTERM.
func TestStopsQuickly(t *testing.T) {
	pod := must(t, "kubectl -n kube-system get pod -l k8s-app=kube-router --field-selector spec.nodeName=node2 -o name")
	pid := onNode(t, 2, "pidof -s kube-router")
	start := time.Now()
	onNode(t, 2, "kill -TERM "+pid+"; while [ -d /proc/"+pid+" ]; do sleep 0.1; done")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	must(t, "kubectl -n kube-system wait --for=condition=Ready %s --timeout=%s", pod, patience)
}

// What is broken by hand is repaired without a restart of anything.
func TestRoutesComeBack(t *testing.T) {
	before := onNode(t, 1, "ip route show proto 17")
	if strings.Count(before, "via") != 2 {
		t.Fatalf("node 1 has not its two routes: %q", before)
	}
	onNode(t, 1, "ip route flush proto 17")
	eventually(t, func(out string, err error) bool { return err == nil && out == before }, "$LAB exec --node 1 'ip route show proto 17'")
}
