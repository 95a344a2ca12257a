package routes

import (
	"net/netip"
	"testing"
)

// What an earlier release or kube-proxy has on its dummy link are addresses of
// Services: they are told, and no network that this host has a part in.
func TestAddressesOnTheLinkOfAPredecessorAreTold(t *testing.T) {
	h := newHost(t)
	old := []netip.Prefix{prefix("203.0.113.1/32"), prefix("10.96.0.1/32")}
	h.links.AddLink("kube-ipvs0", 1500, old...)
	h.routes.AddLink("kube-ipvs0", old...)
	r := h.start(func(c *Config) {
		c.VIPs, c.Predecessors = vipsOn(), []string{"kube-dummy-if", "kube-ipvs0"}
		c.VIPs.Aggregate, c.VIPs.Discard = true, true
	}, nodes(1))
	r.serve(service("web local external=203.0.113.1"))
	r.endpoints(slice("web", "web-1 10.244.1.2@n1"))
	r.serve(service("api cluster=10.96.0.1"))
	r.told(nodesAndRouters, "10.96.0.0/12 via 192.168.66.11 to 2", web)
	r.routesAre("unreachable 10.96.0.0/12 proto 17")
}

// What is a guess is not told as a range: there may be Pods in it, or others.
func TestARangeThatIsAGuessIsNotTold(t *testing.T) {
	h := newHost(t)
	r := h.start(withVIPs(func(v *VIPs) { v.Aggregate, v.Discard, v.Guessed = true, true, true }), nodes(1))
	r.serve(service("web cluster=10.96.0.1 external=203.0.113.1"))
	r.told(nodesAndRouters, "10.96.0.1/32 via 192.168.66.11 to 2", "203.0.113.0/24 via 192.168.66.11 to 2")
	r.routesAre("unreachable 203.0.113.0/24 proto 17")
}

// An address of a Service is never taken from a peer, whether this node tells
// it or not: a router that has it from another node would lead it away from here.
func TestAddressesOfServicesAreNotTakenFromPeers(t *testing.T) {
	h := newHost(t)
	r := h.start(withVIPs(func(v *VIPs) { v.AnyIP = true }), nodes(1, 2))
	r.answers(2)
	s, peer := h.speaker(), node(2).InternalIPs[0]
	const pods, vip = "10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17", "9.9.9.9 via 192.168.66.12 dev eth0 proto 17"
	s.Deliver(peer, prefix("9.9.9.9/32"), peer)
	r.routesAre(pods, vip)
	r.serve(service("web local external=9.9.9.9")) // without an endpoint here
	r.routesAre(pods)
	r.until("the status says why", func() bool {
		u := r.Status().Unusable
		return len(u) == 1 && u[0].Prefix == prefix("9.9.9.9/32") && u[0].Reason == "an address of a Service of this cluster"
	})
	r.serve(service("api lb=9.9.9.9"))
	r.feeds.Services.Delete(service("web").Key)
	r.settled()
	r.routesAre(pods)
	s.Deliver(peer, prefix("9.9.9.9/32"), netip.Addr{})
	r.settled()
	s.Deliver(peer, prefix("9.9.9.9/32"), peer) // known by now
	r.settled()
	r.routesAre(pods)
	r.serve(service("api lb=9.9.9.8"))
	r.routesAre(pods, vip)
}

// A peer that sends too much loses its session, and an Event says so.
func TestAPeerThatSendsTooMuchIsToldOf(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	h.speaker().Exceed(node(2).InternalIPs[0])
	r.routesAre("10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	r.until("an Event", func() bool { return r.warns.warned("Node n1 TooManyPrefixes", "192.168.66.12") })
}
