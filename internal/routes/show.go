package routes

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// Progress tells how far the work is, without waiting for it.
func (c *Controller) Progress() reconcile.Progress { return c.queue.Progress() }

// Work is what is not done, longest first, told without waiting for it.
func (c *Controller) Work() []reconcile.Work { return c.queue.Work() }

// Counts are the objects that are desired in the kernel and those that are
// there.
func (c *Controller) Counts() []reconcile.Count {
	c.mu.Lock()
	desired := len(c.desired)
	c.mu.Unlock()
	return []reconcile.Count{{Kind: "routes", Desired: desired, Programmed: max(0, desired-c.routes.Failed())}}
}

// Listed is a prefix that peers sent.
type Listed struct {
	Prefix netip.Prefix
	// Route is the route to it, or nil where there is to be none, and Reason
	// then says why.
	Route  *route.Route
	Reason string
	// Pending is set where the kernel does not have it as it should.
	Pending *reconcile.Work
}

// List returns what peers sent and what it became, by prefix.
func (c *Controller) List() []Listed {
	all := map[netip.Prefix]Listed{}
	c.mu.Lock()
	for prefix, r := range c.desired {
		all[prefix] = Listed{Prefix: prefix, Route: &r}
	}
	for prefix, reason := range c.unusable {
		l := all[prefix]
		l.Prefix, l.Reason = prefix, reason
		all[prefix] = l
	}
	c.mu.Unlock()
	pending := map[string]reconcile.Work{}
	for _, w := range c.queue.Work() {
		pending[w.What] = w
	}
	list := make([]Listed, 0, len(all))
	for _, prefix := range slices.SortedFunc(maps.Keys(all), comparePrefixes) {
		l := all[prefix]
		if w, ok := pending[key{stepRoute, prefix}.String()]; ok {
			l.Pending = &w
		}
		list = append(list, l)
	}
	return list
}

// NodeNames names the nodes of the cluster by each of their addresses.
func (c *Controller) NodeNames() map[netip.Addr]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := map[netip.Addr]string{}
	for name, node := range c.nodes {
		for _, ip := range slices.Concat(node.InternalIPs, node.ExternalIPs) {
			names[ip] = name
		}
	}
	return names
}

// Sets are the IP sets of Pod networking.
func (c *Controller) Sets() []ipset.Listed { return c.sets.List() }

// Learned returns the next hops of each prefix that peers sent.
func (c *Controller) Learned() map[netip.Prefix][]netip.Addr {
	speaker := c.speaking()
	if speaker == nil {
		return nil
	}
	return speaker.Learned()
}
