package services

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// batchSize is how many Services are compiled and programmed at a time. More
// would cost no less, but for the memory that they take meanwhile.
const batchSize = 512

// workServices compiles Services and programs what they touch, in batches.
func (c *Controller) workServices(keys []cluster.Key) {
	if !c.begun() {
		c.putAside(keys)
		return
	}
	failed := map[cluster.Key]error{}
	for some := range slices.Chunk(keys, batchSize) {
		c.workBatch(some, failed)
	}
	c.noteDirect()
	c.complainOf(keys, failed)
}

// workBatch does that with one batch.
func (c *Controller) workBatch(keys []cluster.Key, failed map[cluster.Key]error) {
	b := newBatch(c, len(keys))
	for _, k := range keys {
		b.take(k)
	}
	b.run()
	c.settling = time.Now()
	for _, k := range keys {
		err := b.outcome(k)
		if err == nil {
			delete(c.touched, k)
		} else {
			failed[k] = err
		}
		c.queue.Settle(key{stepService, k}, err)
	}
	c.reportConflicts(b)
	if len(c.fed) > 0 {
		c.passOn(keys)
	}
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
		why := "its name comes first"
		if x.own {
			why = "it is its cluster IP"
		}
		c.events.Warn("Service", &service.Meta, "AddressInUse", fmt.Sprintf(
			"%s port %d/%s belongs to Service %s as well, which is served there because %s; "+
				"give one of them another address or port", x.id.Addr.Addr(), x.id.Addr.Port(), x.id.Protocol, x.winner, why))
	}
}

// batch is a number of Services on their way into the kernel. Its resources
// are the union of what they touch, each with the error that it met.
type batch struct {
	*Controller
	*resources
	scratch        *desired // of one Service after the other: the plan keeps none
	failedVirtuals map[ipvs.ID]error
	failedVIPs     map[netip.Addr]error
	failedHairpins map[ipset.Entry]error
}

func newBatch(c *Controller, services int) *batch {
	return &batch{
		Controller: c, resources: newResources(services), scratch: newDesired(),
		failedVirtuals: map[ipvs.ID]error{}, failedVIPs: map[netip.Addr]error{}, failedHairpins: map[ipset.Entry]error{},
	}
}

// take compiles a Service into the plan, and notes what it touches and what it
// touched before without success.
func (b *batch) take(k cluster.Key) {
	var want *desired
	delete(b.starved, k)
	service, slices := b.state.get(k)
	if service != nil {
		var problems []problem
		want, problems = b.compiler.compileInto(b.scratch.empty(), service, slices, b.me)
		for _, p := range problems {
			b.events.Warn(p.kind, p.object, p.reason, p.message)
		}
	}
	b.tellHealth(k, service, want)
	ids := b.plan.datagrams(k, want)
	before := b.plan.served(ids)
	t := b.plan.set(k, want).and(b.touched[k])
	b.noteFlows(staleFlows(before, b.plan.served(ids)))
	b.touched[k] = t
	b.resources.add(t)
}

// run brings the kernel in line. What lets packets through comes after what
// takes them, and goes before it, so that none of them reaches the host.
func (b *batch) run() {
	add, del := b.hairpinEdits()
	b.edit(hairpinSet, add, nil, b.hairpinFailed)
	b.reflect(add)
	allow, deny := b.sourceEdits()
	b.edit(sourceSet, allow, nil, b.portFailed)
	b.restrict()
	b.makeRoutes()
	b.closePorts()
	b.program()
	b.openPorts()
	b.removeRoutes()
	b.edit(sourceSet, nil, deny, b.portFailed)
	b.edit(hairpinSet, nil, del, b.hairpinFailed)
	b.noteSources()
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
