package services

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// direct makes the virtual server of direct server return of one without, which
// is what clients of this node still get. A node that does not know its own
// Pods cannot tell them from clients outside, and sends nothing through tunnels.
func (b *compilation) direct(server *ipvs.Server, list []backend, from pool) (direct, inside *ipvs.Server) {
	if server == nil || !slices.ContainsFunc(list, func(e backend) bool { return !e.local }) {
		return server, nil
	}
	if !b.me.knowsPods(from.family) {
		b.warn("NoDirectReturn", fmt.Sprintf("endpoints on other nodes answer through node %s: "+
			"its Node object has no podCIDRs, which tell pods of the node from clients outside", b.me.name))
		return server, nil
	}
	direct = b.tunnel(server, list, from)
	if tunnels(direct) {
		inside = marked(server)
	}
	return direct, inside
}

// tunnel turns a virtual server into that of direct server return: what goes
// to endpoints of other nodes goes through a tunnel to their node, which is one
// real server with the weight of all of them. The node gives it to one of its
// endpoints, whose answer it sends to the client without us. So the endpoint
// needs to know nothing of it, may listen at another port, and may be its own
// client.
//
// An endpoint whose node cannot be told is reached as without direct return.
func (b *compilation) tunnel(server *ipvs.Server, list []backend, from pool) *ipvs.Server {
	direct := make(map[netip.AddrPort]ipvs.Real, len(server.Real))
	lost := ""
	for _, e := range list {
		real, ok := server.Real[e.addr]
		if !ok {
			continue
		}
		at := e.addr
		if !e.local {
			if addr := b.me.peers[e.node].addr(from.family); addr.IsValid() {
				at = netip.AddrPortFrom(addr, from.tunnelPort)
				real.Method = ipvs.Tunnel
				real.Weight = min(real.Weight+direct[at].Weight, maxWeight)
			} else if e.node == "" { // else its Node is yet to come
				lost = e.addr.String()
			}
		}
		direct[at] = real
	}
	if lost != "" {
		b.warn("NoDirectReturn", fmt.Sprintf("endpoint %s answers through the node that got the request: "+
			"it is on no node of the cluster", lost))
	}
	return &ipvs.Server{Config: server.Config, Real: direct}
}
