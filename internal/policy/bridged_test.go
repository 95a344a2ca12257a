package policy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// newBridgedWorld is a cluster of IPv4 on a kernel that has IPv6 as well. Its
// Pods are on the bridge cni0, another program's on docker0.
func newBridgedWorld(adapt func(*Config)) *world {
	w := newDualWorldWith(func(c *Config) {
		c.Families = []inet.Family{inet.IPv4}
		if adapt != nil {
			adapt(c)
		}
	})
	w.onBridge()
	return w
}

func (w *world) onBridge() {
	w.bridges(bridgeAt("docker0", "172.17.0.0/16"), bridgeAt("cni0", "10.244.1.0/24"))
}

// bridges are those that the node has.
func (w *world) bridges(all ...link.Bridge) {
	w.c.look = func() ([]link.Bridge, error) { return all, nil }
}

func bridgeAt(name, network string) link.Bridge {
	return link.Bridge{Name: name, Networks: []netip.Prefix{netip.MustParsePrefix(network)}}
}

// denyRed lets nothing to the Pod red/web.
func (w *world) denyRed() {
	w.policy(denyIngress("red"))
	w.pod(newPod("red", "web", "node1", "10.244.1.9", ""))
}

// The rules of a cluster of IPv4 alone, while a Pod is isolated and after.
func TestStraysOfABridge(t *testing.T) {
	w := newBridgedWorld(nil)
	values := sysctl.NewFake(map[string]string{bridgeParameter(inet.IPv4): "0", bridgeParameter(inet.IPv6): "0"})
	w.c.sysctl = values
	expect := func(when, want6, want4, asks string) {
		t.Helper()
		w.settle(t)
		if diff := cmp.Diff(trim(want6), trim(w.rules6.Text(iptables.Filter))); diff != "" {
			t.Errorf("%s: IPv6 (-want +got):\n%s", when, diff)
		}
		var bridged []string
		for line := range strings.Lines(w.rules.Text(iptables.Filter)) {
			if strings.Contains(line, bridgeChain) {
				bridged = append(bridged, line)
			}
		}
		if diff := cmp.Diff(trim(want4), trim(strings.Join(bridged, ""))); diff != "" {
			t.Errorf("%s: IPv4 (-want +got):\n%s", when, diff)
		}
		if value, err := values.Get(bridgeParameter(inet.IPv6)); value != asks {
			t.Errorf("%s: the bridge asks IPv6 rules: %q (%v)", when, value, err)
		}
	}
	w.pod(newPod("red", "web", "node1", "10.244.1.9", ""))
	expect("no Pod is isolated", `
		*filter
		:INPUT ACCEPT [0:0]
		:FORWARD ACCEPT [0:0]
		:OUTPUT ACCEPT [0:0]
		COMMIT`, ``, "0")
	w.policy(denyIngress("red"))
	expect("one is", `
		*filter
		:INPUT ACCEPT [0:0]
		:FORWARD ACCEPT [0:0]
		:OUTPUT ACCEPT [0:0]
		:KUBE-POD-FW-BRIDGE - [0:0]
		:KUBE-ROUTER-FORWARD - [0:0]
		:KUBE-ROUTER-INPUT - [0:0]
		-A INPUT -j KUBE-ROUTER-INPUT
		-A FORWARD -j KUBE-ROUTER-FORWARD
		-A KUBE-POD-FW-BRIDGE -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN
		-A KUBE-POD-FW-BRIDGE -p ipv6-icmp -m icmp6 --icmpv6-type 136 -j RETURN
		-A KUBE-POD-FW-BRIDGE -p ipv6-icmp -m icmp6 --icmpv6-type 130 -j RETURN
		-A KUBE-POD-FW-BRIDGE -p ipv6-icmp -m icmp6 --icmpv6-type 131 -j RETURN
		-A KUBE-POD-FW-BRIDGE -p ipv6-icmp -m icmp6 --icmpv6-type 132 -j RETURN
		-A KUBE-POD-FW-BRIDGE -p ipv6-icmp -m icmp6 --icmpv6-type 133 -j RETURN
		-A KUBE-POD-FW-BRIDGE -p ipv6-icmp -m icmp6 --icmpv6-type 143 -j RETURN
		-A KUBE-POD-FW-BRIDGE -m comment --comment "not to a pod address" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100
		-A KUBE-POD-FW-BRIDGE -m comment --comment "not to a pod address" -j DROP
		-A KUBE-ROUTER-FORWARD -s fe80::/10 -i cni0 -o cni0 -m conntrack ! --ctstate RELATED,ESTABLISHED -j KUBE-POD-FW-BRIDGE
		-A KUBE-ROUTER-FORWARD -d fe80::/10 -i cni0 -o cni0 -m conntrack ! --ctstate RELATED,ESTABLISHED -j KUBE-POD-FW-BRIDGE
		-A KUBE-ROUTER-FORWARD -d ff00::/8 -i cni0 -o cni0 -m conntrack ! --ctstate RELATED,ESTABLISHED -j KUBE-POD-FW-BRIDGE
		-A KUBE-ROUTER-INPUT -s fe80::/10 -i cni0 -m conntrack ! --ctstate RELATED,ESTABLISHED -j KUBE-POD-FW-BRIDGE
		COMMIT`, `
		:KUBE-POD-FW-BRIDGE - [0:0]
		-A KUBE-POD-FW-BRIDGE -m comment --comment "not to a pod address" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100
		-A KUBE-POD-FW-BRIDGE -m comment --comment "not to a pod address" -j DROP
		-A KUBE-ROUTER-FORWARD -d 224.0.0.0/4 -i cni0 -o cni0 -m conntrack ! --ctstate RELATED,ESTABLISHED -j KUBE-POD-FW-BRIDGE
		-A KUBE-ROUTER-FORWARD -i cni0 -o cni0 -m conntrack ! --ctstate RELATED,ESTABLISHED -m addrtype --dst-type BROADCAST -j KUBE-POD-FW-BRIDGE`, "1")
	w.feeds.NetworkPolicies.Delete(cluster.Key{Namespace: "red", Name: "deny"})
	expect("no Pod is any more", `
		*filter
		:INPUT ACCEPT [0:0]
		:FORWARD ACCEPT [0:0]
		:OUTPUT ACCEPT [0:0]
		COMMIT`, ``, "1")
}

