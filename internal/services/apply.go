package services

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// workServices compiles Services and programs what they touch as one batch.
func (c *Controller) workServices(keys []cluster.Key) {
	if !c.begun() {
		c.putAside(keys)
		return
	}
	b := newBatch(c)
	for _, k := range keys {
		b.take(k)
	}
	b.run()
	failed := map[cluster.Key]error{}
	for _, k := range keys {
		err := b.outcome(k)
		if err == nil {
			delete(c.touched, k)
		} else {
			failed[k] = err
		}
		c.queue.Settle(key{stepService, k}, err)
	}
	c.complainOf(keys, failed)
	c.reportConflicts(b)
}

// complainOf logs, in one line for the batch, what fails now and did not
// before, or not so.
func (c *Controller) complainOf(keys []cluster.Key, failed map[cluster.Key]error) {
	fresh, first := 0, cluster.Key{}
	for _, k := range keys {
		if began, _ := c.complaint.Change("service "+k.String(), failed[k]); began {
			if fresh++; fresh == 1 {
				first = k
			}
		}
	}
	if fresh > 0 {
		c.log.Warn("services: not all programmed yet; they are tried again",
			"failed", fresh, "first", first, "err", failed[first])
	}
}

// putAside settles Services that cannot be programmed yet: begin marks all.
func (c *Controller) putAside(keys []cluster.Key) {
	for _, k := range keys {
		c.queue.Settle(key{stepService, k}, nil)
	}
}

func (c *Controller) reportConflicts(b *batch) {
	for _, x := range c.plan.conflicts(b.virtuals) {
		service, _ := c.state.get(x.loser)
		if service == nil {
			continue
		}
		c.events.Warn("Service", &service.Meta, "AddressInUse", fmt.Sprintf(
			"%s port %d/%s belongs to Service %s as well, which is served there because its name comes first; "+
				"give one of them another address or port", x.id.Addr.Addr(), x.id.Addr.Port(), x.id.Protocol, x.winner))
	}
}

// batch is a number of Services on their way into the kernel. Its resources
// are the union of what they touch, each with the error that it met.
type batch struct {
	*Controller
	*resources
	failedVirtuals map[ipvs.ID]error
	failedVIPs     map[netip.Addr]error
	failedHairpins map[ipset.Entry]error
}

func newBatch(c *Controller) *batch {
	return &batch{
		Controller: c, resources: newResources(),
		failedVirtuals: map[ipvs.ID]error{}, failedVIPs: map[netip.Addr]error{}, failedHairpins: map[ipset.Entry]error{},
	}
}

// take compiles a Service into the plan, and notes what it touches and what it
// touched before without success.
func (b *batch) take(k cluster.Key) {
	touched := b.touched[k]
	if touched == nil {
		touched = newResources()
		b.touched[k] = touched
	}
	var want *desired
	if service, slices := b.state.get(k); service != nil {
		var problems []problem
		want, problems = b.compiler.compile(service, slices, b.me)
		for _, p := range problems {
			b.events.Warn(p.kind, p.object, p.reason, p.message)
		}
	}
	b.plan.set(k, want, touched)
	merge(b.resources.virtuals, touched.virtuals)
	merge(b.resources.vips, touched.vips)
	merge(b.resources.hairpins, touched.hairpins)
}

func merge[K comparable](into, from map[K]struct{}) {
	for k := range from {
		into[k] = struct{}{}
	}
}

// run brings the kernel in line. What lets packets through comes after what
// takes them, and goes before it, so that none of them reaches the host.
func (b *batch) run() {
	add, del := b.hairpinEdits()
	b.edit(hairpinSet, add, nil, b.hairpinFailed)
	b.makeRoutes()
	b.closePorts()
	for id, err := range b.servers.Set(b.wantedServers()) {
		b.failedVirtuals[id] = err
	}
	b.openPorts()
	b.removeRoutes()
	b.edit(hairpinSet, nil, del, b.hairpinFailed)
}

