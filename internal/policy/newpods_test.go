package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// node publishes this node with the Pod CIDR of the tests.
func (w *world) node() {
	n := &cluster.Node{Meta: cluster.Meta{Key: cluster.Key{Name: "node1"}}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
	w.feeds.Nodes.Set(n.Key, n)
}

// reach says who reaches a Pod of this node that is at an address: another
// node's Pod, a Pod of this node, and the host.
func (w *world) reach(ip string) string {
	tr := w.tracer()
	p := packet{dst: netip.MustParseAddr(ip), protocol: inet.TCP, port: 80}
	remote, neighbour, host := p, p, p
	remote.src, neighbour.src, host.src = netip.MustParseAddr("10.244.2.5"), netip.MustParseAddr("10.244.1.3"), netip.MustParseAddr("192.168.1.10")
	neighbour.bridged, host.local = true, true
	return fmt.Sprintf("remote %v, neighbour %v, host %v",
		tr.passes("FORWARD", remote), tr.passes("FORWARD", neighbour), tr.passes("OUTPUT", host))
}

const (
	reachable = "remote true, neighbour true, host true"
	unreached = "remote false, neighbour false, host true"
)

// TestNewPods follows a Pod that a policy selects, and one that none does, from
// before they have an address, in each mode. Only the host reaches them before
// their rules are in.
func TestNewPods(t *testing.T) {
	for _, mode := range []struct {
		mode                             NewPods
		idle, expected, known, isolated  string
		unselected, unselectedAfterwards string
	}{
		{Selected, reachable, unreached, reachable, unreached, reachable, reachable},
		{Closed, unreached, unreached, reachable, unreached, unreached, reachable},
		{Open, reachable, reachable, reachable, unreached, reachable, reachable},
	} {
		t.Run(fmt.Sprint(mode.mode), func(t *testing.T) {
			w := newWorldWith(func(c *Config) { c.NewPods = mode.mode })
			w.node()
			w.pod(newPod("red", "neighbour", "node1", "10.244.1.3", ""))
			w.policy(denyIngress("red"))
			w.policy(&cluster.NetworkPolicy{Meta: cluster.Meta{Key: cluster.Key{Namespace: "blue", Name: "none"}}, Pods: selects("app=none"), IsolatesIngress: true})
			expect := func(what, want string, ip string) {
				t.Helper()
				w.settle(t)
				if got := w.reach(ip); got != want {
					t.Errorf("%s: %s, want %s\n%s", what, got, want, w.kernel())
				}
			}
			w.feeds.NetworkPolicies.Delete(cluster.Key{Namespace: "red", Name: "deny"})
			expect("nothing is expected", mode.idle, "10.244.1.9")
			w.policy(denyIngress("red"))
			w.pod(newPod("red", "web", "node1", "", ""))
			expect("a Pod is expected that a policy selects", mode.expected, "10.244.1.9")
			w.pod(newPod("red", "web", "node1", "10.244.1.9", ""))
			expect("its rules are in", mode.isolated, "10.244.1.9")
			w.pod(newPod("blue", "free", "node1", "", ""))
			expect("a Pod is expected that no policy selects", mode.unselected, "10.244.1.10")
			w.pod(newPod("blue", "free", "node1", "10.244.1.10", ""))
			expect("it is known", mode.unselectedAfterwards, "10.244.1.10")
			w.feeds.Pods.Delete(cluster.Key{Namespace: "blue", Name: "free"})
			expect("its address is free again", mode.unselected, "10.244.1.10")
		})
	}
}

// A Pod that is expected stops to matter when it is gone, has finished or turns
// out to be on the host's network.
func TestExpectedPodsThatNeverCome(t *testing.T) {
	for name, end := range map[string]func(w *world, p *cluster.Pod){
		"deleted":  func(w *world, p *cluster.Pod) { w.feeds.Pods.Delete(p.Key) },
		"finished": func(w *world, p *cluster.Pod) { q := *p; q.Finished = true; w.pod(&q) },
		"unselected": func(w *world, p *cluster.Pod) {
			w.feeds.NetworkPolicies.Delete(cluster.Key{Namespace: "red", Name: "deny"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(func(c *Config) { c.NewPods = Selected })
			w.node()
			w.policy(denyIngress("red"))
			p := newPod("red", "web", "node1", "", "")
			w.pod(p)
			w.settle(t)
			if got := w.reach("10.244.1.9"); got != unreached {
				t.Fatalf("expected: %s", got)
			}
			end(w, p)
			w.settle(t)
			if got := w.reach("10.244.1.9"); got != reachable {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
}

// A policy's change writes rules of its own chain alone, one local Pod more its
// place.
func TestOnlyWhatChangesIsWritten(t *testing.T) {
	w := newWorldWith(func(c *Config) { c.NewPods = Selected })
	w.node()
	for i := range 40 {
		w.pod(newPod("red", fmt.Sprint("web-", i), "node1", fmt.Sprint("10.244.1.", i+2), "app=web"))
	}
	w.policy(denyIngress("red"))
	allow := allowFrontend()
	allow.Namespace, allow.Pods = "red", selects("app=web")
	w.policy(allow)
	w.settle(t)
	written := func(want ...string) {
		t.Helper()
		w.settle(t)
		var got []string
		for line := range strings.Lines(w.rules.LastInput()) {
			if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], "-") {
				got = append(got, f[0]+" "+f[1][:min(len(f[1]), 12)])
			}
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("written:\n%s\nwant:\n%s", w.rules.LastInput(), strings.Join(want, "\n"))
		}
	}
	changed := *allow
	changed.Ingress = []cluster.PolicyRule{allow.Ingress[0]}
	changed.Ingress[0].Ports = []cluster.PolicyPort{{Protocol: inet.TCP, Port: 8443, End: 8443}}
	w.policy(&changed)
	written("-I KUBE-NWPLCY-", "-D KUBE-NWPLCY-", "-I KUBE-NWPLCY-", "-D KUBE-NWPLCY-")
	w.pod(newPod("red", "web-40", "node1", "10.244.1.250", "app=web"))
	written("-I KUBE-ROUTER-", "-I KUBE-ROUTER-", "-I KUBE-ROUTER-", "-I KUBE-ROUTER-", "-I KUBE-ROUTER-")
}
