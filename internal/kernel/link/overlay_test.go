package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

var (
	node1, node2, node3 = netip.MustParseAddr("192.168.66.11"), netip.MustParseAddr("192.168.66.12"), netip.MustParseAddr("192.168.70.13")
	six1, six2          = netip.MustParseAddr("fd00:66::11"), netip.MustParseAddr("fd00:66::12")
)

func (s system) ensureTunnel(t *testing.T, tunnel Tunnel, wantChanged bool, want string) {
	t.Helper()
	changed, err := s.EnsureTunnel(tunnel)
	if err != nil || changed != wantChanged {
		t.Errorf("EnsureTunnel(%s): changed %t, %v, want %t", tunnel, changed, err, wantChanged)
	}
	if got := s.tunnel(tunnel.Name()); got != strings.TrimSpace(want) {
		t.Errorf("there is:\n%s\nwant:\n%s", got, want)
	}
}

func (s system) tunnelNodes(t *testing.T, tunnel Tunnel, wantChanged int, nodes ...netip.Addr) {
	t.Helper()
	if changed, err := s.SetTunnelNodes(tunnel, nodes); err != nil || changed != wantChanged {
		t.Errorf("SetTunnelNodes(%v): changed %d, %v, want %d", nodes, changed, err, wantChanged)
	}
}

// tunnelOf has another node where the kind has one.
func tunnelOf(kind TunnelKind, local netip.Addr, port uint16) Tunnel {
	t := Tunnel{Kind: kind, Local: local, MTU: 1400, Port: port, Sources: [2]netip.Addr{node1, six1}}
	if kind == IP6IP6 {
		t.Remote = six2
	}
	return t
}

// testTunnelLink is the life of one tunnel: made, left alone, changed,
// repaired, removed.
func testTunnelLink(t *testing.T, s system, kind TunnelKind, local netip.Addr, port uint16) {
	tunnel := tunnelOf(kind, local, port)
	s.ensureTunnel(t, tunnel, true, tunnel.String())
	s.ensureTunnel(t, tunnel, false, tunnel.String())
	if addrs, err := s.Addrs(); err != nil || slices.ContainsFunc(addrs, func(a Addr) bool { return a.Link == tunnel.Name() }) {
		t.Errorf("Addrs has those of the tunnel: %v, %v", addrs, err)
	}
	other := tunnel
	other.MTU = 1300
	other.Sources = [2]netip.Addr{node3}
	if port != 0 {
		other.Port++
	}
	s.ensureTunnel(t, other, true, other.String())
	s.ensureTunnel(t, tunnel, true, tunnel.String())
	s.setDown(tunnel.Name())
	s.ensureTunnel(t, tunnel, true, tunnel.String())
	s.ensureTunnel(t, tunnel, false, tunnel.String())
	if deleted, err := s.DeleteTunnels(func(name string) bool { return name == tunnel.Name() }); err != nil || len(deleted) != 0 {
		t.Errorf("DeleteTunnels of all others: %v, %v", deleted, err)
	}
	s.ensureTunnel(t, tunnel, false, tunnel.String())
	deleted, err := s.DeleteTunnels(func(string) bool { return false })
	if err != nil || !slices.Equal(deleted, []string{tunnel.Name()}) {
		t.Errorf("DeleteTunnels: %v, %v", deleted, err)
	}
	if got := s.tunnel(tunnel.Name()); got != "" {
		t.Errorf("after DeleteTunnels: %s", got)
	}
}

func testVXLAN(t *testing.T, s system) {
	for _, local := range []netip.Addr{node1, six1} {
		testTunnelLink(t, s, VXLAN, local, 4789)
	}
}

