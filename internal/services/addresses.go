package services

import (
	"fmt"
	"net/netip"
)

// doors are the addresses at which the Service is served, less node ports.
func (b *compilation) doors() []door {
	list := b.clusterDoors()
	for _, a := range b.admitted(b.service.ExternalIPs, b.compiler.config.ExternalIPRanges, "external") {
		list = append(list, door{addr: a, external: true})
	}
	if b.options.skipLoadBalancerIPs {
		return list
	}
	for _, a := range b.admitted(b.service.LoadBalancerIPs, b.compiler.config.LoadBalancerIPRanges, "load balancer") {
		list = append(list, door{addr: a, external: true, restricted: b.service.Restricted})
	}
	return list
}

// clusterDoors are the cluster IPs that are served.
func (b *compilation) clusterDoors() []door {
	var list []door
	for _, a := range b.service.ClusterIPs {
		switch {
		case !b.enabled(a) || b.excluded(a, "cluster IP"):
		case b.me.owner(a) != "":
			b.warn("ClusterIPOfNode", fmt.Sprintf("cluster IP %s is left out: it is an address of node %s; "+
				"the range of cluster IPs must not overlap the nodes' network", a, b.me.owner(a)))
		case !routable(a):
			b.warn("BadClusterIP", fmt.Sprintf("cluster IP %s is left out: it is no unicast address of a network", a))
		default:
			list = append(list, door{addr: a})
			b.vip(a)
		}
	}
	return list
}

// admitted are those of a list of external or load balancer IPs that are
// served. An address of a node is served on that node alone, which has it
// already: a local route to it would make the others take the node's kubelet,
// sessions and tunnels for their own.
func (b *compilation) admitted(list []netip.Addr, ranges []netip.Prefix, what string) []netip.Addr {
	var addrs, refused, excluded []netip.Addr
	for _, a := range list {
		switch {
		case !b.enabled(a):
		case !routable(a) || !b.compiler.config.AnyIP && !contains(ranges, a) || contains(b.compiler.config.ServiceRanges, a):
			refused = append(refused, a)
		case contains(b.compiler.config.ExcludedCIDRs, a):
			excluded = append(excluded, a)
		case b.me.owner(a) == b.me.name:
			addrs = append(addrs, a)
		case b.me.owner(a) == "":
			addrs = append(addrs, a)
			b.vip(a)
		}
	}
	b.notServed("AddressRefused", what+" IP", refused, fmt.Sprintf("it must be in a range that is configured for %s IPs, "+
		"and not in that of cluster IPs", what))
	b.notServed("AddressExcluded", what+" IP", excluded, leftToOthers)
	return addrs
}

// notServed tells of addresses that are left out. A Service may have a hundred
// thousand: that is one Event.
func (b *compilation) notServed(reason, what string, addrs []netip.Addr, why string) {
	switch n := len(addrs); n {
	case 0:
	case 1:
		b.warn(reason, fmt.Sprintf("%s %s is not served: %s", what, addrs[0], why))
	default:
		b.warn(reason, fmt.Sprintf("%s %s is not served, nor are %d others: %s", what, addrs[0], n-1, why))
	}
}

const leftToOthers = "--excluded-cidrs leaves it to others"

// excluded says, also to the user, that virtual servers of an address are
// somebody else's: ours would take over what is there.
func (b *compilation) excluded(a netip.Addr, what string) bool {
	if !contains(b.compiler.config.ExcludedCIDRs, a) {
		return false
	}
	b.notServed("AddressExcluded", what, []netip.Addr{a}, leftToOthers)
	return true
}

func (b *compilation) vip(a netip.Addr) { b.out.vips[a] = struct{}{} }
