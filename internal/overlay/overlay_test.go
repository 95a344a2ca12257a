package overlay

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
)

// host is node n1. Its subnets are those of its addresses.
func host(ips ...string) Host {
	me := Host{Name: "n1", MTU: 1500}
	for _, s := range ips {
		a := netip.MustParseAddr(s)
		me.IPs = append(me.IPs, a)
		cidr := "10.244.1.0/24"
		if a.Is6() {
			cidr = "fd00:244:1::/64"
		}
		me.PodCIDRs = append(me.PodCIDRs, netip.MustParsePrefix(cidr))
	}
	me.Near = func(a netip.Addr) bool {
		for _, own := range me.IPs {
			bits := 24
			if own.Is6() {
				bits = 64
			}
			if netip.PrefixFrom(own, bits).Masked().Contains(a) {
				return true
			}
		}
		return false
	}
	return me
}

// nodes are named n1, n2 and so on, each with addresses with a comma between.
func nodes(ips ...string) map[string]*cluster.Node {
	all := map[string]*cluster.Node{}
	for i, list := range ips {
		n := &cluster.Node{Meta: cluster.Meta{Key: cluster.Key{Name: "n" + string(rune('1'+i))}}}
		for s := range strings.SplitSeq(list, ",") {
			if s != "" {
				n.InternalIPs = append(n.InternalIPs, netip.MustParseAddr(s))
			}
		}
		all[n.Name] = n
	}
	return all
}