func testVXLANNodes(t *testing.T, s system) {
	tunnel := Tunnel{Kind: VXLAN, Local: node1, MTU: 1450, Port: 4789, Sources: [2]netip.Addr{node1}}
	s.ensureTunnel(t, tunnel, true, tunnel.String())
	s.tunnelNodes(t, tunnel, 2, node2)
	s.ensureTunnel(t, tunnel, false, `
kube-tun-vxlan vxlan local 192.168.66.11 mtu 1450 port 4789 src 192.168.66.11
02:6b:c0:a8:42:0c dst 192.168.66.12
192.168.66.12 lladdr 02:6b:c0:a8:42:0c
`)
	tunnel.Sources[1] = six1
	if _, err := s.EnsureTunnel(tunnel); err != nil {
		t.Error(err)
	}
	s.tunnelNodes(t, tunnel, 4, node2, node3)
	both := `
kube-tun-vxlan vxlan local 192.168.66.11 mtu 1450 port 4789 src 192.168.66.11 src fd00:66::11
02:6b:c0:a8:42:0c dst 192.168.66.12
02:6b:c0:a8:46:0d dst 192.168.70.13
192.168.66.12 lladdr 02:6b:c0:a8:42:0c
192.168.70.13 lladdr 02:6b:c0:a8:46:0d
fe80::6b:c0ff:fea8:420c lladdr 02:6b:c0:a8:42:0c
fe80::6b:c0ff:fea8:460d lladdr 02:6b:c0:a8:46:0d
`
	s.ensureTunnel(t, tunnel, false, both)
	s.tunnelNodes(t, tunnel, 0, node3, node2)
	s.tunnelNodes(t, tunnel, 3, node3)
	s.ensureTunnel(t, tunnel, false, `
kube-tun-vxlan vxlan local 192.168.66.11 mtu 1450 port 4789 src 192.168.66.11 src fd00:66::11
02:6b:c0:a8:46:0d dst 192.168.70.13
192.168.70.13 lladdr 02:6b:c0:a8:46:0d
fe80::6b:c0ff:fea8:460d lladdr 02:6b:c0:a8:46:0d
`)
	s.tunnelNodes(t, tunnel, 3, node2, node3)
	s.ensureTunnel(t, tunnel, false, both)

	over6 := Tunnel{Kind: VXLAN, Local: six1, MTU: 1430, Port: 4789}
	s.ensureTunnel(t, over6, true, over6.String())
	s.tunnelNodes(t, over6, 2, six2)
	s.tunnelNodes(t, over6, 0, six2)
	if _, err := s.SetTunnelNodes(Tunnel{Kind: IPIP, Local: node1, MTU: 1480}, nil); err == nil {
		t.Error("SetTunnelNodes of IPIP: no error")
	}
}

func testNotOurTunnel(t *testing.T, s system) {
	tunnel := Tunnel{Kind: VXLAN, Local: node1, MTU: 1450, Port: 4789}
	s.addLink(tunnel.Name(), 1500)
	if changed, err := s.EnsureTunnel(tunnel); changed || err == nil || !strings.Contains(err.Error(), "not a tunnel of the overlay") {
		t.Errorf("EnsureTunnel over another link: %t, %v", changed, err)
	}
	if deleted, err := s.DeleteTunnels(func(string) bool { return false }); err != nil || len(deleted) != 0 {
		t.Errorf("DeleteTunnels removed %v, %v", deleted, err)
	}
	for _, bad := range []Tunnel{
		{Kind: "gre", Local: node1, MTU: 1400},
		{Kind: IPIP, MTU: 1400},
		{Kind: IPIP, Local: six1, MTU: 1400},
		{Kind: IP6IP6, Local: node1, MTU: 1400},
		{Kind: IP6IP6, Local: six1, MTU: 1400},
		{Kind: VXLAN, Local: node1, MTU: 1400},
		{Kind: SIT, Local: node1, MTU: 67},
	} {
		if changed, err := s.EnsureTunnel(bad); changed || err == nil {
			t.Errorf("EnsureTunnel(%s) = %t, %v", bad, changed, err)
		}
	}
}

// tunnelTests need modules that not every kernel has.
var tunnelTests = []struct {
	kind  TunnelKind
	local netip.Addr
	port  uint16
}{
	{IPIP, node1, 0}, {SIT, node1, 0}, {IP6IP6, six1, 0},
	{IPIP, node1, 5555}, {SIT, node1, 5555}, {IP6IP6, six1, 5555},
}

