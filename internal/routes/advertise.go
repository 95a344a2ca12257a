package routes

import (
	"context"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/peering"
)

func (c *Controller) serviceChanged(change cluster.Change[cluster.Service]) {
	c.mu.Lock()
	dirty, moved := c.vips.service(change, c.config.VIPs)
	speaker := c.speaker
	c.mu.Unlock()
	if dirty {
		c.queue.Mark(key{step: stepVIPs})
	}
	if speaker == nil {
		return
	}
	for _, a := range moved { // a peer may have told it
		if p := netip.PrefixFrom(a, a.BitLen()); len(speaker.NextHops(p)) > 0 {
			c.queue.Mark(key{stepRoute, p})
		}
	}
}

// ofService says whether a prefix is an address of a Service that this node
// may tell.
func (c *Controller) ofService(p netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.IsSingleIP() && c.vips.owned[p.Addr()] > 0
}

func (c *Controller) sliceChanged(change cluster.Change[cluster.EndpointSlice]) {
	c.mu.Lock()
	dirty := c.vips.slice(change)
	c.mu.Unlock()
	if dirty {
		c.queue.Mark(key{step: stepVIPs})
	}
}

// awaitServed marks what waits for the service proxy.
func (c *Controller) awaitServed(ctx context.Context) {
	if c.config.VIPs.Served == nil {
		return
	}
	select {
	case <-c.config.VIPs.Served:
		c.queue.Mark(key{step: stepAdvertise})
	case <-ctx.Done():
	}
}

// compileVIPs finds out what the Services that changed tell.
func (c *Controller) compileVIPs() error {
	me := c.identity()
	if !me.primary.IsValid() {
		return errLater
	}
	here := place{families: c.config.Families, addrs: addrsOf(c.links)}
	type complaint struct {
		service *cluster.Service
		problem string
	}
	var complaints []complaint
	changed := false
	c.mu.Lock()
	for key := range c.vips.dirty {
		var told map[netip.Addr]bool
		if s := c.vips.services[key]; s != nil {
			var problems []string
			told, problems = c.config.VIPs.vips(s, c.vips.ready(key), here)
			for _, p := range problems {
				complaints = append(complaints, complaint{s, p})
			}
		}
		changed = c.vips.set(key, told) || changed
	}
	clear(c.vips.dirty)
	c.mu.Unlock()
	for _, p := range complaints {
		c.events.Warn("Service", &p.service.Meta, "BadAnnotation", p.problem)
	}
	if changed {
		c.queue.Mark(key{step: stepAdvertise})
	}
	return nil
}

// advertise tells the node's Pod CIDRs, each by its address of the family, and
// the addresses of Services.
func (c *Controller) advertise() error {
	me, speaker := c.identity(), c.speaking()
	if speaker == nil || len(me.podCIDRs()) == 0 {
		return errLater
	}
	nodes := c.present()
	vips := c.toldVIPs(nodes)
	if err := speaker.Advertise(append(c.podRoutes(me, nodes), vipRoutes(me, vips)...)); err != nil {
		return err
	}
	c.discard(vips)
	return nil
}

// podRoutes are the node's Pod CIDRs, less those that an older Node has, too.
func (c *Controller) podRoutes(me self, nodes map[string]*cluster.Node) []bgp.Route {
	to := bgp.ToNodes
	if c.config.PodCIDRs {
		to |= bgp.ToExternal
	}
	cidrs := me.podCIDRs()
	var lost []netip.Prefix
	if node := nodes[me.name]; node != nil {
		var problems []peering.Problem
		lost, problems = peering.Contested(node, cidrs, nodes)
		c.report(problems)
	}
	var routes []bgp.Route
	for _, cidr := range cidrs {
		if hop := me.IP(inet.FamilyOf(cidr.Addr())); hop.IsValid() && !slices.Contains(lost, cidr) {
			routes = append(routes, bgp.Route{Prefix: cidr, NextHop: hop, To: to})
		}
	}
	return routes
}

// toldVIPs are the prefixes that are told for Services, and of each whether it
// is a range. An address of a node is that node's, whatever a Service says.
func (c *Controller) toldVIPs(nodes map[string]*cluster.Node) map[netip.Prefix]bool {
	if !c.served() {
		return nil
	}
	var ofNodes []netip.Addr
	for _, n := range nodes {
		ofNodes = append(ofNodes, slices.Concat(n.InternalIPs, n.ExternalIPs)...)
	}
	c.mu.Lock()
	prefixes := c.vips.prefixes(c.config.VIPs.aggregates(ofNodes))
	c.mu.Unlock()
	for _, a := range ofNodes {
		delete(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}

// served says whether the addresses may be told. After a restart they are
// served as before from the first moment on; and not to tell them would be to
// withdraw them.
func (c *Controller) served() bool {
	if c.config.VIPs.Served == nil || c.config.GracefulRestart && c.former {
		return true
	}
	select {
	case <-c.config.VIPs.Served:
		return true
	default:
		return false
	}
}

func vipRoutes(me self, prefixes map[netip.Prefix]bool) []bgp.Route {
	var routes []bgp.Route
	for p := range prefixes {
		if hop := me.IP(inet.FamilyOf(p.Addr())); hop.IsValid() {
			routes = append(routes, bgp.Route{Prefix: p, NextHop: hop, To: bgp.ToExternal})
		}
	}
	return routes
}

// discard keeps what is sent to unused addresses of a range that was told from
// going back to the router that sent it. A range that this host has a part in,
// or its Pods, is left alone.
func (c *Controller) discard(prefixes map[netip.Prefix]bool) {
	want := map[netip.Prefix]bool{}
	for p, isRange := range prefixes {
		if isRange && c.config.VIPs.Discard && !c.inUse(p) {
			want[p] = true
		}
	}
	before := c.discarded
	c.discarded = want
	for p := range before {
		if !want[p] {
			c.queue.Mark(key{stepRoute, p})
		}
	}
	for p := range want {
		if !before[p] {
			c.queue.Mark(key{stepRoute, p})
		}
	}
}

func (c *Controller) inUse(p netip.Prefix) bool {
	for _, l := range c.links {
		if l.Prefix.Overlaps(p) {
			return true
		}
	}
	return slices.ContainsFunc(c.identity().podCIDRs(), p.Overlaps)
}
