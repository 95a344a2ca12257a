//go:build guest

package ipvs_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
)

// dsrSet has the VIP:ports with endpoints on this node, with the mark of the
// virtual server for what other nodes tunnel to it.
const dsrSet = "kube-router-dsr"

// dsrRules are the rules that DSR needs on each node, however many Services
// there are. A packet comes through the node's own tunnel to the other node
// where there is one, or else through the fallback tunnel. The endpoint's
// answer tells the client that segments go through a tunnel: MTU less three
// headers, two of IP and one of TCP.
func dsrRules(f inet.Family) []string {
	mss := map[inet.Family]int{inet.IPv4: 1500 - 20 - 20 - 20, inet.IPv6: 1500 - 40 - 40 - 20}[f]
	const mark = " -j SET --map-set " + dsrSet + " dst,dst --map-mark"
	return []string{
		"mangle PREROUTING -i " + link.FallbackTunnel(f) + mark,
		"mangle PREROUTING -i tun-+" + mark,
		fmt.Sprintf("mangle POSTROUTING -p tcp -m set --match-set %s src,src -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss %d", dsrSet, mss),
	}
}

// dsrParameters are the sysctls that DSR needs on each node. IPv6 needs none.
var dsrParameters = []string{
	// What comes out of a tunnel is from senders that are reached otherwise.
	// The higher of all's value and the link's counts, and to a link without
	// an address the loose mode (2) is as strict as 1.
	"net.ipv4.conf.all.rp_filter=0",
	"net.ipv4.conf.tunl0.rp_filter=0",
	// Answers to Pods of this node and to itself are from an address that is
	// this node's, too.
	"net.ipv4.conf.eth0.rp_filter=2",
	"net.ipv4.conf.eth0.accept_local=1",
}

// node is what a node programs for a DSR Service: to whom it gives connections.
type node struct {
	addr   string
	local  []string          // addresses of the endpoints on this node
	remote map[string]uint32 // number of endpoints on each other node
}

var protocols = []inet.Protocol{inet.TCP, inet.UDP}

func mark(p inet.Protocol) uint32 { return 0x100 + uint32(p) }

func addrPort(addr, port string) netip.AddrPort {
	return netip.MustParseAddrPort(net.JoinHostPort(addr, port))
}

func (n *network) servers(s node) []ipvs.Change {
	var changes []ipvs.Change
	add := func(id ipvs.ID, addr, port string, r ipvs.Real) {
		changes = append(changes, ipvs.Change{Op: ipvs.AddReal, ID: id, RealAddr: addrPort(addr, port), Real: r})
	}
	for _, p := range protocols {
		front := ipvs.ID{Protocol: p, Addr: addrPort(n.vip, servicePort)}
		tunnelled := ipvs.MarkID(mark(p), n.Family)
		for _, id := range []ipvs.ID{front, tunnelled} {
			changes = append(changes, ipvs.Change{Op: ipvs.AddServer, ID: id, Config: ipvs.Config{Scheduler: "wrr"}})
			for _, pod := range s.local {
				add(id, pod, targetPort, ipvs.Real{Weight: 1})
			}
		}
		for node, weight := range s.remote {
			add(front, node, servicePort, ipvs.Real{Weight: weight, Method: ipvs.Tunnel})
		}
	}
	return changes
}

func (n *network) sets(s node) []ipset.Change {
	changes := []ipset.Change{{Op: ipset.Create, Name: dsrSet, Spec: ipset.Spec{Type: ipset.HashIPPort, Family: n.Family, SkbInfo: true}}}
	for _, p := range protocols {
		e := ipset.IPPort(p, addrPort(n.vip, servicePort))
		e.Mark, e.Mask = mark(p), ^uint32(0)
		changes = append(changes, ipset.Change{Op: ipset.Add, Name: dsrSet, Entry: e})
	}
	return changes
}

// program sets a node up for a Service.
func (n *network) program(name string, s node) {
	n.t.Helper()
	h := n.hosts[name]
	var errs []error
	h.in(func() {
		links, err1 := link.Open()
		sets, err2 := ipset.Open()
		servers, err3 := ipvs.Open()
		if errs = append(errs, err1, err2, err3); errors.Join(errs...) != nil {
			return
		}
		defer links.Close()
		defer sets.Close()
		defer servers.Close()
		_, err := links.EnsureFallbackTunnel(n.Family)
		errs = append(errs, err)
		errs = append(errs, sets.Apply(n.sets(s))...)
		errs = append(errs, servers.Apply(n.servers(s))...)
	})
	if err := errors.Join(errs...); err != nil {
		n.t.Fatal(err)
	}
	h.sh(n.ip + " route add local " + n.vip + " dev lo src " + s.addr)
	h.sh("sysctl -qw " + strings.Join(dsrParameters, " "))
	for _, rule := range dsrRules(n.Family) {
		n.rule(name, "-A", rule)
	}
	n.rule(name, "-A", "filter FORWARD -m conntrack --ctstate ESTABLISHED") // makes conntrack follow all
	for _, pod := range s.local {
		n.rule(name, "-A", "nat POSTROUTING -s "+pod+" -d "+pod+" -m ipvs --vmethod MASQ -j MASQUERADE")
	}
}

// rule appends (-A) or deletes (-D) a rule: "TABLE CHAIN MATCHES".
func (n *network) rule(host, verb, rule string) {
	n.t.Helper()
	table, rest, _ := strings.Cut(rule, " ")
	n.hosts[host].sh(n.iptables + " -t " + table + " " + verb + " " + rest)
}

// packets is how often the last rule of a chain matched.
func (n *network) packets(host, table, chain string) string {
	out := n.hosts[host].sh(n.iptables + " -t " + table + " -nvxL " + chain)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return strings.Fields(lines[len(lines)-1])[0]
}

// newDSR is a network with a Service whose endpoints are Pods of the nodes, by
// name.
func newDSR(t *testing.T, f family, n1, n2 []string) *network {
	n := newNetwork(t, f)
	addrs := func(pods []string) (list []string) {
		for _, pod := range pods {
			list = append(list, f.addrs[pod])
			n.hosts[pod].echo(targetPort)
		}
		return list
	}
	remote := func(node string, pods []string) map[string]uint32 {
		if len(pods) == 0 {
			return nil
		}
		return map[string]uint32{f.addrs[node]: uint32(len(pods))}
	}
	n.program("n1", node{addr: f.addrs["n1"], local: addrs(n1), remote: remote("n2", n2)})
	n.program("n2", node{addr: f.addrs["n2"], local: addrs(n2), remote: remote("n1", n1)})
	return n
}

func eachFamily(t *testing.T, run func(*testing.T, family)) {
	for _, f := range families {
		t.Run(f.String(), func(t *testing.T) { run(t, f) })
	}
}

func (n *network) wantStream(t *testing.T, from, want string) {
	t.Helper()
	if got := n.hosts[from].stream(n.vip, large); got != want {
		t.Errorf("TCP from %s: %s, want %s", from, got, want)
	}
}
