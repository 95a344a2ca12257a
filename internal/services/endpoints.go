package services

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// pool is what a virtual server chooses its endpoints from.
type pool struct {
	family inet.Family
	// local asks for the endpoints of this node only.
	local bool
	// external says that it is behind an external address, or a node port.
	external bool
	// tunnelPort is the port at which other nodes take what is tunnelled to
	// their endpoints, 0 without direct server return.
	tunnelPort uint16
}

// backend is an endpoint at one port.
type backend struct {
	addr                        netip.AddrPort
	node                        string
	local                       bool
	ready, serving, terminating bool
	hints                       *cluster.Hints
	// used says that it gets new connections.
	used bool
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
	mine, elsewhere := b.choose(all, from.local), false
	if from.local {
		elsewhere = slices.ContainsFunc(all, func(e backend) bool { return !e.local && (e.ready || e.lasting()) })
	}
	b.hairpin(mine, port.Protocol)
	v := virtual{server: b.server(mine, port.Protocol)}
	v.drop = elsewhere && !slices.ContainsFunc(mine, func(e backend) bool { return e.used })
	apart := special{port: port.Port}
	if from.local && from.external && elsewhere {
		// Persistence of a marked virtual server ignores the target port
		// (ip_vs_sched_persist), so the source's hash keeps clients in place.
		apart.inside = marked(b.server(b.choose(all, false), port.Protocol))
		if v.server == nil {
			// Without it the marked packets would be the host's, should the
			// mark get lost.
			v.server = &ipvs.Server{Config: b.options.config}
		}
	}
	if from.tunnelPort != 0 {
		apart.tunnelled = marked(b.server(b.choose(all, true), port.Protocol))
		v.server, apart.inside = b.direct(v.server, mine, from)
	}
	if apart.inside != nil || apart.tunnelled != nil {
		v.special = &apart
	}
	return v
}

// choose returns the endpoints of a pool, and says which get new connections:
// the ready ones, of those the ones meant for this node's clients, or where
// none is ready, those that last.
func (b *compilation) choose(all []backend, local bool) []backend {
	var mine []backend
	for _, e := range all {
		if !local || e.local {
			mine = append(mine, e)
		}
	}
	near := func(backend) bool { return true }
	if !local {
		near = b.near(mine)
	}
	anyReady := slices.ContainsFunc(mine, func(e backend) bool { return e.ready })
	for i, e := range mine {
		mine[i].used = anyReady && e.ready && near(e) || !anyReady && e.lasting()
	}
	return mine
}

// near tells the endpoints that are meant for this node's clients, of those
// that are ready. Hints count only where every ready endpoint has some: nodes
// without any would get no endpoint otherwise (KEP-2433). The same node comes
// before the same zone (KEP-3015).
func (b *compilation) near(list []backend) func(backend) bool {
	byNode := func(e backend) bool { return e.hints != nil && slices.Contains(e.hints.Nodes, b.me.name) }
	byZone := func(e backend) bool {
		return e.hints != nil && b.me.zone != "" && slices.Contains(e.hints.Zones, b.me.zone)
	}
	allNodes, allZones, someNode, someZone := true, true, false, false
	for _, e := range list {
		if e.ready {
			allNodes = allNodes && e.hints != nil && len(e.hints.Nodes) > 0
			allZones = allZones && e.hints != nil && len(e.hints.Zones) > 0
			someNode, someZone = someNode || byNode(e), someZone || byZone(e)
		}
	}
	switch {
	case allNodes && someNode:
		return byNode
	case allZones && someZone:
		return byZone
	}
	return func(backend) bool { return true }
}

// server is the virtual server of the chosen endpoints, nil without any.
func (b *compilation) server(list []backend, protocol inet.Protocol) *ipvs.Server {
	reals := make(map[netip.AddrPort]ipvs.Real, len(list))
	anyUsed := slices.ContainsFunc(list, func(e backend) bool { return e.used })
	for _, e := range list {
		switch {
		case e.used:
			reals[e.addr] = ipvs.Real{Weight: b.me.weight(e.node), Method: ipvs.Masquerade}
		case b.options.config.Scheduler == "dh" && anyUsed:
			// The hash of dh would go on to name it.
		case protocol != inet.UDP || e.serving:
			reals[e.addr] = ipvs.Real{Weight: 0, Method: ipvs.Masquerade}
		}
	}
	if len(reals) == 0 {
		return nil
	}
	return &ipvs.Server{Config: b.options.config, Real: reals, Datagrams: protocol == inet.UDP}
}

// marked makes a virtual server one that is found by a mark.
func marked(s *ipvs.Server) *ipvs.Server {
	if s == nil || s.Persistence == 0 {
		return s
	}
	return &ipvs.Server{Config: ipvs.Config{Scheduler: "sh", SchedFlags: ipvs.SchedFallback}, Real: s.Real, Datagrams: s.Datagrams}
}

// hairpin notes the endpoints of this node: a packet from one to itself must
// get another source, or the endpoint would answer itself directly and not
// know the answer.
func (b *compilation) hairpin(list []backend, protocol inet.Protocol) {
	if !b.options.hairpin {
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
					addr: netip.AddrPortFrom(e.Addr, p.Port), node: e.Node, local: e.Node != "" && e.Node == b.me.name, hints: e.Hints,
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
	local, node := e.local || other.local, cmp.Or(e.node, other.node)
	if rank(other) > rank(e) {
		e = other
	}
	e.local, e.node = local, node
	return e
}
