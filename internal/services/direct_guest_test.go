//go:build guest

package services

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/link"
)

const externalIP = "203.0.113.1"

// direct is a Service with direct server return whose endpoints are the given
// ones, at another port than its own.
func direct(endpoints ...cluster.Endpoint) func(*cluster.Feeds) {
	s := annotated(service("web", "10.96.0.10", tcp(80, 30080), udp(80, 0)), "service.dsr", "tunnel", "service.hairpin", "")
	s.ExternalIPs = addrs(externalIP)
	return func(f *cluster.Feeds) {
		set(node("n1", n1Addr, "10.244.1.0/24"), node("n2", n2Addr, "10.244.2.0/24"), s, slice("web", 8080, endpoints...))(f)
	}
}

// The endpoint is on n2, and n1 gets the request: n2 answers the client, of
// which the endpoint sees the address, wherever that is.
func TestDirectServerReturn(t *testing.T) { testDirectServerReturn(t, newNetwork(t)) }

// The link of an overlay takes the packets that tunl0 would take.
func TestDirectServerReturnInAnOverlay(t *testing.T) {
	for _, tunnel := range []link.Tunnel{
		{Kind: link.IPIP, MTU: 1480}, {Kind: link.IPIP, MTU: 1468, Port: 5555}, {Kind: link.VXLAN, MTU: 1450, Port: 4789},
	} {
		t.Run(tunnel.String(), func(t *testing.T) {
			n := newNetwork(t)
			n.overlay(tunnel, "n1", n1Addr, n2Addr, "10.244.2.0/24")
			n.overlay(tunnel, "n2", n2Addr, n1Addr, "10.244.1.0/24")
			testDirectServerReturn(t, n)
		})
	}
}

// overlay leads a node's packets to the Pods of another through a tunnel, as
// the routes controller does.
func (n *network) overlay(tunnel link.Tunnel, node, local, remote, pods string) {
	n.t.Helper()
	tunnel.Local = netip.MustParseAddr(local)
	tunnel.Sources[0] = tunnel.Local
	h := n.hosts[node]
	h.in(func() {
		links, err := link.Open()
		if err == nil {
			defer links.Close()
			_, err = links.EnsureTunnel(tunnel)
		}
		if err == nil && tunnel.Kind == link.VXLAN {
			_, err = links.SetTunnelNodes(tunnel, addrs(remote))
		}
		h.must(err)
	})
	h.run("sysctl", "-qw", "net.ipv4.conf."+tunnel.Name()+".rp_filter=0", "net.ipv4.conf."+tunnel.Name()+".accept_local=1")
	h.run("ip", "route", "replace", pods, "via", remote, "dev", tunnel.Name(), "onlink", "src", local)
}

func testDirectServerReturn(t *testing.T, n *network) {
	n.hosts["c"].serve(8080)
	n.hosts["b"].serve(8080)
	config := Config{Guard: true, ExternalIPRanges: prefixes("203.0.113.0/24")}
	_, _, stop1 := n.startOn("n1", config, direct(ready(cAddr, "n2")))
	n.startOn("n2", config, direct(ready(cAddr, "n2")))
	n.hosts["outside"].route(externalIP+"/32", n1Addr)
	n.hosts["n1"].run("iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-s", externalIP)

	for _, who := range [][2]string{{"outside", outsideAddr}, {"a", aAddr}, {"n1", n1Addr}, {"n2", n2Addr}} {
		from, client := who[0], who[1]
		for _, network := range []string{"tcp", "udp"} {
			for _, to := range []string{externalIP + ":80", "10.96.0.10:80"} {
				if from == "outside" && !strings.HasPrefix(to, externalIP) {
					continue
				}
				if got, want := n.hosts[from].get(network, to), "c sees "+client; got != want {
					t.Errorf("%s %s from %s: got %s, want %s", network, to, from, got, want)
				}
			}
		}
		if from == "outside" {
			rule := n.hosts["n1"].run("iptables-legacy", "-t", "raw", "-nvxL", "PREROUTING")
			if last := strings.Fields(rule[strings.LastIndex(strings.TrimSpace(rule), "\n"):]); last[0] != "0" {
				t.Errorf("answers to outside passed n1: %s", rule)
			}
		}
	}
	// Clients of the node are not tunnelled: their egress policies are rules of
	// OUTPUT that look for the endpoint.
	n.hosts["n1"].run("iptables-legacy", "-A", "OUTPUT", "-d", cAddr, "-j", "REJECT")
	for _, from := range []string{"a", "n1"} {
		for _, to := range []string{externalIP + ":80", "10.96.0.10:80"} {
			if got := n.hosts[from].get("tcp", to); got != "refused" {
				t.Errorf("%s from %s, closed for egress: %s", to, from, got)
			}
		}
	}
	if got := n.hosts["outside"].get("tcp", externalIP+":80"); got != "c sees "+outsideAddr {
		t.Errorf("from outside, while others are closed for egress: %s", got)
	}
	n.hosts["n1"].run("iptables-legacy", "-D", "OUTPUT", "-d", cAddr, "-j", "REJECT")
	if got := n.hosts["c"].get("tcp", "10.96.0.10:80"); !strings.HasPrefix(got, "c sees 10.244.2.1") {
		t.Errorf("an endpoint that asks itself: %s", got)
	}
	if got := n.hosts["outside"].get("tcp", n1Addr+":30080"); got != "c sees "+n1Addr {
		t.Errorf("a node port, without: %s", got)
	}

	conn, err := n.hosts["outside"].dial("tcp", externalIP+":80")
	if err != nil {
		t.Fatal(err)
	}
	before := n.hosts["n1"].state()
	stop1()
	_, feeds, _ := n.startOn("n1", config, direct(ready(cAddr, "n2")))
	if after := n.hosts["n1"].state(); after != before {
		t.Errorf("a restart changed\n%s\ninto\n%s", before, after)
	}
	if got := ask(conn); got != "c sees "+outsideAddr {
		t.Errorf("a connection over a restart: %s", got)
	}
	gone(service("web", "10.96.0.10"))(feeds)
	n.hosts["n1"].eventuallyLacks("-f ", "tunl0", "kube-tun-", "local "+externalIP)
}

// Nothing comes out of a tunnel but packets to such Services, and nothing in
// but from nodes.
func TestTunnelIsForServicesOnly(t *testing.T) {
	n := newNetwork(t)
	n.hosts["c"].serve(8080)
	n.hosts["n2"].serveAt(n2Addr + ":22")
	n.startOn("n2", Config{Guard: true, ExternalIPRanges: prefixes("203.0.113.0/24")}, direct(ready(cAddr, "n2")))
	outside := n.hosts["outside"]
	n.hosts["n2"].route("192.0.2.1/32", outsideAddr)
	outside.run("ip", "link", "set", "tunl0", "up")
	outside.run("ip", "address", "add", "192.0.2.1/32", "dev", "tunl0")
	send := func(to string) string {
		outside.run("ip", "route", "replace", to, "via", n2Addr, "dev", "tunl0", "onlink")
		return outside.get("tcp", to+":80")
	}
	if got := send(externalIP); got != "timeout" {
		t.Errorf("a tunnel from a machine that is no node: %s", got)
	}
	n.hosts["n2"].run("ipset", "add", "kube-router-svip-nodes", outsideAddr)
	if got := send(externalIP); got != "c sees 192.0.2.1" {
		t.Errorf("a tunnel from a node to the Service: %s", got)
	}
	if got := send(cAddr); got != "timeout" {
		t.Errorf("a tunnel from a node to a pod: %s", got)
	}
}
