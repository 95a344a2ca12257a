package routes

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/overlay"
)

// strictHost checks source addresses, as many distributions do.
func strictHost(t *testing.T) *host {
	h := newHost(t)
	values := map[string]string{"net/ipv4/ip_forward": "0", "net/bridge/bridge-nf-call-iptables": "0"}
	for name, value := range map[string]string{"all": "1", "default": "0", "lo": "0", "eth0": "2", Bridge: "0", "kube-tun-ipip": "0", "kube-tun-vxlan": "1"} {
		values["net/ipv4/conf/"+name+"/rp_filter"] = value
	}
	for _, name := range []string{"kube-tun-ipip", "kube-tun-vxlan"} {
		values["net/ipv4/conf/"+name+"/accept_local"] = "0"
	}
	h.sysctl = sysctl.NewFake(values)
	return h
}

func with(o overlay.Config) func(*Config) {
	return func(c *Config) {
		c.Overlay = o
		c.Overlay.Enabled = true
	}
}

// far is a node of another subnet.
func far(n int) *cluster.Node {
	return nodeOf(fmt.Sprintf("n%d", n), fmt.Sprintf("192.168.70.%d", 10+n), fmt.Sprintf("10.244.%d.0/24", n))
}

// twoSubnets are n1 and n2 in one subnet, and n3 in another.
func twoSubnets(f *cluster.Feeds) {
	for _, n := range []*cluster.Node{node(1), node(2), far(3)} {
		f.Nodes.Set(n.Key, n)
	}
}

func (r *run) answersFar(n *cluster.Node) {
	r.t.Helper()
	peer := n.InternalIPs[0]
	r.until("a speaker with "+peer.String(), func() bool {
		s := r.host.speaker()
		return s != nil && strings.Contains(s.String(), " "+peer.String()+" ")
	})
	s := r.host.speaker()
	s.Establish(peer)
	s.Deliver(peer, n.PodCIDRs[0], peer)
	s.Settle(peer)
}

// tunnels is the overlay in the kernel, as ip shows it.
func (r *run) tunnels() string {
	h := r.host
	var b strings.Builder
	for _, name := range []string{"kube-tun-ipip", "kube-tun-vxlan", Bridge} {
		if name == Bridge {
			for line := range strings.Lines(h.links.String()) {
				if _, text, _ := strings.Cut(line, ": "); strings.HasPrefix(text, Bridge) {
					b.WriteString(text)
				}
			}
		} else if text := h.links.TunnelText(name); text != "" {
			fmt.Fprintln(&b, text)
		}
	}
	rules, _ := h.routes.Rules()
	for _, rule := range rules {
		fmt.Fprintln(&b, rule)
	}
	fmt.Fprintf(&b, "# main\n%s# 77\n%s", h.routes.Text(route.Main), h.routes.Text(overlay.Table))
	return b.String()
}

func (r *run) tunnelsAre(want string) {
	r.t.Helper()
	r.until("settled", func() bool { return len(r.Status().Pending) == 0 })
	if d := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(r.tunnels())); d != "" {
		r.t.Errorf("(-want +got):\n%s", d)
	}
}

const mixed = `
kube-tun-ipip ipip local 192.168.66.11 mtu 1430 src 192.168.66.11
kube-bridge bridge mtu 1430 up
32700: from 10.244.1.0/24 lookup 77
# main
10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17
10.244.3.0/24 via 192.168.70.13 dev kube-tun-ipip proto 17 src 192.168.66.11 onlink
# 77
192.168.70.13 via 192.168.70.13 dev kube-tun-ipip proto 17 onlink
`

func TestTunnelsLeadToOtherSubnets(t *testing.T) {
	h := strictHost(t)
	r := h.start(with(overlay.Config{Encap: overlay.IPIP}), twoSubnets)
	r.answersFar(node(2))
	r.answersFar(far(3))
	<-r.Ready()
	r.tunnelsAre(mixed)
	if text, err := os.ReadFile(h.cniFile); err != nil || !strings.Contains(string(text), `"mtu": 1430`) {
		t.Errorf("CNI configuration: %v\n%s", err, text)
	}
	for name, want := range map[string]string{"all": "0", "default": "1", "lo": "1", "eth0": "2", Bridge: "1", "kube-tun-ipip": "0"} {
		if got, _ := h.sysctl.Get("net/ipv4/conf/" + name + "/rp_filter"); got != want {
			t.Errorf("rp_filter of %s is %s, want %s", name, got, want)
		}
	}
	if got, _ := h.sysctl.Get("net/ipv4/conf/kube-tun-ipip/accept_local"); got != "1" {
		t.Errorf("accept_local is %s: answers of direct server return would be dropped", got)
	}
	if filter := h.rules.Text(iptables.Filter); !strings.Contains(filter, "-A INPUT -j KUBE-ROUTER-TUNNELS\n") ||
		!strings.Contains(filter, `-A KUBE-ROUTER-TUNNELS -p 4 -m set ! --match-set kube-router-node-ips src -m comment --comment "tunnels are for nodes" -j DROP`) {
		t.Errorf("filter:\n%s", filter)
	}

	// A restart changes nothing.
	r.end()
	before := h.changes()
	r = h.start(with(overlay.Config{Encap: overlay.IPIP}), twoSubnets)
	<-r.Ready()
	r.answersFar(node(2))
	r.answersFar(far(3))
	r.until("swept", func() bool { return r.Status().Swept })
	r.tunnelsAre(mixed)
	if after := h.changes(); after != before {
		t.Errorf("before: %s\nafter:  %s", before, after)
	}
}

