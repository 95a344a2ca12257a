//go:build guest

package ipvs_test

import (
	"errors"
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
// there are.
var dsrRules = []string{
	"mangle PREROUTING -i tunl0 -j SET --map-set " + dsrSet + " dst,dst --map-mark",
	"mangle POSTROUTING -p tcp -m set --match-set " + dsrSet + " src,src -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440",
}

// dsrParameters are the sysctls that DSR needs on each node.
var dsrParameters = []string{
	"net.ipv4.conf.all.rp_filter=0",
	"net.ipv4.conf.tunl0.rp_filter=0",
	"net.ipv4.conf.eth0.rp_filter=0",
	"net.ipv4.conf.all.accept_local=1",
}

var protocols = []inet.Protocol{inet.TCP, inet.UDP}

// node is what a node programs for a DSR Service: to whom it gives connections.
type node struct {
	addr   string
	local  []string          // addresses of the endpoints on this node
	remote map[string]uint32 // number of endpoints on each other node
}

func mark(p inet.Protocol) uint32 { return 0x100 + uint32(p) }

func (s node) changes() []ipvs.Change {
	var changes []ipvs.Change
	rr := ipvs.Config{Scheduler: "wrr"}
	add := func(id ipvs.ID, addr, port string, r ipvs.Real) {
		changes = append(changes, ipvs.Change{Op: ipvs.AddReal, ID: id, RealAddr: netip.MustParseAddrPort(addr + ":" + port), Real: r})
	}
	for _, p := range protocols {
		front := ipvs.ID{Protocol: p, Addr: netip.MustParseAddrPort(vip + ":" + servicePort)}
		tunnelled := ipvs.MarkID(mark(p), inet.IPv4)
		changes = append(changes, ipvs.Change{Op: ipvs.AddServer, ID: front, Config: rr})
		for node, n := range s.remote {
			add(front, node, servicePort, ipvs.Real{Weight: n, Method: ipvs.Tunnel})
		}
		if len(s.local) > 0 {
			changes = append(changes, ipvs.Change{Op: ipvs.AddServer, ID: tunnelled, Config: rr})
		}
		for _, pod := range s.local {
			add(front, pod, targetPort, ipvs.Real{Weight: 1})
			add(tunnelled, pod, targetPort, ipvs.Real{Weight: 1})
		}
	}
	return changes
}

func (s node) sets() []ipset.Change {
	changes := []ipset.Change{{Op: ipset.Create, Name: dsrSet, Spec: ipset.Spec{Type: ipset.HashIPPort, Family: inet.IPv4, SkbInfo: true}}}
	for _, p := range protocols {
		if len(s.local) == 0 {
			break
		}
		e := ipset.IPPort(p, netip.MustParseAddrPort(vip+":"+servicePort))
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
		_, err := links.EnsureFallbackTunnel(inet.IPv4)
		errs = append(errs, err)
		errs = append(errs, sets.Apply(s.sets())...)
		errs = append(errs, servers.Apply(s.changes())...)
	})
	if err := errors.Join(errs...); err != nil {
		n.t.Fatal(err)
	}
	h.sh("ip route add local " + vip + " dev lo src " + s.addr)
	h.sh("sysctl -qw " + strings.Join(dsrParameters, " "))
	for _, rule := range dsrRules {
		h.rule(rule)
	}
	for _, pod := range s.local {
		h.rule("nat POSTROUTING -s " + pod + " -d " + pod + " -m ipvs --vmethod MASQ -j MASQUERADE")
	}
}

// rule appends a rule: "TABLE CHAIN MATCHES".
func (h *host) rule(rule string) {
	h.t.Helper()
	table, rest, _ := strings.Cut(rule, " ")
	h.sh("iptables-legacy -t " + table + " -A " + rest)
}

// packets is how often the last rule of a chain matched.
func (h *host) packets(table, chain string) string {
	lines := strings.Split(strings.TrimSpace(h.sh("iptables-legacy -t "+table+" -nvxL "+chain)), "\n")
	return strings.Fields(lines[len(lines)-1])[0]
}

// newDSR is a network with a Service whose endpoints are Pods of the nodes.
func newDSR(t *testing.T, n1, n2 []string) *network {
	n := newNetwork(t)
	remote := func(addr string, pods []string) map[string]uint32 {
		if len(pods) == 0 {
			return nil
		}
		return map[string]uint32{addr: uint32(len(pods))}
	}
	n.program("n1", node{addr: n1Addr, local: n1, remote: remote(n2Addr, n2)})
	n.program("n2", node{addr: n2Addr, local: n2, remote: remote(n1Addr, n1)})
	for _, pod := range []string{"a", "b"} {
		n.hosts[pod].echo(targetPort)
	}
	return n
}

// The endpoint is on n2 alone. Whoever asks on either node, or outside, is
// answered, and the endpoint sees who asks.
func TestDSR(t *testing.T) {
	n := newDSR(t, nil, []string{bAddr})
	n.hosts["n1"].rule("raw PREROUTING -s " + vip)
	n.hosts["n2"].rule("mangle POSTROUTING -s " + vip + " -d " + clientAddr)
	for _, test := range []struct{ from, want string }{
		{"client", "b sees " + clientAddr},
		{"a", "b sees " + aAddr},
		{"n1", "b sees " + n1Addr},
		{"b2", "b sees " + b2Addr},
		{"n2", "b sees " + n2Addr},
		{"b", "b sees 10.244.2.1"}, // itself: masqueraded as the node
	} {
		t.Run(test.from, func(t *testing.T) {
			h := n.hosts[test.from]
			if got := h.stream(large); got != test.want {
				t.Errorf("TCP: %s, want %s", got, test.want)
			}
			for _, size := range []int{1, 1472, 20000} {
				if got := h.datagram(size); got != test.want {
					t.Errorf("UDP, %d bytes: %s, want %s", size, got, test.want)
				}
			}
			if test.from != "client" {
				return
			}
			if got := n.hosts["n1"].packets("raw", "PREROUTING"); got != "0" {
				t.Errorf("%s packets of the answers passed n1", got)
			}
			if got := n.hosts["n2"].packets("mangle", "POSTROUTING"); got == "0" {
				t.Error("no answers left n2")
			}
		})
	}
	t.Logf("n1:\n%s\n%s", n.hosts["n1"].sh("ipvsadm -Sn; ipset save; ipvsadm -Ln --stats"), n.hosts["n2"].sh("ipvsadm -Sn; ipset save; ipvsadm -Ln --stats"))
}
