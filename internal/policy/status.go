package policy

import (
	"time"

	"github.com/kube-router/kube-router/internal/reconcile"
)

// Status is what the controller does and what it could not do yet.
type Status struct {
	// Policies counts those of the cluster, Isolated the Pods of this node that
	// one of them isolates, Chains and Sets what that takes in the kernel.
	Policies, Isolated, Chains, Sets int
	// Pending is what is not done, longest first.
	Pending  []reconcile.Work
	LastSync time.Time
	// Repairs counts what resyncs had to repair.
	Repairs uint64
}

// Status returns the present state.
func (c *Controller) Status() Status {
	c.mu.Lock()
	s := c.status
	s.Policies = c.state.policyCount()
	c.mu.Unlock()
	s.Pending = c.queue.Work()
	return s
}

// updateStatus publishes what belongs to the goroutine of Run.
func (c *Controller) updateStatus() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.LastSync = time.Now()
	c.status.Isolated, c.status.Chains, c.status.Sets = 0, 0, 0
	for _, p := range c.plans {
		for _, place := range p.places {
			if place.isolated() {
				c.status.Isolated++
			}
		}
		c.status.Chains += len(p.chains)
		c.status.Sets += len(p.sets)
	}
}

// Summary counts what a whole cluster compiles to.
type Summary struct{ Policies, Chains, Rules, Sets, Entries int }

// Compile compiles everything in memory, as Run does first, and hands nothing
// to the kernel: for measuring. A Controller that compiled must not run.
func (c *Controller) Compile() Summary {
	made := Summary{Policies: c.Status().Policies}
	wants, _ := c.compile(dirt{all: true}) // the links matter to no count
	for _, w := range wants {
		made.Sets += len(w.missing) + 2
		made.Entries += len(w.local) + len(w.isolated)
		for _, set := range w.missing {
			made.Entries += len(set.Entries)
		}
	}
	for _, p := range c.plans {
		made.Chains += len(p.chains)
		for _, rules := range p.chains {
			made.Rules += len(rules)
		}
	}
	return made
}