// What is closed, and what is not: the other families' addresses of Pods, what
// IPv6 needs, other programs' bridges, and what does not come from Pods.
func TestWhatStraysMeet(t *testing.T) {
	own := func(p packet) packet {
		p.in, p.out = "cni0", "cni0"
		return p
	}
	tcp := func(src, dst string) packet {
		return own(packet{src: netip.MustParseAddr(src), dst: netip.MustParseAddr(dst), protocol: inet.TCP, port: 80})
	}
	icmp := func(kind, dst string) packet {
		return own(packet{src: netip.MustParseAddr("fe80::1"), dst: netip.MustParseAddr(dst), icmpType: kind})
	}
	with := func(p packet, change func(*packet)) packet { change(&p); return p }
	broadcast := func(p *packet) { p.broadcast = true }
	established := func(p *packet) { p.established = true }
	toNode := func(p *packet) { p.out, p.toHost = "", true }
	elsewhere := func(p *packet) { p.in, p.out = "docker0", "docker0" }
	w := newBridgedWorld(nil)
	w.denyRed()
	w.settle(t)
	cutting := newBridgedWorld(func(c *Config) { c.CutFlows = true })
	cutting.denyRed()
	cutting.settle(t)
	for _, c := range []struct {
		what, chain string
		packet      packet
		passes      bool
		cut         bool // passes where flows are cut
	}{
		{"link-local", "FORWARD", tcp("fe80::1", "fe80::2"), false, false},
		{"to a group", "FORWARD", tcp("fd00::1", "ff02::1"), false, false},
		{"an established one", "FORWARD", with(tcp("fe80::1", "fe80::2"), established), true, false},
		{"an echo request", "FORWARD", icmp("128", "fe80::2"), false, false},
		{"a router's advertisement by a pod", "FORWARD", icmp("134", "ff02::1"), false, false},
		{"a neighbour's question", "FORWARD", icmp("135", "ff02::1:ff00:2"), true, true},
		{"a neighbour's answer", "FORWARD", icmp("136", "fe80::2"), true, true},
		{"a listener's report", "FORWARD", icmp("143", "ff02::16"), true, true},
		{"a question after a router", "FORWARD", icmp("133", "ff02::2"), true, true},
		{"another program's bridge", "FORWARD", with(tcp("fe80::1", "fe80::2"), elsewhere), true, true},
		{"link-local to the node", "INPUT", with(tcp("fe80::1", "fe80::3"), toNode), false, false},
		{"an answer to the node", "INPUT", with(with(tcp("fe80::1", "fe80::3"), toNode), established), true, true},
		{"a neighbour's question to the node", "INPUT", with(icmp("135", "ff02::1:ff00:3"), toNode), true, true},
		{"broadcast", "FORWARD", with(tcp("10.244.1.8", "10.244.1.255"), broadcast), false, false},
		{"multicast", "FORWARD", tcp("10.244.1.8", "224.0.0.1"), false, false},
		{"to another pod", "FORWARD", tcp("10.244.1.8", "10.244.1.7"), true, true},
		{"broadcast of another program's", "FORWARD", with(with(tcp("172.17.0.2", "172.17.255.255"), broadcast), elsewhere), true, true},
	} {
		if got := w.tracer().passes(c.chain, c.packet); got != c.passes {
			t.Errorf("%s passes: %v\n%s", c.what, got, w.kernel())
		}
		if got := cutting.tracer().passes(c.chain, c.packet); got != c.cut {
			t.Errorf("%s passes where flows are cut: %v\n%s", c.what, got, cutting.kernel())
		}
	}
}

