package policy

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// dropsEvery is how old a reading of the counters may be: it costs a run of
// iptables-save.
const dropsEvery = 10 * time.Second

// Drop names what a policy denies: new connections' packets of a direction, as
// its Pods see it ("ingress" or "egress").
type Drop struct {
	Policy    cluster.Key
	Direction string
}

// Drops are the packets denied since the agent's start.
type Drops struct {
	// Policies has those that were denied while the policy isolated the Pod. A
	// packet counts for each policy that did: none of them allowed it. Policies
	// that are gone are not listed.
	Policies map[Drop]uint64
	// NewPods are those of Pods that were closed, as the node did not know them
	// yet.
	NewPods uint64
	// Strays are those that Pods of a bridge sent past their own addresses.
	Strays uint64
}

// drops counts denied packets by the counters of the rules that deny.
type drops struct {
	mu     sync.Mutex
	began  bool // the counters of before the agent's start are known
	read   time.Time
	err    error
	last   map[ruleID]uint64 // counters of the kernel when they were read
	totals Drops
}

// ruleID is a rule that denies. A chain has one.
type ruleID struct {
	family      inet.Family
	chain, rule string
}

// Drops returns how many packets were denied. The kernel is read for it, but
// not more often than every 10 seconds; on error what was last read is
// returned as well.
func (c *Controller) Drops(ctx context.Context) (Drops, error) {
	c.drops.mu.Lock()
	defer c.drops.mu.Unlock()
	if !c.drops.began || time.Since(c.drops.read) >= dropsEvery {
		c.drops.err = c.readDrops(ctx)
		c.drops.read = time.Now()
	}
	c.forgetDrops()
	d := c.drops.totals
	d.Policies = maps.Clone(d.Policies)
	return d, c.drops.err
}

// beginDrops reads what was counted before this agent was there, which is not
// counted again.
func (c *Controller) beginDrops(ctx context.Context) {
	if !c.config.CountDrops {
		return
	}
	c.drops.mu.Lock()
	defer c.drops.mu.Unlock()
	if !c.drops.began {
		c.drops.err = c.readDrops(ctx)
	}
}

// readDrops adds what was counted since the last reading.
func (c *Controller) readDrops(ctx context.Context) error {
	d := &c.drops
	now := map[ruleID]uint64{}
	var errs []error
	for _, f := range c.families() {
		if c.plans[f].bare && c.rules[f].RuleCount(RulesOwner)[iptables.Filter] == 0 {
			continue // nothing to run a program for
		}
		errs = append(errs, c.rules[f].Counters(ctx, iptables.Filter, func(chain, rule string, packets uint64) {
			if denies(chain, rule) {
				now[ruleID{f, chain, rule}] += packets
			}
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if d.began {
		c.addDrops(now)
	}
	d.last, d.began = now, true
	return nil
}

// newPodComment marks the rules that drop what belongs to Pods that are not
// known yet.
const newPodComment = `--comment "new pod"`

// denies recognises the rules that deny: REJECT in the chain of a group of
// Pods, and DROP for new ones and for strays.
func denies(chain, rule string) bool {
	switch iptables.Target(rule) {
	case "REJECT":
		return strings.HasPrefix(chain, podPrefix) && chain != cutChain
	case "DROP":
		return chain == bridgeChain || strings.Contains(rule, newPodComment)
	}
	return false
}

// addDrops adds the differences to the last reading. A counter that is lower
// than before has begun anew with its rule.
func (c *Controller) addDrops(now map[ruleID]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &c.drops
	for id, packets := range now {
		if last := d.last[id]; packets >= last {
			packets -= last
		}
		if packets == 0 {
			continue
		}
		g := c.plans[id.family].groups[id.chain]
		if g == nil {
			switch {
			case id.chain == bridgeChain:
				d.totals.Strays += packets
			case strings.Contains(id.rule, newPodComment):
				d.totals.NewPods += packets
			}
			continue
		}
		for _, key := range g.policies {
			d.totals.Policies[Drop{key, g.direction.String()}] += packets
		}
	}
}

// forgetDrops forgets the policies that are gone.
func (c *Controller) forgetDrops() {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.drops.totals.Policies, func(d Drop, _ uint64) bool { return c.state.policy(d.Policy) == nil })
}
