//go:build guest

package ipvs_test

import (
	"bufio"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
)

// The endpoint is on n2 alone. Whoever asks on either node, or outside, is
// answered, and the endpoint sees who asks. No host but n2 sees the answers to
// the client.
func TestDSR(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := newDSR(t, f, nil, []string{"b"})
		n.rule("n1", "-A", "raw PREROUTING -s "+f.vip+" -d "+f.addrs["client"])
		n.rule("n2", "-A", "raw PREROUTING -i eth0 -d "+f.vip) // not in a tunnel
		n.rule("n2", "-A", "mangle FORWARD -o eth0 -s "+f.addrs["b"]+" -d "+f.addrs["client"])
		for _, from := range []string{"client", "a", "n1", "b2", "n2", "b"} {
			want := "b sees " + f.addrs[from]
			if from == "b" {
				want = "b sees " + f.addrs["n2 bridge"] // to itself: masqueraded
			}
			n.wantStream(t, from, want)
			for _, size := range f.datagrams {
				if got := n.hosts[from].datagram(f.vip, size); got != want {
					t.Errorf("UDP from %s, %d bytes: %s, want %s", from, size, got, want)
				}
			}
		}
		for _, never := range []string{"n1", "n2"} {
			if got := n.packets(never, "raw", "PREROUTING"); got != "0" {
				t.Errorf("%s packets took the wrong way through %s", got, never)
			}
		}
		if n.packets("n2", "mangle", "FORWARD") == "0" {
			t.Error("no answers to the client left n2")
		}
	})
}

// Each node gives the Pods of the other their share, and a tunnelled
// connection stays where it arrives.
func TestDSRShares(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := newDSR(t, f, []string{"a"}, []string{"b", "b2"})
		for _, from := range []string{"client", "a2", "n1", "n2"} {
			var got []string
			for range 6 {
				who, _, _ := strings.Cut(n.hosts[from].stream(f.vip, 16), " ")
				got = append(got, who)
			}
			slices.Sort(got)
			if got := strings.Join(got, " "); got != "a a b b b2 b2" {
				t.Errorf("6 connections from %s are answered by %s", from, got)
			}
		}
	})
}

// Where the nodes have a tunnel of their own to each other (the overlay), IPVS's
// packets arrive through that, since it is the better match. It needs
// what the fallback tunnel needs, and takes answers to Pods as the uplink does.
func TestDSRWithOverlay(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := newDSR(t, f, nil, []string{"b"})
		sysctls := map[inet.Family]string{
			inet.IPv4: "sysctl -qw net.ipv4.conf.tun-peer.rp_filter=0 net.ipv4.conf.tun-peer.accept_local=1; ",
		}[f.Family]
		kind := map[inet.Family]string{inet.IPv4: "ip link add tun-peer type ipip", inet.IPv6: "ip link add tun-peer type ip6tnl mode ip6ip6"}[f.Family]
		for node, peer := range map[string]string{"n1": "n2", "n2": "n1"} {
			n.hosts[node].sh(kind + " local " + f.addrs[node] + " remote " + f.addrs[peer] + "; ip link set tun-peer up")
			n.hosts[node].sh(sysctls + f.ip + " route replace " + f.podNets[peer] + " dev tun-peer src " + f.addrs[node+" bridge"])
		}
		n.rule("n2", "-A", "raw PREROUTING -i "+link.FallbackTunnel(f.Family))
		for _, from := range []string{"client", "a", "n1"} {
			n.wantStream(t, from, "b sees "+f.addrs[from])
		}
		if got := n.packets("n2", "raw", "PREROUTING"); got != "0" {
			t.Errorf("%s packets came through the fallback tunnel", got)
		}
	})
}