// Strays are closed as early as new Pods are, in each mode.
func TestStraysOfNewPods(t *testing.T) {
	stray := packet{src: netip.MustParseAddr("fe80::1"), dst: netip.MustParseAddr("fe80::2"), protocol: inet.TCP, port: 80,
		in: "kube-bridge", out: "kube-bridge"}
	for mode, want := range map[NewPods][3]bool{Selected: {true, false, false}, Closed: {false, false, false}, Open: {true, true, false}} {
		w := newBridgedWorld(func(c *Config) { c.NewPods, c.Bridges = mode, []string{"kube-bridge"} })
		w.policy(denyIngress("red"))
		for i, pod := range []*cluster.Pod{newPod("blue", "free", "node1", "", ""), newPod("red", "web", "node1", "", ""), newPod("red", "web", "node1", "10.244.1.9", "")} {
			w.pod(pod)
			w.settle(t)
			if got := w.tracer().passes("FORWARD", stray); got != want[i] {
				t.Errorf("mode %d, step %d: it passes: %v\n%s", mode, i, got, w.kernel())
			}
		}
	}
}

// An agent that starts anew finds its rules and writes none; one that finds a
// former one's and has nobody to guard takes them away.
func TestStraysAfterARestart(t *testing.T) {
	w := newBridgedWorld(nil)
	w.denyRed()
	w.settle(t)
	before := w.rules6.Text(iptables.Filter)
	again := w.restarted()
	again.onBridge()
	again.denyRed()
	_, writes := w.rules6.Calls()
	again.settle(t)
	_, now := w.rules6.Calls()
	if diff := cmp.Diff(before, w.rules6.Text(iptables.Filter)); diff != "" || now != writes {
		t.Errorf("%d writes (-before +after):\n%s", now-writes, diff)
	}
	last := w.restarted()
	last.settle(t)
	if text := w.rules6.Text(iptables.Filter); strings.Contains(text, "KUBE-") {
		t.Errorf("left:\n%s", text)
	}
}

