package services

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/kube-router/kube-router/internal/reconcile"
)

// Status is what the controller does and what it could not do yet.
type Status struct {
	// NodeAddrs are the addresses that node ports are served at, empty as long
	// as the node is not known.
	NodeAddrs []netip.Addr
	// IPVS says that the kernel's IPVS is open.
	IPVS bool
	// What is desired: Services, virtual and real servers, and addresses that
	// are the host's only for them.
	Services, VirtualServers, RealServers, Addresses int
	// FailedServers are the virtual servers of which a change failed last.
	FailedServers int
	// Pending is what is not done, longest first.
	Pending  []reconcile.Work
	LastSync time.Time
	// Repairs counts what resyncs had to repair, Changes all that was changed
	// in the kernel but sysctls.
	Repairs, Changes uint64
}

// Status returns the present state.
func (c *Controller) Status() Status {
	c.mu.Lock()
	s := c.status
	c.mu.Unlock()
	s.Pending = c.queue.Work()
	return s
}

// updateStatus publishes what belongs to the goroutine of Run.
func (c *Controller) updateStatus() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.NodeAddrs = c.me.addrs
	c.status.Services, c.status.RealServers, c.status.Addresses = len(c.plan.services), c.plan.reals, len(c.plan.vips)
	c.status.Changes = c.ruleChanges + c.routes.Counters().Changes + c.sets.Counters().Changes
	if c.servers != nil {
		c.status.IPVS = true
		c.status.VirtualServers = c.servers.Len()
		c.status.FailedServers = c.servers.Failed()
		c.status.Changes += c.servers.Counters().Changes
	}
	if c.begun() {
		c.begunAs = c.me
	}
}

// repairRoutes reads the local routes back and repairs them.
func (c *Controller) repairRoutes() error {
	if !c.done[stepSweep] {
		return nil
	}
	repaired, err := c.routes.Resync()
	c.repaired("routes", repaired)
	return err
}

// resync reads everything back and repairs it.
func (c *Controller) resync(ctx context.Context) error {
	if !c.done[stepSweep] {
		return nil // the first fill does not wait for a resync
	}
	servers, serversErr := c.servers.Resync()
	c.repaired("virtual servers", servers)
	routesErr := c.repairRoutes()
	sets, setsErr := c.sets.Resync()
	c.repaired("sets", sets)
	errs := []error{serversErr, routesErr, setsErr, c.preparePlatform()}
	for _, f := range c.config.Families {
		if rules := c.drivers.Rules[f]; rules != nil {
			n, err := rules.Resync(ctx, rulesOwner)
			c.repaired("rules", n)
			errs = append(errs, err)
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		c.mu.Lock()
		c.status.LastSync = time.Now()
		c.mu.Unlock()
	}
	return err
}

// repaired counts what a resync found other than it should be.
func (c *Controller) repaired(what string, n int) {
	if n == 0 {
		return
	}
	c.log.Warn("services: somebody else changed the kernel's state; repaired", "what", what, "count", n)
	c.mu.Lock()
	c.status.Repairs += uint64(n)
	c.mu.Unlock()
}