func testTunnelLinks(t *testing.T, fresh func(*testing.T) system) {
	for _, test := range tunnelTests {
		t.Run(fmt.Sprintf("%s port %d", test.kind, test.port), func(t *testing.T) {
			s := fresh(t)
			if test.port != 0 && s.noGUE != nil && s.noGUE() {
				testWithoutGUE(t, s, test.kind, test.local)
				return
			}
			testTunnelLink(t, s, test.kind, test.local, test.port)
			if test.port != 0 {
				testUDPOnAndOff(t, s, test.kind, test.local)
			}
		})
	}
}

// testUDPOnAndOff puts a tunnel into UDP and takes it out again, without
// another link.
func testUDPOnAndOff(t *testing.T, s system, kind TunnelKind, local netip.Addr) {
	plain := tunnelOf(kind, local, 0)
	udp := plain
	udp.Port = 5555
	s.ensureTunnel(t, plain, true, plain.String())
	s.ensureTunnel(t, udp, true, udp.String())
	s.ensureTunnel(t, plain, true, plain.String())
}

// testWithoutGUE is a kernel that has no UDP around tunnels.
func testWithoutGUE(t *testing.T, s system, kind TunnelKind, local netip.Addr) {
	tunnel := tunnelOf(kind, local, 5555)
	if _, err := s.EnsureTunnel(tunnel); err == nil || !strings.Contains(err.Error(), "CONFIG_NET_FOU_IP_TUNNELS") || !strings.Contains(err.Error(), "--overlay-encap=vxlan") {
		t.Errorf("EnsureTunnel: %v", err)
	}
	tunnel.Port = 0
	s.ensureTunnel(t, tunnel, true, tunnel.String())
	tunnel.Port = 5555
	if _, err := s.EnsureTunnel(tunnel); err == nil || !strings.Contains(err.Error(), "CONFIG_NET_FOU_IP_TUNNELS") {
		t.Errorf("EnsureTunnel: %v", err)
	}
	tunnel.Port = 0
	s.ensureTunnel(t, tunnel, false, tunnel.String())
}

func TestOverheadAndNextHops(t *testing.T) {
	for _, test := range []struct {
		tunnel         Tunnel
		node           netip.Addr
		overhead       int
		hop4, hop6     string
		carry4, carry6 bool
	}{
		{Tunnel{Kind: IPIP, Local: node1}, node2, 20, "192.168.66.12", "", true, false},
		{Tunnel{Kind: IPIP, Local: node1, Port: 5555}, node2, 32, "192.168.66.12", "", true, false},
		{Tunnel{Kind: SIT, Local: node1}, node2, 20, "", "::192.168.66.12", false, true},
		{Tunnel{Kind: SIT, Local: node1, Port: 5555}, node2, 32, "", "::192.168.66.12", false, true},
		{Tunnel{Kind: IP6IP6, Local: six1, Remote: six2}, six2, 40, "", "", false, true},
		{Tunnel{Kind: IP6IP6, Local: six1, Remote: six2, Port: 5555}, six2, 52, "", "", false, true},
		{Tunnel{Kind: VXLAN, Local: node1, Port: 4789}, node2, 50, "192.168.66.12", "fe80::6b:c0ff:fea8:420c", true, true},
		{Tunnel{Kind: VXLAN, Local: six1, Port: 4789}, six2, 70, "", "fe80::2f:8bff:fe43:cff0", false, true},
	} {
		if got := test.tunnel.Overhead(); got != test.overhead {
			t.Errorf("%s: overhead %d, want %d", test.tunnel, got, test.overhead)
		}
		for f, want := range map[inet.Family]struct {
			carries bool
			hop     string
		}{inet.IPv4: {test.carry4, test.hop4}, inet.IPv6: {test.carry6, test.hop6}} {
			if got := test.tunnel.Carries(f); got != want.carries {
				t.Errorf("%s carries %s: %t", test.tunnel, f, got)
			}
			if hop, _ := netip.ParseAddr(want.hop); want.carries && test.tunnel.NextHop(test.node, f) != hop {
				t.Errorf("%s, %s: next hop %s, want %s", test.tunnel, f, test.tunnel.NextHop(test.node, f), want.hop)
			}
		}
	}
}
