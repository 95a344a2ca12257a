//go:build kernel

package policy

import (
	"flag"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

var networkCount = flag.Int("policy.networks", 40, "how many random clusters get real packets, in each variant of iptables")

func variants(t *testing.T, test func(t *testing.T, n *network)) {
	for _, variant := range []iptables.Variant{iptables.Legacy, iptables.NFT} {
		t.Run(string(variant), func(t *testing.T) { test(t, newNetwork(t, variant)) })
	}
}

// Real packets fare as the judge says: between Pods on a bridge and behind a
// route, to and from the node, and from outside. What others have among the
// rules stays as it was.
func TestPackets(t *testing.T) {
	variants(t, func(t *testing.T, n *network) {
		passed, denied := 0, 0
		for number := range uint64(*networkCount) {
			d := newDice(*caseSeed, 1<<32+number)
			o := n.populate(d, d.drawCluster())
			n.replace(o)
			n.settle(t)
			j := &judge{o, "node1"}
			for range 72 {
				f := n.drawFlow(d)
				want := j.allows(f)
				got, err := n.try(f)
				if err != nil || got != want {
					t.Fatalf("cluster %d of seed %d: %s passes: %v (%v), want %v\n%s\n%s", number, *caseSeed, f, got, err, want, o.yaml(), n.saved(t, f))
				}
				if got {
					passed++
				} else {
					denied++
				}
			}
		}
		t.Logf("%d clusters: %d connections made, %d refused", *networkCount, passed, denied)
		if diff := cmp.Diff(n.before, n.foreign(t)); diff != "" {
			t.Errorf("rules of others (-before +after):\n%s", diff)
		}
	})
}

func (n *network) saved(t *testing.T, f flow) string {
	return nstest.Run(t, n.tool(inet.FamilyOf(f.src), "save"), "-c", "-t", "filter") + nstest.Run(t, "ip", "neigh") + nstest.Run(t, "ipset", "save")
}

// populate gives a drawn cluster the network's Pods in place of its own, but
// for those that have no address of theirs.
func (n *network) populate(d dice, o *objects) *objects {
	pods := slices.DeleteFunc(o.pods, func(p *corev1.Pod) bool { return len(ownAddrs(p)) > 0 })
	o.pods = slices.Clip(pods)
	for i, s := range n.pods {
		pod := d.drawPod(nil, s.name+"-real")
		pod.Spec.HostNetwork, pod.Spec.NodeName, pod.Status.Phase = false, "node1", corev1.PodRunning
		if i >= 4 {
			pod.Spec.NodeName = "node2"
		}
		setAddrs(pod, s.addrs)
		o.pods = append(o.pods, pod)
	}
	for len(o.policies) < 3 {
		o.policies = append(o.policies, d.drawPolicy(fmt.Sprint("policy", 10+len(o.policies))))
	}
	return o
}

// drawFlow draws one that a Pod of node1 has part in. Addresses of the node that
// reach Pods are those of its bridge as well, as for the kubelet's probes.
func (n *network) drawFlow(d dice) flow {
	for {
		from := pick(d, slices.Concat(n.pods, n.pods, []*site{n.node1, n.outside, n.outside, n.node2})...)
		to := pick(d, slices.Concat(n.pods, n.pods, []*site{n.node1, n.outside})...)
		local := n.pods[:4]
		if from == to || !slices.Contains(local, from) && !slices.Contains(local, to) {
			continue
		}
		src, dst := pick(d, from.addrs...), pick(d, to.addrs...)
		if from == n.node1 && d.one(2) {
			src = pick(d, nodeAddrs["node1"][2:]...)
		}
		if inet.FamilyOf(src) == inet.FamilyOf(dst) {
			return flow{src, dst, pick(d, corev1.ProtocolTCP, corev1.ProtocolUDP), pick(d, portNumbers...)}
		}
	}
}

// Chains that somebody deleted by hand, and entries of sets, are there again
// after the next resync, and deny again.
func TestRepairs(t *testing.T) {
	variants(t, func(t *testing.T, n *network) {
		o := n.populate(newDice(1, 1), &objects{})
		o.policies = nil
		for _, name := range namespaceNames {
			o.namespaces = append(o.namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
			o.policies = append(o.policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "deny"}})
		}
		n.replace(o)
		n.settle(t)
		expect := func(when string, want bool) {
			t.Helper()
			for _, dst := range n.pods[0].addrs {
				for _, s := range []*site{n.pods[1], n.pods[5]} {
					src := s.addrs[slices.IndexFunc(s.addrs, func(a netip.Addr) bool { return a.Is4() == dst.Is4() })]
					f := flow{src, dst, corev1.ProtocolTCP, 80}
					if got, err := n.try(f); err != nil || got != want {
						t.Errorf("%s: %s passes: %v (%v), want %v", when, f, got, err, want)
					}
				}
			}
		}
		expect("at first", false)
		for _, damage := range []func(){
			func() { n.both(t, "-F", forwardChain) },
			func() { n.both(t, "-D", "FORWARD", "-j", forwardChain) },
			func() {
				n.both(t, "-D", "FORWARD", "-j", forwardChain)
				n.both(t, "-F", forwardChain)
				n.both(t, "-X", forwardChain)
			},
			func() { // as "iptables -F; iptables -X" of a firewall's restart, its own rules being back
				n.both(t, "-F")
				n.both(t, "-X")
				n.firewall(t)
			},
		} {
			damage()
			expect("after the damage", true)
			n.c.queue.Mark(resyncKey)
			n.settle(t)
			expect("after the repair", false)
		}
		if diff := cmp.Diff(n.before, n.foreign(t)); diff != "" {
			t.Errorf("rules of others (-before +after):\n%s", diff)
		}
	})
}

// both runs iptables in both families.
func (n *network) both(t *testing.T, args ...string) {
	t.Helper()
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		program := n.tool(family, "save")
		program = program[:len(program)-len("-save")]
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v: %s", program, args, err, out)
		}
	}
}
