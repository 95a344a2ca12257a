package policy

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

var (
	namespaceNames = []string{"red", "blue", "green"}
	labelTexts     = []string{"", "app=web", "app=db", "app=web,tier=front", "tier=back"}
	selectorTexts  = []string{"", "app=web", "app!=web", "app in (web,db)", "!tier", "tier=front", "app=db,tier=back"}
	blocks         = []string{"0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.0/28", "10.244.1.4/32", "10.244.2.0/25"}
	protocols      = []inet.Protocol{inet.TCP, inet.UDP, inet.SCTP}
	portNumbers    = []uint16{80, 443, 8080}
)

func pick[T any](t *rapid.T, from []T, what string) T { return rapid.SampledFrom(from).Draw(t, what) }

// drawCluster draws a cluster of two nodes, and what it takes to judge it.
func drawCluster(t *rapid.T) *judge {
	j := &judge{}
	for _, name := range namespaceNames {
		j.namespaces = append(j.namespaces, newNamespace(name, pick(t, labelTexts, "namespace labels")))
	}
	for i := range rapid.IntRange(2, 8).Draw(t, "pods") {
		node := rapid.IntRange(1, 2).Draw(t, "node")
		pod := newPod(pick(t, namespaceNames, "namespace"), fmt.Sprint("pod", i), fmt.Sprint("node", node),
			fmt.Sprintf("10.244.%d.%d", node, i+2), pick(t, labelTexts, "labels"))
		if rapid.Bool().Draw(t, "named port") {
			pod.Ports = []cluster.ContainerPort{{Name: "http", Protocol: inet.TCP, Port: pick(t, portNumbers, "http")}}
		}
		j.pods = append(j.pods, pod)
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "policies") {
		j.policies = append(j.policies, drawPolicy(t, fmt.Sprint("policy", i)))
	}
	return j
}

func drawPolicy(t *rapid.T, name string) *cluster.NetworkPolicy {
	np := &cluster.NetworkPolicy{
		Meta: cluster.Meta{Key: cluster.Key{Namespace: pick(t, namespaceNames, "namespace"), Name: name}},
		Pods: selects(pick(t, selectorTexts, "podSelector")),
	}
	np.IsolatesIngress = rapid.Bool().Draw(t, "ingress")
	np.IsolatesEgress = !np.IsolatesIngress || rapid.Bool().Draw(t, "egress")
	if np.IsolatesIngress {
		np.Ingress = drawRules(t)
	}
	if np.IsolatesEgress {
		np.Egress = drawRules(t)
	}
	return np
}

func drawRules(t *rapid.T) []cluster.PolicyRule {
	var rules []cluster.PolicyRule
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		rule := cluster.PolicyRule{AnyPeer: rapid.IntRange(0, 4).Draw(t, "any peer") == 0, AnyPort: rapid.Bool().Draw(t, "any port")}
		for range rapid.IntRange(1, 3).Draw(t, "peers") {
			if !rule.AnyPeer {
				rule.Peers = append(rule.Peers, drawPeer(t))
			}
		}
		for range rapid.IntRange(1, 2).Draw(t, "ports") {
			if !rule.AnyPort {
				rule.Ports = append(rule.Ports, drawPort(t))
			}
		}
		rules = append(rules, rule)
	}
	return rules
}

func drawPeer(t *rapid.T) cluster.PolicyPeer {
	if rapid.IntRange(0, 2).Draw(t, "kind of peer") == 0 {
		block := &cluster.IPBlock{CIDR: netip.MustParsePrefix(pick(t, blocks, "cidr"))}
		for range rapid.IntRange(0, 2).Draw(t, "excepts") {
			except := netip.MustParsePrefix(pick(t, blocks, "except"))
			if except.Bits() >= block.CIDR.Bits() && block.CIDR.Contains(except.Addr()) {
				block.Except = append(block.Except, except)
			}
		}
		return cluster.PolicyPeer{Block: block}
	}
	peer := cluster.PolicyPeer{Pods: selects(pick(t, selectorTexts, "peer's podSelector"))}
	if rapid.Bool().Draw(t, "namespaceSelector") {
		peer.Namespaces = selects(pick(t, selectorTexts, "namespaceSelector"))
	}
	return peer
}