func TestTunnelsFollowTheNodes(t *testing.T) {
	h := strictHost(t)
	h.links.WithoutIPv6 = true // which a cluster of IPv4 needs nothing of
	r := h.start(with(overlay.Config{Encap: overlay.VXLAN, Port: 4789}), nodes(1, 2))
	r.answers(2)
	<-r.Ready()
	none := `
kube-bridge bridge mtu 1400 up
32700: from 10.244.1.0/24 lookup 77
# main
10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17
# 77
`
	r.tunnelsAre(none)

	r.set(far(3), far(4))
	r.answersFar(far(3))
	r.answersFar(far(4))
	r.tunnelsAre(`
kube-tun-vxlan vxlan local 192.168.66.11 mtu 1400 port 4789 src 192.168.66.11
02:6b:c0:a8:46:0d dst 192.168.70.13
02:6b:c0:a8:46:0e dst 192.168.70.14
192.168.70.13 lladdr 02:6b:c0:a8:46:0d
192.168.70.14 lladdr 02:6b:c0:a8:46:0e
kube-bridge bridge mtu 1400 up
32700: from 10.244.1.0/24 lookup 77
# main
10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17
10.244.3.0/24 via 192.168.70.13 dev kube-tun-vxlan proto 17 src 192.168.66.11 onlink
10.244.4.0/24 via 192.168.70.14 dev kube-tun-vxlan proto 17 src 192.168.66.11 onlink
# 77
192.168.70.13 via 192.168.70.13 dev kube-tun-vxlan proto 17 onlink
192.168.70.14 via 192.168.70.14 dev kube-tun-vxlan proto 17 onlink
`)

	// n3 leaves, and n4 moves here.
	r.feeds.Nodes.Delete(far(3).Key)
	r.set(node(4))
	r.answersFar(node(4))
	r.tunnelsAre(strings.Replace(none, "# 77", "10.244.4.0/24 via 192.168.66.14 dev eth0 proto 17\n# 77", 1))
}

func TestTunnelsToAllNodes(t *testing.T) {
	h := strictHost(t)
	r := h.start(with(overlay.Config{Encap: overlay.FoU, Port: 5555, Full: true}), nodes(1, 2))
	r.answers(2)
	r.host.speaker().Deliver(addr("192.168.66.12"), prefix("192.0.2.0/24"), addr("192.168.66.99")) // of a router
	r.tunnelsAre(`
kube-tun-ipip ipip local 192.168.66.11 mtu 1418 gue 5555 src 192.168.66.11
kube-bridge bridge mtu 1418 up
32700: from 10.244.1.0/24 lookup 77
# main
10.244.2.0/24 via 192.168.66.12 dev kube-tun-ipip proto 17 src 192.168.66.11 onlink
192.0.2.0/24 via 192.168.66.99 dev eth0 proto 17
# 77
192.168.66.12 via 192.168.66.12 dev kube-tun-ipip proto 17 onlink
`)
	filter := h.rules.Text(iptables.Filter)
	for _, match := range []string{"-p udp -m udp --dport 5555", "-p 4"} {
		if !strings.Contains(filter, "-A KUBE-ROUTER-TUNNELS "+match+" -m set ! --match-set kube-router-node-ips src") {
			t.Errorf("filter lacks %s:\n%s", match, filter)
		}
	}
}

// Tunnels of other flags carry packets until all routes were learned anew.
func TestTunnelsOfOtherFlagsGoWhenRoutesAreLearned(t *testing.T) {
	h := strictHost(t)
	r := h.start(with(overlay.Config{Encap: overlay.IPIP}), twoSubnets)
	r.answersFar(node(2))
	r.answersFar(far(3))
	r.tunnelsAre(mixed)
	r.end()
	r = h.start(with(overlay.Config{Encap: overlay.VXLAN, Port: 4789}), twoSubnets)
	<-r.Ready()
	if text := h.links.TunnelText("kube-tun-ipip"); text == "" || !strings.Contains(h.routes.Text(route.Main), "kube-tun-ipip") {
		t.Errorf("the former tunnel went before routes led elsewhere: %q\n%s", text, h.routes.Text(route.Main))
	}
	r.answersFar(node(2))
	r.answersFar(far(3))
	r.until("the former tunnel goes", func() bool { return h.links.TunnelText("kube-tun-ipip") == "" })
	r.settled()
	r.end()

	// Off: nothing is left.
	r = h.start(nil, twoSubnets)
	<-r.Ready()
	r.answersFar(node(2))
	r.answersFar(far(3))
	r.until("swept", func() bool { return r.Status().Swept })
	r.tunnelsAre(`
kube-bridge bridge mtu 1450 up
# main
10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17
# 77
`)
	if strings.Contains(h.rules.Text(iptables.Filter), "TUNNELS") {
		t.Errorf("filter:\n%s", h.rules.Text(iptables.Filter))
	}
}

