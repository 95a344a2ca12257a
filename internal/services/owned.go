package services

import (
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// OwnedServers tells this controller's virtual servers from others', once it
// does not run any more. IPVS keeps no owner. sets are those of OwnedSets, which
// have the address and port of each, or its mark; vips are the addresses with
// local routes of ours, which are there before a virtual server and its entry.
// What is in excluded is never ours.
func OwnedServers(sets map[string]ipset.Set, vips map[netip.Addr]bool, excluded []netip.Prefix) func(ipvs.ID) bool {
	owned := map[ipvs.ID]bool{}
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		for e := range sets[setName(portSet, f)].Entries {
			owned[entryID(e)] = true
		}
		for _, name := range markSets {
			for e := range sets[setName(name, f)].Entries {
				owned[ipvs.MarkID(e.Mark, f)] = true
			}
		}
	}
	return func(id ipvs.ID) bool {
		if id.Mark != 0 {
			return owned[id]
		}
		addr := id.Addr.Addr()
		return !contains(excluded, addr) && (owned[id] || vips[addr])
	}
}