// wantedServers are the virtual servers to be, nil for none. One whose port
// could not be closed stays: its packets would reach the host.
func (b *batch) wantedServers() map[ipvs.ID]*ipvs.Server {
	want := make(map[ipvs.ID]*ipvs.Server, len(b.resources.virtuals))
	for id := range b.resources.virtuals {
		if v, _ := b.plan.virtuals.granted(id); v.server != nil || b.failedVirtuals[id] == nil {
			want[id] = v.server
		}
	}
	return want
}

// closePorts takes out of the sets what IPVS is about to stop serving, and
// silences what is to be silent.
func (b *batch) closePorts() {
	var closed, silent []ipset.Entry
	for id := range b.resources.virtuals {
		v, _ := b.plan.virtuals.granted(id)
		if v.server == nil {
			closed = append(closed, portEntry(id))
		}
		if v.drop {
			silent = append(silent, portEntry(id))
		}
	}
	b.edit(dropSet, silent, nil, b.portFailed)
	b.edit(portSet, nil, closed, b.portFailed)
}

// openPorts lets packets through to what IPVS serves now.
func (b *batch) openPorts() {
	var open, loud []ipset.Entry
	for id := range b.resources.virtuals {
		v, _ := b.plan.virtuals.granted(id)
		if v.server != nil && b.failedVirtuals[id] == nil {
			open = append(open, portEntry(id))
		}
		if !v.drop {
			loud = append(loud, portEntry(id))
		}
	}
	b.edit(portSet, open, nil, b.portFailed)
	b.edit(dropSet, nil, loud, b.portFailed)
}

// makeRoutes makes addresses of Services the host's. Only those where that
// succeeded are guarded as such: an address that the host has for other
// reasons must go on to work.
func (b *batch) makeRoutes() {
	want := map[route.Key]*route.Route{}
	for addr := range b.resources.vips {
		if source, ok := b.plan.vips.granted(addr); ok {
			r := vipRoute(addr, source)
			want[r.Key] = &r
		}
	}
	failed := b.routes.Set(want)
	var guarded []ipset.Entry
	for k := range want {
		if err := failed[k]; err != nil {
			b.failedVIPs[k.Dst.Addr()] = err
		} else {
			guarded = append(guarded, ipset.IP(k.Dst.Addr()))
		}
	}
	b.edit(vipSet, guarded, nil, b.vipFailed)
}

// removeRoutes is the way back: the guard stays until the route is gone.
func (b *batch) removeRoutes() {
	gone := map[route.Key]*route.Route{}
	for addr := range b.resources.vips {
		if _, ok := b.plan.vips.granted(addr); !ok {
			gone[vipRouteKey(addr)] = nil
		}
	}
	failed := b.routes.Set(gone)
	var unguarded []ipset.Entry
	for k := range gone {
		if err := failed[k]; err != nil {
			b.failedVIPs[k.Dst.Addr()] = err
		} else {
			unguarded = append(unguarded, ipset.IP(k.Dst.Addr()))
		}
	}
	b.edit(vipSet, nil, unguarded, b.vipFailed)
}

func (b *batch) hairpinEdits() (add, del []ipset.Entry) {
	for entry := range b.resources.hairpins {
		if _, ok := b.plan.hairpins.granted(entry); ok {
			add = append(add, entry)
		} else {
			del = append(del, entry)
		}
	}
	return add, del
}

// edit edits a set. A family's error is that of all its entries.
func (b *batch) edit(set string, add, del []ipset.Entry, fail func(ipset.Entry, error)) {
	failed := b.editSets(set, add, del)
	if len(failed) == 0 {
		return
	}
	for _, list := range [][]ipset.Entry{add, del} {
		for _, entry := range list {
			if err := failed[inet.FamilyOf(entry.Prefix.Addr())]; err != nil {
				fail(entry, err)
			}
		}
	}
}

