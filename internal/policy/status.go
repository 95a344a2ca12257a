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

	// namedEgress says that the named ports of any Pod may matter.
	namedEgress bool
}

// Status returns the present state.
func (c *Controller) Status() Status {
	c.mu.Lock()
	s := c.status
	s.Policies = len(c.state.policies)
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
	for f, o := range c.outputs {
		c.status.Isolated += len(o.sets[setName(isolatedSet, f)].Entries)
		c.status.Chains += len(o.chains)
		c.status.Sets += len(o.sets)
	}
}
