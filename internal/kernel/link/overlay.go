package link

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
)

// TunnelPrefix begins the names of Tunnels with many ends.
const TunnelPrefix = "kube-tun-"

// TunnelKind is how a Tunnel wraps packets.
type TunnelKind string

// The kinds, by the names that ip link has for them.
const (
	IPIP   TunnelKind = "ipip"   // IPv4 in IPv4 (RFC 2003)
	SIT    TunnelKind = "sit"    // IPv6 in IPv4 (RFC 4213)
	IP6IP6 TunnelKind = "ip6tnl" // IPv6 in IPv6 (RFC 2473)
	VXLAN  TunnelKind = "vxlan"  // Ethernet in UDP (RFC 7348)
)

// The VXLAN network identifiers of the cluster. The kernel takes each once a
// port, whatever family wraps it.
const (
	vni4 = 1
	vni6 = 2
)

func (t Tunnel) vni() int {
	if t.Local.Is6() {
		return vni6
	}
	return vni4
}

// Tunnel is a link with many ends: a packet goes to the node that is the next
// hop of its route. So there is one a node and not one for each other node.
// IP6IP6 alone has one end, because IPv6 takes no next hop for a neighbour on a
// link if another link leads there (ip6_route_check_nh_onlink).
type Tunnel struct {
	Kind TunnelKind
	// Local is this node's address, of the family that packets are wrapped in.
	Local netip.Addr
	// Remote is the other node's address for IP6IP6, else invalid.
	Remote netip.Addr
	MTU    int // bytes, of what is wrapped
	// Sources are this node's addresses, IPv4 and IPv6, or invalid: packets that
	// begin here, and those that are masqueraded, have them. Without them the
	// kernel would take the address of any link. They are the link's, beside
	// those with which nodes are reached; Addrs does not list them.
	Sources [2]netip.Addr
	// Port is the UDP port of VXLAN; for the other kinds it wraps packets in UDP
	// once more, as Generic UDP Encapsulation (the kernel's fou module), or is 0.
	Port uint16
}

// Name is the link's name. It does not tell whether there is UDP around, so
// that this can be changed while routes lead there.
func (t Tunnel) Name() string {
	switch {
	case t.Kind == VXLAN && t.Local.Is6():
		return TunnelPrefix + "vxlan6"
	case t.Kind == IP6IP6:
		sum := sha256.Sum256(t.Remote.AsSlice())
		return "tun-" + hex.EncodeToString(sum[:])[:11]
	}
	return TunnelPrefix + string(t.Kind)
}

// String is "kube-tun-ipip ipip local 192.168.66.11 mtu 1468 gue 5555 src 192.168.66.11".
func (t Tunnel) String() string {
	s := fmt.Sprintf("%s %s local %s", t.Name(), t.Kind, t.Local)
	if t.Remote.IsValid() {
		s += " remote " + t.Remote.String()
	}
	s += fmt.Sprintf(" mtu %d", t.MTU)
	switch {
	case t.Kind == VXLAN:
		s += fmt.Sprintf(" port %d", t.Port)
	case t.Port != 0:
		s += fmt.Sprintf(" gue %d", t.Port)
	}
	for _, a := range t.Sources {
		if a.IsValid() {
			s += " src " + a.String()
		}
	}
	return s
}

// The sizes of headers in bytes.
const (
	ipv4Header     = 20
	ipv6Header     = 40
	udpHeader      = 8
	gueHeader      = 4
	vxlanHeader    = 8
	ethernetHeader = 14
)

// Overhead is how many bytes the Tunnel adds to a packet.
func (t Tunnel) Overhead() int {
	n := ipv4Header
	if t.Local.Is6() {
		n = ipv6Header
	}
	switch {
	case t.Kind == VXLAN:
		return n + udpHeader + vxlanHeader + ethernetHeader
	case t.Port != 0:
		return n + udpHeader + gueHeader
	}
	return n
}