// noIPv6 is an ip6tables that cannot write.
type noIPv6 struct{ iptables.Interface }

func (noIPv6) Restore(context.Context, string) error { return errors.New("ip6tables: no such thing") }

// Where the IPv6 rules of a cluster of IPv4 cannot be written, that is said and
// tried again; the policies are in force all the same.
func TestStraysThatCannotBeClosed(t *testing.T) {
	w := newBridgedWorld(nil)
	w.c.rules[inet.IPv6] = iptables.NewRuleset(noIPv6{w.rules6}, inet.IPv6, w.c.log)
	w.denyRed()
	err := w.attempt(2)
	if err == nil || !strings.Contains(err.Error(), "link-local") || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("the error is %v", err)
	}
	if !w.isReady() || !strings.Contains(w.rules.Text(iptables.Filter), policyPrefix) {
		t.Errorf("ready: %v\n%s", w.isReady(), w.kernel())
	}
}

// The bridge is found again where it changes, with the next resync.
func TestAnotherBridge(t *testing.T) {
	w := newBridgedWorld(nil)
	w.denyRed()
	w.settle(t)
	w.bridges(bridgeAt("br7", "10.244.1.0/24"))
	w.c.queue.Mark(platformKey, resyncKey)
	w.settle(t)
	if text := w.rules6.Text(iptables.Filter); !strings.Contains(text, "-i br7 ") || strings.Contains(text, "cni0") {
		t.Error(text)
	}
}

// What is dropped is counted, in both families, and no program is run for a
// family without rules.
func TestDropsOfStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBridgedWorld(func(c *Config) { c.CountDrops = true })
		w.settle(t)
		before, _ := w.rules6.Calls()
		w.c.beginDrops(t.Context())
		if now, _ := w.rules6.Calls(); now != before {
			t.Error("the counters of IPv6 are read")
		}
		w.rules6.Packets = func(chain, rule string) uint64 {
			if denies(chain, rule) {
				return 2
			}
			return 1_000_000
		}
		w.denyRed()
		w.settle(t)
		w.denied(1)
		time.Sleep(dropsEvery)
		d, err := w.c.Drops(t.Context())
		if err != nil || d.Strays != 3 {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

// Where the links cannot be read, what was closed stays closed, and it is told.
func TestBridgesThatCannotBeRead(t *testing.T) {
	w := newBridgedWorld(nil)
	w.denyRed()
	w.settle(t)
	before := w.kernel()
	w.c.look = func() ([]link.Bridge, error) { return nil, errors.New("no buffer space") }
	w.c.queue.Mark(platformKey, resyncKey)
	if err := w.attempt(2); err == nil || !strings.Contains(err.Error(), "no buffer space") {
		t.Errorf("the error is %v", err)
	}
	if diff := cmp.Diff(before, w.kernel()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// On a bridge with the host's interface are others, too: their routers and what
// they announce are left alone, and it is said once.
func TestABridgeThatIsNotThePodsAlone(t *testing.T) {
	w := newBridgedWorld(nil)
	var said strings.Builder
	w.c.log = slog.New(slog.NewTextHandler(&said, nil))
	bridge := bridgeAt("br0", "10.244.1.0/24")
	bridge.Others = []string{"eth1"}
	w.bridges(bridge)
	for range 2 {
		w.denyRed()
		w.c.queue.Mark(platformKey, resyncKey)
		w.settle(t)
	}
	if text := w.kernel(); strings.Contains(text, bridgeChain) {
		t.Error(text)
	}
	if got := said.String(); strings.Count(got, "left open") != 1 || !strings.Contains(got, "bridge=br0 ports=[eth1]") {
		t.Errorf("the log says:\n%s", got)
	}
}
