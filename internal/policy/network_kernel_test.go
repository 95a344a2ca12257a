//go:build kernel

package policy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// network is two nodes with Pods on bridges, and the world outside behind
// node1, where the agent is. The Pods of node1 reach each other through its
// bridge, all others through its routes.
//
//	pods 1-4 -- br0 node1 eth0 --- eth0 node2 br0 -- pods 5-6
//	                 ext0 --- outside
type network struct {
	*world
	node1, node2, outside *site
	pods                  []*site
	variant               iptables.Variant
	nextPort              uint16 // no two flows have the same, so that none is taken for another
	before                map[string]string
}

func newNetwork(t *testing.T, variant iptables.Variant) *network {
	t.Helper()
	nstest.New(t)
	// Not the lock of the host.
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "xtables.lock"))
	n := &network{variant: variant, nextPort: 20000}
	n.node1 = newSite(t, "node1", true, "192.168.50.1", "fd00:50::1")
	n.node2 = newSite(t, "node2", false, "192.168.50.2", "fd00:50::2")
	n.outside = newSite(t, "outside", false, "192.0.2.5", "192.0.2.200", "203.0.113.7", "2001:db8::5", "2001:db8:0:1::5")
	n.wire(t)
	for i := range 6 {
		node, at, host := n.node1, 1, i+2
		if i >= 4 {
			node, at, host = n.node2, 2, i-2
		}
		pod := newSite(t, fmt.Sprint("pod", i), false, fmt.Sprintf("10.244.%d.%d", at, host), fmt.Sprintf("fd00:244:0:%d::%d", at, host))
		n.plug(t, pod, node, at)
		n.pods = append(n.pods, pod)
	}
	for _, s := range append(n.pods, n.node1, n.node2, n.outside) {
		s.serve(t)
	}
	n.firewall(t)
	n.agent(t, inet.IPv4, inet.IPv6)
	return n
}

// router are the sysctls of a node. The last two let it refuse as often as it
// has to. That its bridge asks iptables is up to the agent.
var router = map[string]string{
	"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0",
	"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0",
	"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
}

// wire makes the nodes' bridges and the lines between nodes and outside.
func (n *network) wire(t *testing.T) {
	t.Helper()
	for i, node := range []*site{n.node1, n.node2} {
		node.set(t, router)
		node.run(t, "link add br0 type bridge", "link set br0 up",
			fmt.Sprintf("addr add 10.244.%d.1/24 dev br0", i+1), fmt.Sprintf("addr add fd00:244:0:%d::1/64 dev br0 nodad", i+1))
	}
	n.node1.run(t, "link add eth0 type veth peer name eth0 netns "+n.node2.path, "link add ext0 type veth peer name eth0 netns "+n.outside.path,
		"link set eth0 up", "link set ext0 up",
		"addr add 192.168.50.1/24 dev eth0", "addr add fd00:50::1/64 dev eth0 nodad",
		"addr add 192.0.2.1/24 dev ext0", "addr add 2001:db8::1/64 dev ext0 nodad",
		"route add 203.0.113.0/24 via 192.0.2.5", "route add 2001:db8:0:1::/64 via 2001:db8::5",
		"route add 10.244.2.0/24 via 192.168.50.2", "route add fd00:244:0:2::/64 via fd00:50::2")
	n.node2.run(t, "link set eth0 up", "addr add 192.168.50.2/24 dev eth0", "addr add fd00:50::2/64 dev eth0 nodad",
		"route add default via 192.168.50.1", "route add default via fd00:50::1")
	n.outside.run(t, "link set eth0 up", "addr add 192.0.2.5/24 dev eth0", "addr add 192.0.2.200/24 dev eth0", "addr add 203.0.113.7/32 dev lo",
		"addr add 2001:db8::5/64 dev eth0 nodad", "addr add 2001:db8:0:1::5/128 dev lo nodad",
		"route add default via 192.0.2.1", "route add default via 2001:db8::1")
}