func TestALostTunnelComesBack(t *testing.T) {
	h := strictHost(t)
	r := h.start(with(overlay.Config{Encap: overlay.IPIP}), twoSubnets)
	r.answersFar(node(2))
	r.answersFar(far(3))
	r.tunnelsAre(mixed)
	h.links.DelLink("kube-tun-ipip")
	h.routes.DelLink("kube-tun-ipip")
	r.until("it is back", func() bool { return strings.TrimSpace(r.tunnels()) == strings.TrimSpace(mixed) })
}

func TestATunnelThatCannotBeMadeIsReported(t *testing.T) {
	h := strictHost(t)
	h.links.AddLink("kube-tun-ipip", 1500)
	r := h.start(with(overlay.Config{Encap: overlay.IPIP}), twoSubnets)
	r.answersFar(node(2))
	r.answersFar(far(3))
	r.until("n3's Pods cannot be reached", func() bool { return len(r.Status().Unusable) == 1 })
	r.until("reported", func() bool {
		for _, p := range r.Status().Pending {
			if p.What == "tunnels" && p.Err != nil && strings.Contains(p.Err.Error(), "not a tunnel of the overlay") {
				return true
			}
		}
		return false
	})
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17")
}

func TestWithoutAutoMTUNobodySetsOne(t *testing.T) {
	h := strictHost(t)
	r := h.start(func(c *Config) { with(overlay.Config{Encap: overlay.IPIP})(c); c.AutoMTU = false }, nodes(1))
	<-r.Ready()
	text, err := os.ReadFile(h.cniFile)
	if err != nil || strings.Contains(string(text), "mtu") || !strings.Contains(h.links.String(), "kube-bridge bridge mtu 1500 up") {
		t.Errorf("%v\n%s\n%s", err, text, h.links)
	}
}

func TestEgressRules(t *testing.T) {
	excluded := []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/8")}
	for f, want := range map[inet.Family][]string{
		inet.IPv4: {
			`-d 10.0.0.0/8 -m comment --comment "pods keep their address" -j RETURN`,
			`-m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst -m set ! --match-set kube-router-node-ips dst -m comment --comment "pods to outside the cluster" -j MASQUERADE --random-fully`,
		},
		inet.IPv6: {
			`-d fd00::/8 -m comment --comment "pods keep their address" -j RETURN`,
			`-m set --match-set inet6:kube-router-pod-subnets src -m set ! --match-set inet6:kube-router-pod-subnets dst -m set ! --match-set inet6:kube-router-node-ips dst -m comment --comment "pods to outside the cluster" -j MASQUERADE --random-fully`,
		},
	} {
		if got := egressRules(f, excluded); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s", f, strings.Join(got, "\n"))
		}
	}
}

func TestGuardRules(t *testing.T) {
	both, four := []inet.Family{inet.IPv4, inet.IPv6}, []inet.Family{inet.IPv4}
	for _, test := range []struct {
		encap    overlay.Encap
		families []inet.Family
		f        inet.Family
		want     string
	}{
		{overlay.IPIP, four, inet.IPv4, "-p 4"},
		{overlay.IPIP, both, inet.IPv4, "-p 4, -p 41"},
		{overlay.IPIP, both, inet.IPv6, "-p 41"},
		{overlay.FoU, four, inet.IPv4, "-p udp -m udp --dport 5555, -p 4"},
		{overlay.FoU, both, inet.IPv6, "-p udp -m udp --dport 5555, -p 41"},
		{overlay.VXLAN, both, inet.IPv4, "-p udp -m udp --dport 5555"},
	} {
		var got []string
		for _, rule := range guardRules(test.f, Config{Families: test.families, Overlay: overlay.Config{Encap: test.encap, Port: 5555}}) {
			match, rest, _ := strings.Cut(rule, " -m set ! --match-set ")
			got = append(got, match)
			if want := setName(nodeIPs, test.f) + ` src -m comment --comment "tunnels are for nodes" -j DROP`; rest != want {
				t.Errorf("%s: %s", test.encap, rule)
			}
		}
		if strings.Join(got, ", ") != test.want {
			t.Errorf("%s, %v, %s: %q, want %s", test.encap, test.families, test.f, got, test.want)
		}
	}
}