func TestCompile(t *testing.T) {
	four := nodes("192.168.66.11", "192.168.66.12", "192.168.70.13", "192.168.70.14")
	both := nodes("192.168.66.11,fd00:66::11", "192.168.66.12,fd00:66::12", "192.168.70.13,fd00:70::13")
	six := nodes("fd00:66::11", "fd00:66::12", "fd00:70::13", "fd00:70::14")
	for _, test := range []struct {
		name  string
		c     Config
		me    Host
		nodes map[string]*cluster.Node
		want  string
	}{
		{"off", Config{Encap: IPIP}, host("192.168.66.11"), four, ``},
		{"IPIP to other subnets", Config{Enabled: true, Encap: IPIP, Port: 5555}, host("192.168.66.11"), four, `
kube-tun-ipip ipip local 192.168.66.11 mtu 1480 src 192.168.66.11
pods of 192.168.70.13 via 192.168.70.13 dev kube-tun-ipip
pods of 192.168.70.14 via 192.168.70.14 dev kube-tun-ipip
32700: from 10.244.1.0/24 lookup 77
`},
		{"IPIP to all nodes", Config{Enabled: true, Full: true, Encap: IPIP}, host("192.168.66.11"), four, `
kube-tun-ipip ipip local 192.168.66.11 mtu 1480 src 192.168.66.11
pods of 192.168.66.12 via 192.168.66.12 dev kube-tun-ipip
pods of 192.168.70.13 via 192.168.70.13 dev kube-tun-ipip
pods of 192.168.70.14 via 192.168.70.14 dev kube-tun-ipip
32700: from 10.244.1.0/24 lookup 77
`},
		{"FoU", Config{Enabled: true, Encap: FoU, Port: 5555}, host("192.168.66.11"), four, `
kube-tun-ipip ipip local 192.168.66.11 mtu 1468 gue 5555 src 192.168.66.11
pods of 192.168.70.13 via 192.168.70.13 dev kube-tun-ipip
pods of 192.168.70.14 via 192.168.70.14 dev kube-tun-ipip
32700: from 10.244.1.0/24 lookup 77
`},
		{"VXLAN", Config{Enabled: true, Encap: VXLAN, Port: 4789}, host("192.168.66.11"), four, `
kube-tun-vxlan vxlan local 192.168.66.11 mtu 1450 port 4789 src 192.168.66.11
  to 192.168.70.13 192.168.70.14
pods of 192.168.70.13 via 192.168.70.13 dev kube-tun-vxlan
pods of 192.168.70.14 via 192.168.70.14 dev kube-tun-vxlan
32700: from 10.244.1.0/24 lookup 77
`},
		{"both families in IPv4", Config{Enabled: true, Encap: IPIP}, host("192.168.66.11", "fd00:66::11"), both, `
kube-tun-ipip ipip local 192.168.66.11 mtu 1480 src 192.168.66.11
kube-tun-sit sit local 192.168.66.11 mtu 1480 src fd00:66::11
pods of 192.168.70.13 via 192.168.70.13 dev kube-tun-ipip
pods of fd00:70::13 via ::c0a8:460d dev kube-tun-sit
32700: from 10.244.1.0/24 lookup 77
32700: from fd00:244:1::/64 lookup 77
`},
		{"both families in one VXLAN", Config{Enabled: true, Encap: VXLAN, Port: 4789}, host("192.168.66.11", "fd00:66::11"), both, `
kube-tun-vxlan vxlan local 192.168.66.11 mtu 1450 port 4789 src 192.168.66.11 src fd00:66::11
  to 192.168.70.13
pods of 192.168.70.13 via 192.168.70.13 dev kube-tun-vxlan
pods of fd00:70::13 via fe80::6b:c0ff:fea8:460d dev kube-tun-vxlan
32700: from 10.244.1.0/24 lookup 77
32700: from fd00:244:1::/64 lookup 77
`},
		{"IPv6 alone has a link for each node", Config{Enabled: true, Encap: FoU, Port: 5555}, host("fd00:66::11"), six, `
tun-c5c37a84408 ip6tnl local fd00:66::11 remote fd00:70::14 mtu 1448 gue 5555 src fd00:66::11
tun-da2ae57ce69 ip6tnl local fd00:66::11 remote fd00:70::13 mtu 1448 gue 5555 src fd00:66::11
pods of fd00:70::13 dev tun-da2ae57ce69
pods of fd00:70::14 dev tun-c5c37a84408
32700: from fd00:244:1::/64 lookup 77
`},
		{"VXLAN in IPv6", Config{Enabled: true, Encap: VXLAN, Port: 4789}, host("fd00:66::11"), six, `
kube-tun-vxlan6 vxlan local fd00:66::11 mtu 1430 port 4789 src fd00:66::11
  to fd00:70::13 fd00:70::14
pods of fd00:70::13 via fe80::da:2aff:fee5:7ce6 dev kube-tun-vxlan6
pods of fd00:70::14 via fe80::c5:c3ff:fe7a:8440 dev kube-tun-vxlan6
32700: from fd00:244:1::/64 lookup 77
`},
		{"a node of one family beside nodes of two", Config{Enabled: true, Encap: VXLAN, Port: 4789}, host("192.168.66.11", "fd00:66::11"),
			nodes("", "192.168.70.12,fd00:70::12", "fd00:70::13"), `
kube-tun-vxlan vxlan local 192.168.66.11 mtu 1450 port 4789 src 192.168.66.11 src fd00:66::11
  to 192.168.70.12
kube-tun-vxlan6 vxlan local fd00:66::11 mtu 1430 port 4789 src fd00:66::11
  to fd00:70::13
pods of 192.168.70.12 via 192.168.70.12 dev kube-tun-vxlan
pods of fd00:70::12 via fe80::6b:c0ff:fea8:460c dev kube-tun-vxlan
pods of fd00:70::13 via fe80::da:2aff:fee5:7ce6 dev kube-tun-vxlan6
32700: from 10.244.1.0/24 lookup 77
32700: from fd00:244:1::/64 lookup 77
`},
		{"nodes without an address, with ours, with one that is none, and with one address", Config{Enabled: true, Full: true, Encap: IPIP}, host("192.168.66.11"),
			nodes("", "", "192.168.66.11", "224.0.0.1", "127.0.0.1", "192.168.70.13", "192.168.70.13"), `
kube-tun-ipip ipip local 192.168.66.11 mtu 1480 src 192.168.66.11
pods of 192.168.70.13 via 192.168.70.13 dev kube-tun-ipip
32700: from 10.244.1.0/24 lookup 77
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan := Compile(test.c, test.me, test.nodes)
			if d := cmp.Diff(strings.TrimSpace(test.want), strings.TrimSpace(plan.String())); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if len(plan.Routes) != len(plan.hops) {
				t.Errorf("%d routes of Pods to %d nodes", len(plan.Routes), len(plan.hops))
			}
			for key, r := range plan.Routes {
				if hop, ok := plan.Hop(key.Dst.Addr()); !ok || !key.Dst.IsSingleIP() || key.Table != Table || r.NextHops[0] != hop {
					t.Errorf("table %d: %s", key.Table, r)
				}
			}
		})
	}
}

func TestMTUHasRoomForTheEncapsulation(t *testing.T) {
	four, both, six := host("192.168.66.11"), host("192.168.66.11", "fd00:66::11"), host("fd00:66::11")
	for _, test := range []struct {
		encap           Encap
		four, both, six int
	}{
		{IPIP, 1480, 1480, 1460},
		{FoU, 1468, 1468, 1448},
		{VXLAN, 1450, 1450, 1430},
	} {
		c := Config{Enabled: true, Encap: test.encap, Port: 5555}
		if got := [3]int{c.MTU(four), c.MTU(both), c.MTU(six)}; got != [3]int{test.four, test.both, test.six} {
			t.Errorf("%s: MTU %v, want %d, %d, %d", test.encap, got, test.four, test.both, test.six)
		}
		c.Enabled = false
		if got := c.MTU(both); got != 1500 {
			t.Errorf("%s, off: MTU %d", test.encap, got)
		}
	}
}

func TestChanged(t *testing.T) {
	c := Config{Enabled: true, Encap: IPIP}
	me := host("192.168.66.11")
	before := Compile(c, me, nodes("", "192.168.70.12"))
	after := Compile(c, me, nodes("", "192.168.70.12", "192.168.70.13"))
	if before.SameWays(after) || !before.SameWays(Compile(c, me, nodes("", "192.168.70.12"))) {
		t.Error("SameWays")
	}
	for addr, want := range map[string]bool{"192.168.70.12": false, "192.168.70.13": true, "192.168.66.12": false} {
		if got := before.Changed(after, []netip.Addr{netip.MustParseAddr(addr)}); got != want {
			t.Errorf("%s: changed %t", addr, got)
		}
	}
}