// plug connects a Pod to its node's bridge.
func (n *network) plug(t *testing.T, pod, node *site, at int) {
	t.Helper()
	node.run(t, fmt.Sprintf("link add %s type veth peer name eth0 netns %s", pod.name, pod.path), "link set "+pod.name+" master br0 up")
	pod.run(t, "link set eth0 up", fmt.Sprintf("addr add %s/24 dev eth0", pod.addrs[0]), fmt.Sprintf("addr add %s/64 dev eth0 nodad", pod.addrs[1]),
		fmt.Sprintf("route add default via 10.244.%d.1", at), fmt.Sprintf("route add default via fd00:244:0:%d::1", at))
}

// firewall are rules such as Kubernetes, Flannel and Docker make, in a host
// that drops what nobody allowed.
func (n *network) firewall(t *testing.T) {
	t.Helper()
	for family, ours := range map[inet.Family][]string{
		inet.IPv4: {"10.244.0.0/16", "icmp", "10.96.0.10/32"}, inet.IPv6: {"fd00:244::/32", "ipv6-icmp", "fd00:96::10/128"},
	} {
		text := strings.NewReplacer("PODS", ours[0], "ICMP", ours[1], "SERVICE", ours[2]).Replace(foreignRules)
		command := exec.Command(n.tool(family, "restore"), "--noflush")
		command.Stdin = strings.NewReader(text)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	n.before = n.foreign(t)
}

const foreignRules = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:FLANNEL-FWD - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p ICMP -j ACCEPT
-A INPUT -s PODS -j ACCEPT
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A OUTPUT -j KUBE-FIREWALL
-A DOCKER-USER -j RETURN
-A FLANNEL-FWD -s PODS -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d PODS -m comment --comment "flanneld forward" -j ACCEPT
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d SERVICE -p udp -m udp --dport 53 -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
COMMIT
`

func (n *network) tool(family inet.Family, what string) string {
	name := map[inet.Family]string{inet.IPv4: "iptables", inet.IPv6: "ip6tables"}[family]
	return name + "-" + map[iptables.Variant]string{iptables.Legacy: "legacy", iptables.NFT: "nft"}[n.variant] + "-" + what
}

// foreign are the rules that are not the agent's, without counters.
func (n *network) foreign(t *testing.T) map[string]string {
	t.Helper()
	rules := map[string]string{}
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		for _, table := range []string{"filter", "nat"} {
			for line := range strings.Lines(nstest.Run(t, n.tool(family, "save"), "-t", table)) {
				line, _, _ = strings.Cut(line, " [")
				ours := slices.ContainsFunc([]string{"KUBE-ROUTER-", podPrefix, policyPrefix}, func(p string) bool { return strings.Contains(line, p) })
				if !ours && !strings.HasPrefix(line, "#") {
					rules[family.String()] += strings.TrimSpace(line) + "\n"
				}
			}
		}
	}
	return rules
}

// agent starts the Controller of a cluster of some families with the real
// drivers.
func (n *network) agent(t *testing.T, families ...inet.Family) {
	t.Helper()
	sets, err := ipset.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sets.Close() })
	links, err := link.Open()
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	rules := map[inet.Family]*iptables.Ruleset{}
	config := testConfig
	config.Families = families
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		driver, err := iptables.Open(t.Context(), family, n.variant)
		if err != nil {
			t.Fatal(err)
		}
		rules[family] = iptables.NewRuleset(driver, family, quiet)
	}
	n.world = &world{feeds: cluster.NewFeeds()}
	n.c = New(config, n.feeds, Drivers{Sets: sets, Rules: rules, Sysctl: sysctl.New(""), Modules: module.Load, Bridges: links.Bridges}, quiet)
}

// siteAt is where an address is.
func (n *network) siteAt(addr netip.Addr) *site {
	for _, s := range append(n.pods, n.outside, n.node2) {
		if slices.Contains(s.addrs, addr) {
			return s
		}
	}
	return n.node1
}

// try makes a connection on the network.
func (n *network) try(f flow) (passes bool, err error) {
	n.nextPort++
	return n.siteAt(f.src).try(f, n.nextPort)
}