// Carries says whether packets of a family can go through the Tunnel.
func (t Tunnel) Carries(f inet.Family) bool {
	switch t.Kind {
	case IPIP:
		return f == inet.IPv4
	case SIT, IP6IP6:
		return f == inet.IPv6
	}
	return f == inet.IPv6 || t.Local.Is4()
}

// NextHop is the next hop by which routes of a family name another node; it is
// invalid where the link leads to no other.
func (t Tunnel) NextHop(node netip.Addr, f inet.Family) netip.Addr {
	switch {
	case t.Kind == IP6IP6:
		return netip.Addr{}
	case f == inet.IPv4:
		return node
	case t.Kind == SIT: // an IPv4-compatible address (RFC 4291, 2.5.5.1), as sit.c wants it
		var a [16]byte
		copy(a[12:], node.AsSlice())
		return netip.AddrFrom16(a)
	}
	return linkLocal(hardwareAddr(node)) // over VXLAN
}

// hardwareAddr is a node's in VXLAN. Everybody derives it from the node's
// address, so that nobody has to ask.
func hardwareAddr(node netip.Addr) net.HardwareAddr {
	hw := net.HardwareAddr{0x02, 'k', 0, 0, 0, 0} // locally administered
	if node.Is4() {
		copy(hw[2:], node.AsSlice())
		return hw
	}
	sum := sha256.Sum256(node.AsSlice())
	copy(hw[1:], sum[:])
	return hw
}

// linkLocal is the modified EUI-64 of a hardware address (RFC 4291, 2.5.1).
func linkLocal(hw net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: hw[0] ^ 2, hw[1], hw[2], 0xff, 0xfe, hw[3], hw[4], hw[5]})
}

// peer is what VXLAN must know about another node: which hardware address each
// next hop has, and where that is.
type peer struct {
	node netip.Addr
	hops []netip.Addr
}

// peer has next hops of the families that the Tunnel is for: a host that was
// booted without IPv6 takes no neighbour of it.
func (t Tunnel) peer(node netip.Addr) peer {
	p := peer{node: node}
	if t.Sources[1].IsValid() || t.Local.Is6() {
		p.hops = append(p.hops, t.NextHop(node, inet.IPv6))
	}
	if t.Carries(inet.IPv4) {
		p.hops = append(p.hops, node)
	}
	return p
}

func (t Tunnel) check() error {
	ok := t.Local.IsValid() && !t.Local.Is4In6()
	switch t.Kind {
	case IPIP, SIT:
		ok = ok && t.Local.Is4()
	case IP6IP6:
		ok = ok && t.Local.Is6() && t.Remote.Is6()
	case VXLAN:
		ok = ok && t.Port != 0
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("tunnel %s: not a kind with an address and a port that go together", t)
	}
	if t.MTU < minMTU || t.MTU > maxMTU {
		return fmt.Errorf("tunnel %s: the MTU is not from %d to %d", t, minMTU, maxMTU)
	}
	return nil
}

func (t Tunnel) taken(kind string) error {
	return fmt.Errorf("link %s is a %s, not a tunnel of the overlay: remove or rename it", t.Name(), kind)
}

// IsTunnelName says whether a link's name is one of those that Tunnels have.
func IsTunnelName(name string) bool {
	return strings.HasPrefix(name, TunnelPrefix) || endName.MatchString(name)
}

// endName matches the names of tunnels with one end. Earlier releases had only
// such ones; one that is left takes its node's packets away from ours.
var endName = regexp.MustCompile(`^tun-[0-9a-f]{11}$`)

// isOurTunnel says whether a link was made by us, now or formerly.
func isOurTunnel(name, kind string) bool {
	known := slices.Contains([]string{string(IPIP), string(SIT), string(IP6IP6), string(VXLAN)}, kind)
	return known && IsTunnelName(name)
}

var errNoPeers = errors.New("only VXLAN has a list of nodes")
