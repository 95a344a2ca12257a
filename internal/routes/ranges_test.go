package routes

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
)

func inRanges(v *VIPs) { v.Aggregate, v.Discard = true, true }

// With ranges there is one route for many addresses. What has no Service in it
// ends here, unless this host has a part in the range.
func TestRangesAreTold(t *testing.T) {
	h := newHost(t)
	r := h.start(withVIPs(inRanges), nodes(1))
	r.serve(service("web cluster=10.96.0.1 external=203.0.113.1"))
	r.serve(service("api cluster=10.96.0.2 external=203.0.113.2"))
	r.serve(service("local local lb=198.51.100.7 external=203.0.113.9"))
	const ranges, cluster96 = "203.0.113.0/24 via 192.168.66.11 to 2", "10.96.0.0/12 via 192.168.66.11 to 2"
	r.told(nodesAndRouters, cluster96, ranges)
	r.routesAre("unreachable 10.96.0.0/12 proto 17", "unreachable 203.0.113.0/24 proto 17")
	r.endpoints(slice("local", "local-1 10.244.1.2@n1"))
	r.told(nodesAndRouters, cluster96, "198.51.100.7/32 via 192.168.66.11 to 2", ranges, "203.0.113.9/32 via 192.168.66.11 to 2")

	r.feeds.Services.Delete(service("web").Key)
	r.settled()
	r.routesAre("unreachable 10.96.0.0/12 proto 17", "unreachable 203.0.113.0/24 proto 17")
	before := h.routes.Changes()
	r.end()
	r = h.start(withVIPs(inRanges), func(f *cluster.Feeds) {
		nodes(1)(f)
		s := service("api cluster=10.96.0.2 external=203.0.113.2")
		f.Services.Set(s.Key, s)
	})
	r.told(nodesAndRouters, cluster96, ranges)
	r.settled()
	if got := h.routes.Changes() - before; got != 0 {
		t.Errorf("a restart made %d changes of routes", got)
	}
	r.addLink("eth1", "203.0.113.250/24")
	r.routesAre("unreachable 10.96.0.0/12 proto 17")
	r.feeds.Services.Delete(service("api").Key)
	r.routesAre()
	r.told(nodesAndRouters)
}

// Which ranges are told in place of the addresses in them.
func TestWhichRangesAreTold(t *testing.T) {
	const all = "10.96.0.0/12 203.0.113.0/24 198.51.100.0/24 2001:db8::/64"
	for _, tc := range []struct {
		name    string
		change  func(*VIPs)
		ofNodes string
		want    string
	}{
		{"none by themselves", func(v *VIPs) { v.Aggregate = false }, "", ""},
		{"those of all kinds", nil, "192.168.66.11 192.168.66.12 2001:db8:1::12", all},
		{"not one of cluster IPs that is a guess", func(v *VIPs) { v.Guessed = true }, "", "203.0.113.0/24 198.51.100.0/24 2001:db8::/64"},
		{"none with a node in it", nil, "203.0.113.77 2001:db8::12", "10.96.0.0/12 198.51.100.0/24"},
		{"none of cluster IPs either", nil, "10.96.0.1", "203.0.113.0/24 198.51.100.0/24 2001:db8::/64"},
		{"none with something in it that is left to others", func(v *VIPs) {
			v.ExcludedCIDRs = []netip.Prefix{prefix("203.0.113.8/29"), prefix("198.51.0.0/16")}
		}, "", "10.96.0.0/12 2001:db8::/64"},
		{"the part of a range that has no node", func(v *VIPs) { v.ExternalIPRanges = []netip.Prefix{prefix("203.0.113.0/24"), prefix("203.0.113.0/26")} },
			"203.0.113.77", "10.96.0.0/12 203.0.113.0/26 198.51.100.0/24 2001:db8::/64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := vipsOn()
			v.Aggregate = true
			if tc.change != nil {
				tc.change(&v)
			}
			var ofNodes []netip.Addr
			for _, a := range strings.Fields(tc.ofNodes) {
				ofNodes = append(ofNodes, addr(a))
			}
			var want []netip.Prefix
			for _, p := range strings.Fields(tc.want) {
				want = append(want, prefix(p))
			}
			if got := v.aggregates(ofNodes); !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// Traffic to a node goes to that node: a range with an address of one in it
// would draw it here, and end it here. Its Services' addresses are told by
// themselves for as long.
func TestARangeWithANodeInItIsNotTold(t *testing.T) {
	const (
		web2   = "203.0.113.2/32 via 192.168.66.11 to 2"
		range1 = "198.51.100.0/24 via 192.168.66.11 to 2"
		range2 = "203.0.113.0/24 via 192.168.66.11 to 2"
	)
	external := node(2)
	external.ExternalIPs = append(external.ExternalIPs, addr("203.0.113.77"))
	for name, with := range map[string]*cluster.Node{
		"its external address": external,
		"its internal address": nodeOf("n2", "203.0.113.77", "10.244.2.0/24"),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			r := h.start(withVIPs(inRanges), nodes(1, 2))
			r.serve(service("web external=203.0.113.1 external=203.0.113.2 external=203.0.113.77 lb=198.51.100.1"))
			whole := func() {
				t.Helper()
				r.told(nodesAndRouters, range1, range2)
				r.routesAre("unreachable 198.51.100.0/24 proto 17", "unreachable 203.0.113.0/24 proto 17")
			}
			without := func() {
				t.Helper()
				r.told(nodesAndRouters, range1, web, web2)
				r.routesAre("unreachable 198.51.100.0/24 proto 17")
			}
			whole()
			r.set(with)
			without()
			r.set(node(2)) // has another address
			whole()
			r.set(with)
			without()
			r.feeds.Nodes.Delete(with.Key)
			whole()
		})
	}
}
