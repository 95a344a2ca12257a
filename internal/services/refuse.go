package services

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// refuse says why an address cannot be an endpoint, or "".
func (b *compilation) refuse(a netip.Addr) string {
	switch {
	case !routable(a):
		return "it is no unicast address of a network"
	case contains(b.compiler.config.ServiceRanges, a):
		return "it is in the range of cluster IPs"
	}
	if _, ok := b.out.vips[a]; ok {
		return "it is an address of the Service itself"
	}
	return ""
}

// badEndpoints reports what backends left out, once a slice.
func (b *compilation) badEndpoints() {
	for _, slice := range b.slices {
		first, why, count := netip.Addr{}, "", 0
		for _, e := range slice.Endpoints {
			bad := b.refuse(e.Addr)
			if bad == "" && len(b.service.ClusterIPs) > 0 && !b.hasFamily(inet.FamilyOf(e.Addr)) {
				bad = "the Service has no cluster IP of its family"
			}
			if bad != "" {
				if count++; count == 1 {
					first, why = e.Addr, bad
				}
			}
		}
		if count > 0 {
			b.problems = append(b.problems, problem{"EndpointSlice", &slice.Meta, "BadEndpoint",
				fmt.Sprintf("%d of %d endpoints are left out; the first is %s: %s", count, len(slice.Endpoints), first, why)})
		}
		if slices.ContainsFunc(slice.Ports, func(p cluster.EndpointPort) bool { return p.Port == 0 }) {
			b.problems = append(b.problems, problem{"EndpointSlice", &slice.Meta, "PortZero",
				"a port without a number is left out"})
		}
	}
}
