package routes

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/overlay"
)

// self is what this node is to the others. It is a value: equal selfs need
// nothing done.
type self struct {
	name string
	// primary is the address that sessions are between, of the first enabled
	// family that the node has an address of.
	primary netip.Addr
	ip      [2]netip.Addr
	cidr    [2]netip.Prefix
	mtu     int
}

func index(f inet.Family) int {
	if f == inet.IPv4 {
		return 0
	}
	return 1
}

// IP is the node's address of a family, or the zero Addr.
func (s self) IP(f inet.Family) netip.Addr { return s.ip[index(f)] }

// podCIDRs are the node's, of the enabled families, IPv4 first.
func (s self) podCIDRs() []netip.Prefix {
	var cidrs []netip.Prefix
	for _, c := range s.cidr {
		if c.IsValid() {
			cidrs = append(cidrs, c)
		}
	}
	return cidrs
}

// identify reads what this node is from its Node object. Without Pod CIDRs
// there, those of the CNI configuration count.
func identify(n *cluster.Node, families []inet.Family, fromFile []netip.Prefix) (self, error) {
	me := self{name: n.Name}
	cidrs := n.PodCIDRs
	if len(cidrs) == 0 {
		cidrs = fromFile
	}
	for _, f := range families {
		me.ip[index(f)] = n.IP(f)
		if !me.primary.IsValid() {
			me.primary = n.IP(f)
		}
		for _, c := range cidrs {
			if inet.FamilyOf(c.Addr()) == f && usableCIDR(c) && !me.cidr[index(f)].IsValid() {
				me.cidr[index(f)] = c.Masked()
			}
		}
	}
	if !me.primary.IsValid() {
		return self{}, fmt.Errorf("node %s has no address of %v yet: the kubelet or the cloud provider sets it", n.Name, families)
	}
	return me, nil
}

// usableCIDR says whether Pods can have addresses of it: neither everything
// nor what has a meaning of its own.
func usableCIDR(p netip.Prefix) bool {
	a := p.Addr()
	return p.IsValid() && p.Bits() > 0 && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.IsUnspecified()
}

// setName is the name of a set in a family. IPv6 sets of all owners have the
// prefix that the existing release gives them.
func setName(name string, f inet.Family) string {
	if f == inet.IPv6 {
		return "inet6:" + name
	}
	return name
}

// The sets of the Pod CIDRs and of the addresses of all nodes.
const (
	podSubnets = "kube-router-pod-subnets"
	nodeIPs    = "kube-router-node-ips"
)

// OwnedSets are what the names of all sets of this controller begin with.
func OwnedSets() []string {
	return []string{podSubnets, nodeIPs, setName(podSubnets, inet.IPv6), setName(nodeIPs, inet.IPv6)}
}

// nodeSets are the sets of one family.
func nodeSets(me self, nodes map[string]*cluster.Node, f inet.Family) map[string]ipset.Set {
	pods := ipset.Set{Spec: ipset.Spec{Type: ipset.HashNet, Family: f}, Entries: map[ipset.Entry]struct{}{}}
	hosts := ipset.Set{Spec: ipset.Spec{Type: ipset.HashIP, Family: f}, Entries: map[ipset.Entry]struct{}{}}
	addCIDR := func(p netip.Prefix) {
		if inet.FamilyOf(p.Addr()) == f && usableCIDR(p) {
			pods.Entries[ipset.Entry{Prefix: p.Masked()}] = struct{}{}
		}
	}
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			addCIDR(p)
		}
		for _, a := range slices.Concat(n.InternalIPs, n.ExternalIPs) {
			if inet.FamilyOf(a) == f && !a.IsUnspecified() {
				hosts.Entries[ipset.IP(a)] = struct{}{}
			}
		}
	}
	for _, p := range me.podCIDRs() {
		addCIDR(p)
	}
	return map[string]ipset.Set{setName(podSubnets, f): pods, setName(nodeIPs, f): hosts}
}

// compileRoute is the kernel's route for what was learned: through those next
// hops that a link of this host reaches directly, or a tunnel. Where there is no
// such route, reason says why.
func compileRoute(prefix netip.Prefix, hops []netip.Addr, me self, links []link.Addr, tunnels overlay.Plan) (r *route.Route, reason string) {
	if len(hops) == 0 {
		return nil, ""
	}
	if reason := refuse(prefix, me, links); reason != "" {
		return nil, reason
	}
	r = &route.Route{Key: route.Key{Table: route.Main, Dst: prefix}, Type: route.Unicast}
	for _, hop := range hops {
		next, why := nextHop(hop, links, tunnels)
		if inet.FamilyOf(hop) != inet.FamilyOf(prefix.Addr()) {
			why = fmt.Sprintf("next hop %s is of another address family", hop)
		}
		if why != "" {
			reason = why
			continue
		}
		if next.OnLink || next.Link != "" && !next.Via.IsValid() { // a tunnel has no address of its own
			r.Src = me.IP(inet.FamilyOf(hop))
		}
		r.NextHops = append(r.NextHops, next)
	}
	if len(r.NextHops) == 0 {
		return nil, reason
	}
	return r, ""
}

// refuse says why a prefix is never taken from a peer: it would take traffic
// away from this host, from its Pods or from the networks it is connected to.
func refuse(prefix netip.Prefix, me self, links []link.Addr) string {
	switch {
	case prefix.Bits() <= 1: // a half of it is as good, beside the other one
		return "a default route is never taken from a peer"
	case !usableCIDR(prefix):
		return "not a destination that Pods or Services have"
	}
	for _, own := range me.podCIDRs() {
		if covers(own, prefix) {
			return fmt.Sprintf("within this node's own Pod CIDR %s", own)
		}
	}
	for _, l := range links {
		if covers(l.Prefix.Masked(), prefix) {
			return fmt.Sprintf("within the network of link %s, %s", l.Link, l.Prefix.Masked())
		}
	}
	return ""
}

// covers says whether inner is outer or a part of it.
func covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// linkTo is the link whose network has the next hop, the most specific one, or
// why there is none.
func linkTo(hop netip.Addr, links []link.Addr) (name, reason string) {
	longest := -1 // of the networks that have it
	for _, l := range links {
		switch {
		case l.Prefix.Addr() == hop:
			return "", fmt.Sprintf("next hop %s is this node itself", hop)
		case l.Link == Bridge || l.Link == "lo" || l.Prefix.IsSingleIP():
			continue
		case l.Prefix.Masked().Contains(hop) && l.Prefix.Bits() > longest:
			name, longest = l.Link, l.Prefix.Bits()
		}
	}
	if longest < 0 {
		return "", fmt.Sprintf("next hop %s is not on a subnet of this node, and no tunnel leads there (--enable-overlay)", hop)
	}
	return name, ""
}
