package services

import (
	"fmt"
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// tunnel turns a virtual server into that of direct server return: what goes
// to endpoints of other nodes goes through a tunnel to their node, which is one
// real server with the weight of all of them. The node gives it to one of its
// endpoints, whose answer it sends to the client without us. So the endpoint
// needs to know nothing of it, may listen at another port, and may be its own
// client.
//
// An endpoint whose node cannot be told is reached as without direct return.
func (b *compilation) tunnel(server *ipvs.Server, list []backend, from pool) *ipvs.Server {
	if server == nil {
		return nil
	}
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
	server.Real = direct
	if lost != "" {
		b.warn("NoDirectReturn", fmt.Sprintf("endpoint %s answers through the node that got the request: "+
			"it is on no node of the cluster", lost))
	}
	return server
}

// tunnelLink is where packets of IPIP tunnels arrive that no other link takes.
const tunnelLink = "tunl0"

// tunnelRules let nothing come out of a tunnel but packets to Services with
// direct server return, and nothing into it but from nodes.
func tunnelRules(f inet.Family, direct bool) []string {
	if !direct || f != inet.IPv4 {
		return nil
	}
	return []string{
		`-p 4 -m set ! --match-set ` + setName(nodeSet, f) + ` src -m comment --comment "tunnels are for nodes" -j DROP`,
		`-i ` + tunnelLink + ` -m mark --mark 0x0/` + markMask + ` -m comment --comment "tunnels are for services" -j DROP`,
	}
}

func forwardTunnelRules(f inet.Family, direct bool) []string {
	if !direct || f != inet.IPv4 {
		return nil
	}
	return []string{`-i ` + tunnelLink + ` -m comment --comment "tunnels are for services" -j DROP`}
}

// sizeRules keep the packets of clients so small that they fit into the tunnel:
// the answers of Services with direct server return say so.
func sizeRules(f inet.Family, direct bool) []string {
	if !direct || f != inet.IPv4 {
		return nil
	}
	return []string{`-p tcp -m tcp --tcp-flags SYN,RST SYN -m set --match-set ` + setName(tunnelSet, f) +
		` src,src -m comment --comment "room for the tunnel" -j TCPMSS --set-mss 1400`}
}

// noteDirect turns what all direct server return needs on with the first
// Service that asks for it, and off when there is none left.
func (c *Controller) noteDirect() {
	wanted := c.plan.directs > 0
	if wanted == c.direct || !wanted && !c.done[stepSweep] {
		return
	}
	c.direct = wanted
	c.log.Info("services: direct server return", "on", wanted)
	for _, s := range []step{stepPlatform, stepNode, stepRules} {
		c.queue.Mark(key{step: s})
	}
}
