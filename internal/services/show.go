package services

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// Progress tells how far the work is, without waiting for it.
func (c *Controller) Progress() reconcile.Progress { return c.queue.Progress() }

// Work is what is not done, longest first, told without waiting for it.
func (c *Controller) Work() []reconcile.Work { return c.queue.Work() }

// Counts are the objects that are desired in the kernel and those that are
// there.
func (c *Controller) Counts() []reconcile.Count {
	all := c.state.count()
	c.mu.Lock()
	s, begun := c.status, c.begunAs.name != ""
	c.mu.Unlock()
	programmed := 0
	if begun {
		programmed = max(0, all-c.queue.Count(func(k key) bool { return k.step == stepService }))
	}
	return []reconcile.Count{
		{Kind: "services", Desired: all, Programmed: programmed},
		{Kind: "virtual_servers", Desired: s.VirtualServers, Programmed: s.VirtualServers - s.FailedServers},
	}
}

// Listed is a Service as this node serves it.
type Listed struct {
	cluster.Key
	// Servers are its virtual servers, by ID.
	Servers []ListedServer
	// Refused says what of the Service is left out, and why.
	Refused []string
	// Pending is set where not all of it is in the kernel.
	Pending *reconcile.Work
}

// ListedServer is an address and port of a Service. One without endpoints
// refuses.
type ListedServer struct {
	ID ipvs.ID
	ipvs.Server
}

// List returns the Services of the cluster as this node serves them, by name:
// nothing before it can serve.
func (c *Controller) List() []Listed {
	c.mu.Lock()
	me := c.begunAs
	c.mu.Unlock()
	if me.name == "" {
		return nil
	}
	pending := map[string]reconcile.Work{}
	for _, w := range c.queue.Work() {
		pending[w.What] = w
	}
	var list []Listed
	for _, k := range slices.SortedFunc(slices.Values(c.state.keys()), compareKeys) {
		service, slices := c.state.get(k)
		if service == nil {
			continue
		}
		want, problems := c.compiler.compile(service, slices, me)
		l := Listed{Key: k, Servers: want.listed()}
		for _, p := range problems {
			l.Refused = append(l.Refused, p.message)
		}
		if w, ok := pending[key{stepService, k}.String()]; ok {
			l.Pending = &w
		}
		list = append(list, l)
	}
	return list
}

func (d *desired) listed() []ListedServer {
	list := make([]ListedServer, 0, len(d.virtuals))
	for id, v := range d.virtuals {
		l := ListedServer{ID: id}
		if v.server != nil {
			l.Server = *v.server
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b ListedServer) int {
		return cmp.Or(a.ID.Addr.Compare(b.ID.Addr), cmp.Compare(a.ID.Protocol, b.ID.Protocol))
	})
	return list
}

// Endpoints are the addresses of a virtual server's real servers, in order.
func (l ListedServer) Endpoints() []netip.AddrPort {
	return slices.SortedFunc(maps.Keys(l.Real), netip.AddrPort.Compare)
}

// Sets are the IP sets of Services.
func (c *Controller) Sets() []ipset.Listed { return c.sets.List() }

// DirectMisuse names the Services with direct server return that have node
// ports, which are served without it, and those in hairpin mode, whose Pods
// call themselves without it. Both are in order.
func (c *Controller) DirectMisuse() (nodePorts, hairpins []string) {
	for _, k := range slices.SortedFunc(slices.Values(c.state.keys()), compareKeys) {
		service, _ := c.state.get(k)
		if service == nil {
			continue
		}
		b := compilation{compiler: c.compiler, service: service}
		o := b.readOptions()
		if !o.dsr {
			continue
		}
		if slices.ContainsFunc(service.Ports, func(p cluster.ServicePort) bool { return p.NodePort != 0 }) {
			nodePorts = append(nodePorts, k.String())
		}
		if o.hairpin {
			hairpins = append(hairpins, k.String())
		}
	}
	return nodePorts, hairpins
}
