//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// mistake is one that the agent of node 1 has to notice.
type mistake struct {
	reason string
	// seen is a part of what is said: what it was noticed by. out is another:
	// the way out.
	seen, out string
}

// status is what kube-router status prints of node 1, on one line. It exits
// with 1 where something is wrong.
const status = "kubectl -n kube-system exec %s -c kube-router -- kube-router status"

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// noticed wants the mistake in the status, in the log since then, and as an
// Event on the Node, each with the way out.
func (m mistake) noticed(t *testing.T, since time.Time) {
	t.Helper()
	says := func(out string) bool {
		out = oneLine(strings.ReplaceAll(out, `\"`, `"`))
		return strings.Contains(out, m.reason) && strings.Contains(out, m.seen) && strings.Contains(out, m.out)
	}
	agent := agentOf(t, 1)
	out := eventually(t, func(out string, _ error) bool { return says(out) }, status, agent)
	_, advice, _ := strings.Cut(out, "ADVICE")
	t.Logf("status says%s", advice)
	eventually(t, func(out string, err error) bool { return err == nil && says(out) },
		"kubectl -n kube-system logs %s -c kube-router --since-time=%s | grep reason=%s", agent, since.UTC().Format(time.RFC3339), m.reason)
	eventually(t, func(out string, err error) bool { return err == nil && says(out) },
		"kubectl get events -A --field-selector involvedObject.kind=Node,involvedObject.name=node1,reason=%s -o custom-columns=R:.reason,M:.message", m.reason)
}

// mended wants none of it any more.
func (m mistake) mended(t *testing.T) {
	t.Helper()
	eventually(t, func(out string, _ error) bool {
		return strings.Contains(out, "CONTROLLER") && !strings.Contains(out, m.reason)
	}, status, agentOf(t, 1))
}

// begin forgets Events of earlier runs.
func (m mistake) begin(t *testing.T) time.Time {
	t.Helper()
	must(t, "kubectl delete events -A --field-selector involvedObject.kind=Node,reason=%s", m.reason)
	return time.Now()
}

// later runs a command when the test ends, whatever became of it.
func later(t *testing.T, format string, args ...any) {
	t.Cleanup(func() {
		if out, err := sh(context.Background(), fmt.Sprintf(format, args...)); err != nil {
			t.Errorf("%s", out)
		}
	})
}

// The mistakes that people make: each is noticed, said with the way out, and
// forgotten when that was taken. One of them a cluster alone cannot show: two
// clusters with one AS number, internal/advice TestTwoClustersWithOneASN.
func TestMistakes(t *testing.T) {
	t.Run("kube-proxy runs", kubeProxyRuns)
	t.Run("another network plugin", anotherPlugin)
	t.Run("a scheduler's module is missing", moduleMissing)
	t.Run("direct return with node ports", directNodePorts)
	t.Run("flags, and a large mesh", badFlags)
}

func kubeProxyRuns(t *testing.T) {
	runs := mistake{"KubeProxyRunning", "10249/proxyMode answers", "kubectl -n kube-system delete ds kube-proxy"}
	left := mistake{"KubeProxyRulesLeft", "chain KUBE-SERVICES in the IPv4 table nat", "kube-router --cleanup-config"}
	since := runs.begin(t)
	left.begin(t)
	later(t, "kubectl -n kube-system exec %s -- kube-router --cleanup-config", agentOf(t, 1))
	stop := startKubeProxy(t, 1, "iptables")
	runs.noticed(t, since)
	stop()
	left.noticed(t, since)
	runs.mended(t)
	must(t, "kubectl -n kube-system exec %s -- kube-router --cleanup-config", agentOf(t, 1))
	left.mended(t)
}

func anotherPlugin(t *testing.T) {
	pods := must(t, "kubectl get node node2 -o jsonpath='{.spec.podCIDR}'")
	block := strings.TrimSuffix(pods, "0/24") + "192/26"
	m := mistake{"ForeignRoutes", block + " via " + nodeIP(t, 2), "--run-router=false"}
	since := m.begin(t)
	onNode(t, 1, "ip route add "+block+" via "+nodeIP(t, 2)+" proto bird")
	later(t, "%s exec --node 1 'ip route flush %s'", lab, block)
	m.noticed(t, since)
	onNode(t, 1, "ip route delete "+block)
	m.mended(t)
}

func moduleMissing(t *testing.T) {
	ns := "e2e-module-missing"
	create(t, ns)
	serve(t, ns, "server", 2) // a Service without endpoints needs no scheduler
	m := mistake{"IPVSMissing", `no scheduler "nq"`, "modprobe ip_vs_"}
	since := m.begin(t)
	const hide, show = "mkdir -p /run/modprobe.d && echo install ip_vs_nq /bin/false >/run/modprobe.d/e2e.conf && modprobe -r ip_vs_nq", "rm -f /run/modprobe.d/e2e.conf && modprobe ip_vs_nq"
	later(t, "%s exec --node 1 '%s'", lab, show)
	onNode(t, 1, hide)
	apply(t, ns, strings.Replace(fmt.Sprintf(service, "ClusterIP"), "{name: server}", "{name: server, annotations: {kube-router.io/service.scheduler: nq}}", 1))
	m.noticed(t, since)
	onNode(t, 1, show)
	m.mended(t)
	eventually(t, func(out string, err error) bool {
		return err == nil && strings.Contains(out, clusterIP(t, ns)+":80 nq")
	}, "%s exec --node 1 'ipvsadm -Ln'", lab)
}

