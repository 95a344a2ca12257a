//go:build guest

package services

import (
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// IPv6 works as IPv4 does, beside it.
func TestDualStack(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	for name, commands := range map[string]string{
		"n1":      "ip addr add fd00:7::11/64 dev eth0 nodad; ip addr add fd00:244:1::1/64 dev kube-bridge nodad; ip route add fd00:244:2::/64 via fd00:7::12",
		"n2":      "ip addr add fd00:7::12/64 dev eth0 nodad; ip addr add fd00:244:2::1/64 dev kube-bridge nodad; ip route add fd00:244:1::/64 via fd00:7::11; sysctl -qw net.ipv6.conf.all.forwarding=1",
		"outside": "ip addr add fd00:7::100/64 dev eth0 nodad",
		"a":       "ip addr add fd00:244:1::2/64 dev eth0 nodad; ip route add default via fd00:244:1::1",
		"b":       "ip addr add fd00:244:1::3/64 dev eth0 nodad; ip route add default via fd00:244:1::1",
		"c":       "ip addr add fd00:244:2::2/64 dev eth0 nodad; ip route add default via fd00:244:2::1",
	} {
		n.hosts[name].run("sh", "-ec", "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 0 > $f; done; "+commands)
	}
	for _, pod := range []string{"b", "c"} {
		n.hosts[pod].serveAt("[::]:8080")
	}
	web := service("web", "10.96.0.10", tcp(80, 30080), udp(80, 0))
	web.ClusterIPs = addrs("10.96.0.10", "fd00:96::10")
	me := node("n1", n1Addr, "10.244.1.0/24")
	me.InternalIPs, me.PodCIDRs = addrs(n1Addr, "fd00:7::11"), prefixes("10.244.1.0/24", "fd00:244:1::/64")
	six := slice("web", 8080, ready("fd00:244:1::3", "n1"), ready("fd00:244:2::2", "n2"))
	six.Name = "web-6"
	n.start(Config{
		Guard: true, Hairpin: true, Families: []inet.Family{inet.IPv4, inet.IPv6}, ServiceRanges: prefixes("fd00:96::/112"),
	}, func(f *cluster.Feeds) {
		set(me, web, slice("web", 8080, ready(bAddr, "n1"), ready(cAddr, "n2")), six)(f)
	})
	const vip4, vip6 = "10.96.0.10:80", "[fd00:96::10]:80"
	wants(t, "IPv4", n.hosts["a"].answers("tcp", vip4, 2), "b sees "+aAddr+", c sees "+aAddr)
	for _, protocol := range []string{"tcp", "udp"} {
		wants(t, protocol+" from a pod", n.hosts["a"].answers(protocol, vip6, 2), "b sees fd00:244:1::2, c sees fd00:244:1::2")
		wants(t, protocol+" from the node", n.hosts["n1"].answers(protocol, vip6, 2), "b sees fd00:7::11, c sees fd00:7::11")
		wants(t, protocol+" from an endpoint", n.hosts["b"].answers(protocol, vip6, 2), "b sees fd00:244:1::1, c sees fd00:244:1::3")
	}
	wants(t, "node port", n.hosts["outside"].answers("tcp", "[fd00:7::11]:30080", 2), "b sees fd00:7::100, c sees fd00:7::11")
	wants(t, "a port that is not served", n.hosts["a"].get("tcp", "[fd00:96::10]:22"), "refused")
}
