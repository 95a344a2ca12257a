package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
)

// program compiles what is dirty and makes the kernel follow, each family on its
// own: what fails in one does not keep the other from going on. In the end go
// the sets that no rule matches any more.
func (c *Controller) program(ctx context.Context, d dirt) error {
	wants, err := c.compile(d)
	errs := []error{err}
	keep := map[string]bool{}
	for _, f := range c.families() {
		p := c.plans[f]
		err := c.enforce(ctx, p, wants[f])
		if err == nil {
			p.programmed = true
		} else { // rules of before may match what is not wanted any more
			for _, name := range c.sets.Names() {
				keep[name] = keep[name] || familyOf(name) == f
			}
		}
		maps.Copy(keep, p.wanted())
		errs = append(errs, err)
	}
	c.cutter.forbidden()
	return errors.Join(append(errs, c.sets.Retain(keep))...)
}

// compile brings the plans up to date and returns what they want of the sets.
func (c *Controller) compile(d dirt) (map[inet.Family]want, error) {
	wants, closed, guarded := c.update(d)
	var bridges []string
	var err error
	if guarded {
		bridges, err = c.findBridges()
	}
	for f, p := range c.plans {
		if err != nil {
			bridges = p.bridges // what is closed stays closed
		}
		p.finish(closed[f], bridges)
	}
	return wants, err
}

// update brings the plans up to date with the state, and says what top needs.
func (c *Controller) update(d dirt) (wants map[inet.Family]want, closed map[inet.Family][]netip.Prefix, guarded bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.live {
		c.live = true
		clear(c.state.formerPorts) // no set is older than this
	}
	// The state knows what has changed since the keys were taken. All of it has to
	// be compiled: a policy that some of its Pods do not follow, or that does not
	// follow one of them, would leave jumps to chains that are not there.
	for _, pending := range c.queue.Pending() {
		d.add(pending.Key)
	}
	wants, closed = make(map[inet.Family]want, len(c.plans)), map[inet.Family][]netip.Prefix{}
	for f, p := range c.plans {
		p.update(c.state, d)
		closed[f] = p.closing(c.state)
		wants[f] = want{missing: p.missing(c.state), residents: p.residents(c.state)}
		if p.unguarded && !c.warned[f] {
			c.warned[f] = true
			c.log.Warn("policy: the Node object has no podCIDRs: new pods are open until their rules are in",
				"node", c.config.NodeName, "family", f.String())
		}
	}
	return wants, closed, c.guarded()
}

// want is what a plan wants of the sets: those that the kernel lacks, filled,
// and this node's Pods.
type want struct {
	missing map[string]ipset.Set
	residents
}

// residents are the Pods of this node in one family, by address: all that it
// knows, with whose the address is, and those that a policy isolates.
type residents struct {
	local    map[netip.Addr]cluster.Key
	isolated map[netip.Addr]struct{}
}

// enforce makes the kernel follow a plan: first the sets that rules match, then
// the rules, then the Pods that they are for. On error what was in force stays
// so, and so do the rules of Pods that are known.
func (c *Controller) enforce(ctx context.Context, p *plan, w want) error {
	if p.bare {
		return c.enforceStrays(ctx, p)
	}
	if err := c.prepare(p, w); err != nil {
		return err
	}
	if _, err := c.rules[p.family].Apply(ctx, section(maps.Clone(p.chains))); err != nil {
		return err
	}
	// A Pod counts as known only where it is isolated.
	if err := c.putResidents(p, nil, w.isolated); err != nil {
		return err
	}
	if err := c.putResidents(p, w.local, nil); err != nil {
		return err
	}
	p.inForce = w.residents
	return nil
}

// prepare makes what the rules will match. A Pod is isolated before they are in
// force, at no cost: rules that do not know it let it pass. They may end to
// close what is new, and then it must be there. What ceases to be isolated, and
// a Pod that was not known, come after the rules; an address that has gone, or
// is another Pod's now, is not known any more.
func (c *Controller) prepare(p *plan, w want) error {
	err := c.sets.PutAll(w.missing)
	failed := ipset.SetErrors(err)
	if err != nil && len(failed) == 0 {
		return err
	}
	for name := range w.missing {
		if failed[name] == nil {
			delete(p.fresh, name)
		}
	}
	if err != nil {
		return err
	}
	if p.inForce.local == nil {
		p.inForce = c.adopt(p, w.residents)
	}
	isolated := maps.Clone(p.inForce.isolated)
	maps.Copy(isolated, w.isolated)
	known := maps.Clone(p.inForce.local)
	maps.DeleteFunc(known, func(ip netip.Addr, pod cluster.Key) bool { now, still := w.local[ip]; return !still || now != pod })
	return c.putResidents(p, known, isolated)
}

// adopt is what a former run left in force. Where there was none, no rule asks,
// and all Pods may be known at once.
func (c *Controller) adopt(p *plan, now residents) residents {
	former := residents{local: map[netip.Addr]cluster.Key{}, isolated: map[netip.Addr]struct{}{}}
	if held, ok := c.sets.Held(setName(isolatedSet, p.family)); ok {
		for entry := range held.Entries {
			former.isolated[entry.Prefix.Addr()] = struct{}{}
		}
	}
	held, ok := c.sets.Held(setName(localSet, p.family))
	if !ok {
		former.local = now.local
	}
	for entry := range held.Entries {
		if ip := entry.Prefix.Addr(); now.local[ip] != (cluster.Key{}) {
			former.local[ip] = now.local[ip]
		}
	}
	return former
}

// putResidents fills the sets of this node's Pods; nil leaves one as it is.
func (c *Controller) putResidents(p *plan, local map[netip.Addr]cluster.Key, isolated map[netip.Addr]struct{}) error {
	sets := map[string]ipset.Set{}
	if local != nil {
		sets[setName(localSet, p.family)] = addressSet(p.family, maps.Keys(local))
	}
	if isolated != nil {
		sets[setName(isolatedSet, p.family)] = addressSet(p.family, maps.Keys(isolated))
	}
	return c.sets.PutAll(sets)
}

// enforceStrays makes the kernel follow a plan without sets.
func (c *Controller) enforceStrays(ctx context.Context, p *plan) error {
	var err error
	if len(p.chains) > 0 {
		err = c.askOnBridges(p.family)
	}
	if err == nil {
		_, err = c.rules[p.family].Apply(ctx, section(maps.Clone(p.chains)))
	}
	if err != nil {
		return fmt.Errorf("pods of one bridge may reach each other by link-local addresses past their policies: %w", err)
	}
	return nil
}

// wanted names all sets.
func (p *plan) wanted() map[string]bool {
	if p.bare {
		return nil
	}
	names := map[string]bool{setName(isolatedSet, p.family): true, setName(localSet, p.family): true}
	for name := range p.sets {
		names[name] = true
	}
	return names
}