// Without the rule for the MSS a client depends on ICMP to learn the MTU; with
// it, it does not.
func TestDSRWithoutICMP(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := newDSR(t, f, nil, []string{"b"})
		icmp := map[inet.Family]string{inet.IPv4: "icmp", inet.IPv6: "ipv6-icmp -m icmp6 --icmpv6-type packet-too-big"}[f.Family]
		n.rule("client", "-A", "filter INPUT -p "+icmp+" -j DROP")
		n.wantStream(t, "client", "b sees "+f.addrs["client"])
		n.rule("n2", "-D", dsrRules(f.Family)[2])
		n.wantStream(t, "client", "0 of 1048576 bytes came back")
		n.rule("client", "-D", "filter INPUT -p "+icmp+" -j DROP")
		n.wantStream(t, "client", "b sees "+f.addrs["client"])
	})
}

// Each sysctl is needed. Instead of no filter at all the tunnel may have the
// loose one and an address, whatever that is.
func TestDSRParameters(t *testing.T) {
	n := newDSR(t, families[0], nil, []string{"b"})
	reset := "ip address flush dev tunl0; sysctl -qw " + strings.Join(dsrParameters, " ") + " net.ipv4.conf.all.accept_local=0; "
	const conf, address = "sysctl -qw net.ipv4.conf.", "; ip address add 192.0.0.8/32 dev tunl0 scope host"
	all, none := "client a n1", ""
	for _, test := range []struct{ name, script, want string }{
		{"as they must be", "true", all},
		{"the tunnel filters loosely", conf + "tunl0.rp_filter=2", none},
		{"all filter loosely", conf + "all.rp_filter=2", none},
		{"all filter loosely, the tunnel has an address", conf + "all.rp_filter=2" + address, all},
		{"all filter strictly, the tunnel loosely and has an address", conf + "all.rp_filter=1 net.ipv4.conf.tunl0.rp_filter=2" + address, all},
		{"the uplink filters strictly", conf + "eth0.rp_filter=1", "client"},
		{"answers from local addresses are refused", conf + "eth0.accept_local=0", "client"},
		{"all accept answers from local addresses", conf + "eth0.accept_local=0 net.ipv4.conf.all.accept_local=1", all},
	} {
		for _, node := range []string{"n1", "n2"} {
			n.hosts[node].sh(reset + test.script)
		}
		var answered []string
		for _, from := range []string{"client", "a", "n1"} {
			if strings.HasPrefix(n.hosts[from].stream(n.vip, 16), "b sees") {
				answered = append(answered, from)
			}
		}
		if got := strings.Join(answered, " "); got != test.want {
			t.Errorf("%s: answered are %q, want %q", test.name, got, test.want)
		}
	}
}

// A connection lives on when n1's conntrack forgets it, which hears one side
// only, and while its node drains; others do not come to that.
func TestDSRConnectionLivesOn(t *testing.T) {
	f := families[0]
	n := newDSR(t, f, nil, []string{"b"})
	conn, err := n.hosts["client"].dial("tcp", f.vip)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	say := func(when string) {
		t.Helper()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, "ping\n")
		if got, err := lines.ReadString('\n'); got != "ping\n" {
			t.Errorf("%s: %q, %v", when, got, err)
		}
	}
	if got, err := lines.ReadString('\n'); got != "b sees "+f.addrs["client"]+"\n" {
		t.Fatalf("%q, %v", got, err)
	}
	n.hosts["n1"].sh("conntrack -D -d " + f.vip)
	say("without conntrack's entry")

	front, n2 := ipvs.ID{Protocol: inet.TCP, Addr: addrPort(f.vip, servicePort)}, addrPort(f.addrs["n2"], servicePort)
	n.hosts["n1"].in(func() {
		servers, err := ipvs.Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer servers.Close()
		if counts, err := servers.Connections(front); counts[n2] != 1 || err != nil {
			t.Errorf("Connections = %v, %v, want 1 to %s", counts, err, n2)
		}
		drain := ipvs.Change{Op: ipvs.SetReal, ID: front, RealAddr: n2, Real: ipvs.Real{Method: ipvs.Tunnel}}
		if err := servers.Apply([]ipvs.Change{drain})[0]; err != nil {
			t.Error(err)
		}
	})
	say("while the node drains")
	n.wantStream(t, "client", "no connection")
}