func drawPort(t *rapid.T) cluster.PolicyPort {
	port := cluster.PolicyPort{Protocol: pick(t, protocols, "protocol")}
	switch rapid.IntRange(0, 3).Draw(t, "kind of port") {
	case 0: // all of the protocol
	case 1:
		port.Port = pick(t, portNumbers, "port")
		port.End = port.Port
	case 2:
		port.Port, port.End = 100, 8079+uint16(rapid.IntRange(0, 1).Draw(t, "endPort"))
	default:
		port.Name = "http"
	}
	return port
}

// check compares the compiled rules with the judge, for every pair of Pods and
// in every chain where the pair's packets may be met on this node.
func check(t *rapid.T, w *world, j *judge) {
	tr := w.tracer()
	for _, from := range j.pods {
		for _, to := range j.pods {
			if from == to || from.Node != testConfig.NodeName && to.Node != testConfig.NodeName {
				continue
			}
			for _, protocol := range protocols {
				for _, port := range portNumbers {
					p := packet{src: from.IPs[0], dst: to.IPs[0], protocol: protocol, port: port}
					want := j.allowsHere(from, to, p)
					for _, chain := range []string{"FORWARD", "OUTPUT"} {
						if got := tr.passes(chain, p); got != want {
							t.Fatalf("%s from %s to %s port %s %d: passes %v, want %v\n%s\n%s",
								chain, from.Key, to.Key, protocol, port, got, want, j.yaml(), w.kernel())
						}
					}
				}
			}
		}
	}
}

// allowsHere is what this node has to enforce: each node asks for its Pods.
func (j *judge) allowsHere(from, to *cluster.Pod, p packet) bool {
	out := from.Node != testConfig.NodeName || j.side(from, to, p, true)
	in := to.Node != testConfig.NodeName || j.side(to, from, p, false)
	return out && in
}

func (j *judge) yaml() string {
	text, err := yaml.Marshal(map[string]any{"pods": j.pods, "namespaces": j.namespaces, "policies": fmt.Sprintf("%+v", j.policies)})
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// publish sends the cluster's objects in an order.
func (w *world) publish(t *rapid.T, j *judge) {
	var events []func()
	for _, n := range j.namespaces {
		events = append(events, func() { w.namespace(n) })
	}
	for _, p := range j.pods {
		events = append(events, func() { w.pod(p) })
	}
	for _, p := range j.policies {
		events = append(events, func() { w.policy(p) })
	}
	for _, event := range rapid.Permutation(events).Draw(t, "order") {
		event()
	}
}

// The rules of any cluster decide as the API's documentation does.
func TestRulesAreTheSpecification(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := drawCluster(t)
		w := newWorld()
		w.publish(t, j)
		w.settleRapid(t)
		check(t, w, j)
	})
}

// Whatever came before, the kernel is as if the present had been compiled at
// once; so it is after a restart, which changes nothing.
func TestHistoryDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		before, j := drawCluster(t), drawCluster(t)
		w.publish(t, before)
		w.settleRapid(t)
		for i, p := range before.pods {
			if i >= len(j.pods) || j.pods[i].Key != p.Key {
				w.feeds.Pods.Delete(p.Key)
			}
		}
		for _, p := range before.policies {
			w.feeds.NetworkPolicies.Delete(p.Key)
		}
		if rapid.Bool().Draw(t, "between") {
			w.settleRapid(t)
		}
		w.publish(t, j)
		w.settleRapid(t)
		check(t, w, j)

		fresh := newWorld()
		fresh.publish(t, j)
		fresh.settleRapid(t)
		if w.kernel() != fresh.kernel() {
			t.Fatalf("after a history:\n%s\nat once:\n%s", w.kernel(), fresh.kernel())
		}
		again := &world{feeds: cluster.NewFeeds(), sets: fresh.sets, rules: fresh.rules}
		_, restores := fresh.rules.Calls()
		_, _, changes := fresh.sets.Calls()
		again.start()
		again.publish(t, j)
		again.settleRapid(t)
		_, restoresNow := fresh.rules.Calls()
		_, _, changesNow := fresh.sets.Calls()
		if restoresNow != restores || changesNow != changes {
			t.Fatalf("a restart ran iptables-restore %d times and changed sets %d times", restoresNow-restores, changesNow-changes)
		}
	})
}

func (w *world) settleRapid(t *rapid.T) {
	var wrapped testing.TB = failer{t: t}
	w.settle(wrapped)
}

// failer lets helpers of ordinary tests be used in property tests.
type failer struct {
	testing.TB
	t *rapid.T
}

func (f failer) Helper()                           {}
func (f failer) Fatalf(format string, args ...any) { f.t.Fatalf(format, args...) }
