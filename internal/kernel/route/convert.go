package route

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// toKernel is a route as the library writes it.
func (k *Kernel) toKernel(r Route) (*netlink.Route, error) {
	msg := &netlink.Route{
		Table:    r.Table,
		Dst:      toIPNet(r.Dst),
		Type:     int(r.Type),
		Protocol: Protocol,
		Scope:    scope(r),
		Src:      toIP(r.Src),
	}
	if len(r.NextHops) == 1 {
		index, err := k.linkIndex(r.NextHops[0].Link)
		msg.LinkIndex, msg.Gw, msg.Flags = index, toIP(r.NextHops[0].Via), hopFlags(r.NextHops[0])
		return msg, err
	}
	// In one order always, so that one route has one text.
	for _, hop := range sortedHops(r.NextHops) {
		index, err := k.linkIndex(hop.Link)
		if err != nil {
			return nil, err
		}
		msg.MultiPath = append(msg.MultiPath, &netlink.NexthopInfo{LinkIndex: index, Gw: toIP(hop.Via), Flags: hopFlags(hop)})
	}
	return msg, nil
}

// hopFlags are the RTNH_F_* flags of a next hop.
func hopFlags(hop NextHop) int {
	if hop.OnLink {
		return unix.RTNH_F_ONLINK
	}
	return 0
}

// scope is what ip(8) chooses, too. IPv4 refuses a next hop in a scope that is
// not wider than the route's; IPv6 has no scopes.
func scope(r Route) netlink.Scope {
	switch {
	case r.Type == LocalType:
		return netlink.SCOPE_HOST
	case r.Type == Unicast && !r.NextHops[0].Via.IsValid():
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func toIP(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
