package services

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// pool is what a virtual server chooses its endpoints from: those of its
// family, and of this node only where the traffic policy is Local.
type pool struct {
	family inet.Family
	local  bool
}

// backend is an endpoint at one port.
type backend struct {
	addr                        netip.AddrPort
	local                       bool
	ready, serving, terminating bool
}

// lasting says that the endpoint is used where no ready one is left: it
// terminates and still serves (KEP-1669).
func (e backend) lasting() bool { return e.serving && e.terminating }

// virtual is the virtual server of a port with the endpoints of a pool.
//
// Every endpoint of the pool is a real server; those that are to get no new
// connections have weight 0. So established connections outlive the readiness
// of their endpoint and end with the endpoint itself, and where none has a
// weight IPVS tells new clients that the port is unreachable. A client of a
// datagram service, whose "connection" may never end, is moved on as soon as
// its endpoint stops to serve.
func (b *compilation) virtual(port cluster.ServicePort, from pool) virtual {
	all := b.backends(port, from.family)
	var mine []backend
	usable := false
	for _, e := range all {
		usable = usable || e.ready || e.lasting()
		if !from.local || e.local {
			mine = append(mine, e)
		}
	}
	server := ipvs.Server{Config: b.config, Real: weigh(mine, port.Protocol)}
	if len(server.Real) == 0 {
		return virtual{drop: from.local && usable}
	}
	b.hairpin(mine, port.Protocol)
	return virtual{server: &server}
}

// weigh gives the ready endpoints weight 1, or those that last where none is
// ready.
func weigh(list []backend, protocol inet.Protocol) map[netip.AddrPort]ipvs.Real {
	used := backend.lasting
	for _, e := range list {
		if e.ready {
			used = func(e backend) bool { return e.ready }
			break
		}
	}
	reals := make(map[netip.AddrPort]ipvs.Real, len(list))
	for _, e := range list {
		switch {
		case used(e):
			reals[e.addr] = ipvs.Real{Weight: 1, Method: ipvs.Masquerade}
		case protocol != inet.UDP || e.serving:
			reals[e.addr] = ipvs.Real{Weight: 0, Method: ipvs.Masquerade}
		}
	}
	return reals
}

// hairpin notes the endpoints of this node: a packet from one to itself must
// get another source, or the endpoint would answer itself directly and not
// know the answer.
func (b *compilation) hairpin(list []backend, protocol inet.Protocol) {
	if !b.compiler.config.Hairpin {
		return
	}
	for _, e := range list {
		if e.local {
			entry := ipset.IPPort(protocol, e.addr)
			entry.Second = e.addr.Addr()
			b.out.hairpins[entry] = struct{}{}
		}
	}
}

// backends are the endpoints of a port in one family. An endpoint that is in
// several slices, as while the slices are rearranged, counts once, at its best.
func (b *compilation) backends(port cluster.ServicePort, family inet.Family) []backend {
	var list []backend
	at := map[netip.AddrPort]int{}
	for _, slice := range b.slices {
		for _, p := range slice.Ports {
			if p.Name != port.Name || p.Protocol != port.Protocol || p.Port == 0 {
				continue
			}
			for _, e := range slice.Endpoints {
				if inet.FamilyOf(e.Addr) != family || b.refuse(e.Addr) != "" {
					continue
				}
				next := backend{
					addr: netip.AddrPortFrom(e.Addr, p.Port), local: e.Node != "" && e.Node == b.me.name,
					ready: e.Ready, serving: e.Serving || e.Ready, terminating: e.Terminating,
				}
				i, ok := at[next.addr]
				if !ok {
					at[next.addr] = len(list)
					list = append(list, next)
				} else {
					list[i] = list[i].better(next)
				}
			}
		}
	}
	return list
}

// better is the one of two sights of an endpoint that says more for it.
func (e backend) better(other backend) backend {
	rank := func(e backend) int {
		switch {
		case e.ready:
			return 2
		case e.serving:
			return 1
		}
		return 0
	}
	local := e.local || other.local
	if rank(other) > rank(e) {
		e = other
	}
	e.local = local
	return e
}

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
			if bad := b.refuse(e.Addr); bad != "" {
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
