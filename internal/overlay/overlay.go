// Package overlay says which packets between nodes go through tunnels, and
// through which: a function of the configuration and of the Nodes, without I/O.
package overlay

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// Table is the routing table with the ways of Pods to other nodes themselves,
// and rulePriority that of the rules for it: before the table main, whose rule
// has 32766.
const (
	Table        = 77
	rulePriority = 32700
)

// Encap is how tunnels wrap packets.
type Encap string

// The encapsulations.
const (
	IPIP  Encap = "ipip"  // in IP (RFC 2003, RFC 4213, RFC 2473)
	FoU   Encap = "fou"   // the same in UDP (Generic UDP Encapsulation)
	VXLAN Encap = "vxlan" // Ethernet in UDP (RFC 7348)
)

// Config is what the operator decides, the same on all nodes.
type Config struct {
	Enabled bool
	// Full sends packets through tunnels also to nodes on a subnet of this one.
	Full  bool
	Encap Encap
	// Port is the UDP port of FoU and VXLAN.
	Port uint16
}

// Host is this node.
type Host struct {
	Name string
	// IPs are the node's addresses, at most one a family, IPv4 first.
	IPs      []netip.Addr
	PodCIDRs []netip.Prefix
	// MTU in bytes is that of the link with the addresses.
	MTU int
	// Near says whether an address is on a subnet of this node.
	Near func(netip.Addr) bool
}

// Plan is the overlay of one node. The zero Plan has no tunnel.
type Plan struct {
	// Tunnels are the links, by name.
	Tunnels map[string]link.Tunnel
	// Nodes are those that a VXLAN leads to, by the link's name.
	Nodes map[string][]netip.Addr
	// Routes are those of Table. Packets from Pods to other nodes go through
	// the tunnels as those to their Pods do: a network between that does not
	// know the Pods' addresses may refuse packets from them.
	Routes map[route.Key]*route.Route
	// Rules lead there.
	Rules []route.Rule

	hops map[netip.Addr]route.NextHop
}

// Hop is how packets for Pods of the node with an address get there, false
// where no tunnel leads to it.
func (p Plan) Hop(node netip.Addr) (route.NextHop, bool) {
	hop, ok := p.hops[node]
	return hop, ok
}

// SameWays says whether another Plan leads everywhere as this one does.
func (p Plan) SameWays(other Plan) bool { return maps.Equal(p.hops, other.hops) }

// Changed says whether another Plan leads elsewhere for one of the addresses.
func (p Plan) Changed(other Plan, nodes []netip.Addr) bool {
	return slices.ContainsFunc(nodes, func(a netip.Addr) bool {
		return p.hops[a] != other.hops[a]
	})
}

// Without is the Plan without a tunnel and all that leads there.
func (p Plan) Without(name string) Plan {
	there := func(hop route.NextHop) bool { return hop.Link == name }
	p.Tunnels, p.Routes, p.hops = maps.Clone(p.Tunnels), maps.Clone(p.Routes), maps.Clone(p.hops)
	delete(p.Tunnels, name)
	maps.DeleteFunc(p.hops, func(_ netip.Addr, hop route.NextHop) bool { return there(hop) })
	maps.DeleteFunc(p.Routes, func(_ route.Key, r *route.Route) bool { return slices.ContainsFunc(r.NextHops, there) })
	return p
}

// Compile returns the overlay of this node among the Nodes.
func Compile(c Config, me Host, nodes map[string]*cluster.Node) Plan {
	p := Plan{
		Tunnels: map[string]link.Tunnel{}, Nodes: map[string][]netip.Addr{},
		Routes: map[route.Key]*route.Route{}, hops: map[netip.Addr]route.NextHop{},
	}
	if !c.Enabled {
		return p
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		for _, own := range me.IPs {
			addr := nodes[name].IP(inet.FamilyOf(own))
			_, known := p.hops[addr] // two nodes with one address: nothing differs
			if name == me.Name || !addr.IsGlobalUnicast() || addr == own || known || !c.Full && me.Near(addr) {
				continue
			}
			p.lead(c, me, addr, nodes[name])
		}
	}
	for _, cidr := range me.PodCIDRs {
		p.Rules = append(p.Rules, route.Rule{Priority: rulePriority, Src: cidr, Table: Table})
	}
	return p
}

// lead makes packets go through a tunnel to the address of a node. What wraps
// them is IPv4 where both nodes have it, for packets of either family.
func (p Plan) lead(c Config, me Host, addr netip.Addr, node *cluster.Node) {
	family, local, remote := inet.FamilyOf(addr), netip.Addr{}, netip.Addr{}
	for _, own := range me.IPs {
		if other := node.IP(inet.FamilyOf(own)); other.IsValid() && !local.IsValid() {
			local, remote = own, other
		}
	}
	t := c.tunnel(family, local, remote, me.MTU)
	for _, own := range me.IPs {
		if f := inet.FamilyOf(own); t.Carries(f) {
			t.Sources[map[inet.Family]int{inet.IPv4: 0, inet.IPv6: 1}[f]] = own
		}
	}
	hop := route.NextHop{Via: t.NextHop(remote, family), Link: t.Name()}
	hop.OnLink = hop.Via.IsValid()
	if t.Kind == link.VXLAN && !slices.Contains(p.Nodes[t.Name()], remote) {
		p.Nodes[t.Name()] = append(p.Nodes[t.Name()], remote)
	}
	key := route.Key{Table: Table, Dst: netip.PrefixFrom(addr, addr.BitLen())}
	p.Tunnels[t.Name()] = t
	p.Routes[key] = &route.Route{Key: key, Type: route.Unicast, NextHops: []route.NextHop{hop}}
	p.hops[addr] = hop
}

// tunnel is the one for packets of a family between two addresses. IPv4 is
// wrapped in IPv4 only: nodes that both have it have addresses to wrap it with.
func (c Config) tunnel(f inet.Family, local, remote netip.Addr, mtu int) link.Tunnel {
	t := link.Tunnel{Local: local}
	switch {
	case c.Encap == VXLAN:
		t.Kind, t.Port = link.VXLAN, c.Port
	case f == inet.IPv4:
		t.Kind = link.IPIP
	case local.Is4():
		t.Kind = link.SIT
	default:
		t.Kind, t.Remote = link.IP6IP6, remote
	}
	if c.Encap == FoU {
		t.Port = c.Port
	}
	t.MTU = mtu - t.Overhead()
	return t
}

// MTU is how many bytes a packet of a Pod may have, of either family, so that
// it fits into the links between nodes with all that is put around it. It does
// not depend on which nodes there are: that of a Pod is for its life.
func (c Config) MTU(me Host) int {
	mtu := me.MTU
	if !c.Enabled || len(me.IPs) == 0 {
		return mtu
	}
	for _, own := range me.IPs {
		t := c.tunnel(inet.FamilyOf(own), me.IPs[0], me.IPs[0], me.MTU)
		mtu = min(mtu, t.MTU)
	}
	return mtu
}

// String is the Plan as ip shows it.
func (p Plan) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.Tunnels)) {
		fmt.Fprintln(&b, p.Tunnels[name])
		if nodes := p.Nodes[name]; len(nodes) > 0 {
			fmt.Fprintln(&b, "  to", strings.Trim(fmt.Sprint(nodes), "[]"))
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(p.hops), netip.Addr.Compare) {
		fmt.Fprintf(&b, "pods of %s%s\n", addr, p.hops[addr])
	}
	for _, rule := range p.Rules {
		fmt.Fprintln(&b, rule)
	}
	return b.String()
}
