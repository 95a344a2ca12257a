package services

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// sweep removes what a former run left and nobody wants: in the order in which
// a Service is removed. All Services have been compiled by then, so that what
// is not in the plan is not wanted, even where something failed.
func (c *Controller) sweep() error {
	defer c.tellReady()
	if err := c.sweepSets(portSet, dropSet, insideSet, tunnelSet); err != nil {
		return err
	}
	c.forgetMarks()
	for id, err := range c.servers.Retain(c.wanted) {
		return fmt.Errorf("a virtual server of a former run, %s: %w", id, err)
	}
	for k, err := range c.routes.Retain(func(k route.Key) bool {
		_, ok := c.plan.vips.granted(k.Dst.Addr())
		return ok
	}) {
		return fmt.Errorf("a route of a former run, %s: %w", k.Dst, err)
	}
	if err := c.sweepSets(vipSet, hairpinSet, limitSet, sourceSet); err != nil {
		return err
	}
	clear(c.adopted)
	clear(c.formerPorts)
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
		c.drivers.Health.Healthy(true)
		close(c.ready)
	}
}

func (c *Controller) sweepSets(names ...string) error {
	wanted := map[string]func(ipset.Entry) bool{
		portSet:  func(e ipset.Entry) bool { return c.virtualAt(e).server != nil },
		dropSet:  func(e ipset.Entry) bool { return c.virtualAt(e).drop },
		limitSet: func(e ipset.Entry) bool { return c.virtualAt(e).restricted() },
		sourceSet: func(e ipset.Entry) bool {
			v := c.virtualAt(e)
			return v.restricted() && slices.Contains(v.sources(), netip.PrefixFrom(e.Second, int(e.SecondBits)))
		},
		insideSet: func(e ipset.Entry) bool { return c.wantedMark(e, inside) },
		tunnelSet: func(e ipset.Entry) bool { return c.wantedMark(e, tunnelled) },
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
	v, _ := c.plan.virtuals.granted(entryID(e))
	return v
}

// wanted says that a virtual server is to be.
func (c *Controller) wanted(id ipvs.ID) bool {
	if id.Mark != 0 {
		_, ok := c.marks.by[id]
		return ok
	}
	v, _ := c.plan.virtuals.granted(id)
	return v.server != nil
}