func directNodePorts(t *testing.T) {
	ns := "e2e-direct-node-ports"
	create(t, ns)
	serve(t, ns, "server", 2)
	m := mistake{"DirectReturnNodePort", ns + "/server", "kube-router.io/service.dsr=none"}
	since := m.begin(t)
	apply(t, ns, strings.Replace(fmt.Sprintf(service, "NodePort"), "{name: server}", "{name: server, annotations: {kube-router.io/service.dsr: tunnel}}", 1))
	m.noticed(t, since)
	port := must(t, "kubectl -n %s get service server -o jsonpath='{.spec.ports[0].nodePort}'", ns)
	eventually(t, succeeds, "curl -sS --max-time 3 http://%s:%s/hostname", nodeIP(t, 1), port) // it works all the same
	must(t, "kubectl -n %s annotate --overwrite service server kube-router.io/service.dsr=none", ns)
	m.mended(t)
}

// mesh is how many Nodes are too many for one.
const mesh = 51

// badFlags makes the mistakes that take a restart, at once: it takes a while.
func badFlags(t *testing.T) {
	ns := "e2e-bad-flags"
	create(t, ns)
	server := serve(t, ns, "server", 1)
	client(t, ns, "client", 2)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	url := "http://" + clusterIP(t, ns) + "/hostname"
	restart := mistake{"GracefulRestartOff", "peers drop the routes", "--bgp-graceful-restart=true"}
	hairpin := mistake{"HairpinMissing", server + " through " + clusterIP(t, ns) + ":80", "--hairpin-mode=true"}
	full := mistake{"FullMeshTooLarge", "nodes in a full mesh are", "--nodes-full-mesh=false"} // it is said once, of so many as there are then
	for _, m := range []mistake{restart, hairpin, full} {
		m.begin(t)
	}
	before := setFlags(t, "--bgp-graceful-restart=false", "--hairpin-mode=false")
	since := time.Now().Add(-time.Minute)
	restart.noticed(t, since)

	connects(t, ns, "client", url)
	if out, err := sh(t.Context(), get(ns, "server", url)); err == nil {
		t.Errorf("the Pod reached itself: %s", out)
	}
	hairpin.noticed(t, since)

	packets := startFlow(t, 2, must(t, "kubectl -n %s get pod client -o jsonpath='{.status.podIP}'", ns), server)
	addNodes(t, mesh-3)
	full.noticed(t, since)
	connects(t, ns, "client", url)
	must(t, "kubectl delete node -l e2e=mesh --wait=false")
	full.mended(t)
	packets.lostAtMost(t, 1) // a session that ended would cost hundreds

	before()
	for _, m := range []mistake{restart, hairpin} {
		m.mended(t)
	}
	connects(t, ns, "server", url)
}

// setFlags gives the agents flags in addition, and leaves Nodes alone that have
// no kubelet. It returns what takes that back.
func setFlags(t *testing.T, flags ...string) (back func()) {
	t.Helper()
	const patch = "kubectl -n kube-system patch daemonset/kube-router --type=json -p %s && kubectl -n kube-system rollout status daemonset/kube-router --timeout=180s"
	args := must(t, "kubectl -n kube-system get daemonset/kube-router -o jsonpath='{.spec.template.spec.containers[0].args}'")
	const spec = `[{"op":"replace","path":"/spec/template/spec/containers/0/args","value":%s},{"op":%q,"path":"/spec/template/spec/nodeSelector"%s},
		{"op":"replace","path":"/spec/updateStrategy/rollingUpdate/maxUnavailable","value":%s}]`
	more := strings.TrimSuffix(args, "]") + `,"` + strings.Join(flags, `","`) + `"]`
	undone := false
	undo := fmt.Sprintf(patch, quote(fmt.Sprintf(spec, args, "remove", "", "1")))
	t.Cleanup(func() {
		if undone {
			return
		}
		if out, err := sh(context.Background(), undo); err != nil {
			t.Errorf("the flags of the test stay: %s", out)
		}
	})
	must(t, patch, quote(fmt.Sprintf(spec, more, "add", `,"value":{"kubernetes.io/os":"linux"}`, `"100%"`)))
	return func() {
		t.Helper()
		must(t, "%s", undo)
		undone = true
	}
}

// addNodes adds Nodes where nothing runs, with addresses that nobody has.
func addNodes(t *testing.T, n int) {
	t.Helper()
	later(t, "kubectl delete node -l e2e=mesh --ignore-not-found")
	ip := nodeIP(t, 1)
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, `
apiVersion: v1
kind: Node
metadata: {name: mesh-%d, labels: {e2e: mesh}}
status: {addresses: [{type: InternalIP, address: %s%d}]}
---`, i, ip[:strings.LastIndex(ip, ".")+1], 100+i)
	}
	must(t, "kubectl create -f - <<'EOF'%s\nEOF", all.String())
}