func (b *batch) portFailed(e ipset.Entry, err error) {
	id := ipvs.ID{Protocol: e.Protocol, Addr: netip.AddrPortFrom(e.Prefix.Addr(), e.Port)}
	if b.failedVirtuals[id] == nil {
		b.failedVirtuals[id] = err
	}
}

func (b *batch) vipFailed(e ipset.Entry, err error) { b.failedVIPs[e.Prefix.Addr()] = err }

func (b *batch) hairpinFailed(e ipset.Entry, err error) { b.failedHairpins[e] = err }

// outcome is the first error that a Service met, or nil.
func (b *batch) outcome(k cluster.Key) error {
	touched := b.touched[k]
	for id := range touched.virtuals {
		if err := b.failedVirtuals[id]; err != nil {
			return err
		}
	}
	for addr := range touched.vips {
		if err := b.failedVIPs[addr]; err != nil {
			return err
		}
	}
	for entry := range touched.hairpins {
		if err := b.failedHairpins[entry]; err != nil {
			return err
		}
	}
	return nil
}

func portEntry(id ipvs.ID) ipset.Entry { return ipset.IPPort(id.Protocol, id.Addr) }

// sweep removes what a former run left and nobody wants: in the order in which
// a Service is removed. All Services have been compiled by then, so that what
// is not in the plan is not wanted, even where something failed.
func (c *Controller) sweep() error {
	defer c.tellReady()
	if err := c.sweepSets(portSet, dropSet); err != nil {
		return err
	}
	for id, err := range c.servers.Retain(func(id ipvs.ID) bool {
		v, _ := c.plan.virtuals.granted(id)
		return v.server != nil
	}) {
		return fmt.Errorf("a virtual server of a former run, %s: %w", id, err)
	}
	for k, err := range c.routes.Retain(func(k route.Key) bool {
		_, ok := c.plan.vips.granted(k.Dst.Addr())
		return ok
	}) {
		return fmt.Errorf("a route of a former run, %s: %w", k.Dst, err)
	}
	if err := c.sweepSets(vipSet, hairpinSet); err != nil {
		return err
	}
	clear(c.adopted)
	return c.sweepFamilies()
}

// sweepFamilies removes the sets of families that are not enabled any more.
// Rules of such a family may still refer to them; the next resync tries again.
func (c *Controller) sweepFamilies() error {
	keep := map[string]bool{}
	for _, f := range c.config.Families {
		for name := range setTypes {
			keep[setName(name, f)] = true
		}
	}
	if err := c.sets.Retain(keep); err != nil && !errors.Is(err, ipset.ErrInUse) {
		return err
	}
	return nil
}

// tellReady ends the first fill.
func (c *Controller) tellReady() {
	select {
	case <-c.ready:
	default:
		c.log.Info("services: all programmed", "services", len(c.plan.services), "virtualServers", c.servers.Len(),
			"realServers", c.plan.reals, "took", time.Since(c.started).Round(time.Millisecond))
		close(c.ready)
	}
}

func (c *Controller) sweepSets(names ...string) error {
	wanted := map[string]func(ipset.Entry) bool{
		portSet: func(e ipset.Entry) bool { v := c.virtualAt(e); return v.server != nil },
		dropSet: func(e ipset.Entry) bool { return c.virtualAt(e).drop },
		vipSet: func(e ipset.Entry) bool {
			_, ok := c.plan.vips.granted(e.Prefix.Addr())
			return ok
		},
		hairpinSet: func(e ipset.Entry) bool {
			_, ok := c.plan.hairpins.granted(e)
			return ok
		},
	}
	for _, name := range names {
		if err := c.sweepSet(name, wanted[name]); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) virtualAt(e ipset.Entry) virtual {
	v, _ := c.plan.virtuals.granted(ipvs.ID{Protocol: e.Protocol, Addr: netip.AddrPortFrom(e.Prefix.Addr(), e.Port)})
	return v
}
