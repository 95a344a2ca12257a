package policy

import (
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// Progress tells how far the work is, without waiting for it.
func (c *Controller) Progress() reconcile.Progress { return c.queue.Progress() }

// Work is what is not done, longest first, told without waiting for it.
func (c *Controller) Work() []reconcile.Work { return c.queue.Work() }

// Counts are the policies of the cluster and the Pods of this node, and those
// of them that are in force in the kernel.
func (c *Controller) Counts() []reconcile.Count {
	c.mu.Lock()
	policies, pods := c.state.policyCount(), 0
	for _, some := range c.state.local {
		pods += len(some)
	}
	c.mu.Unlock()
	counts := []reconcile.Count{{Kind: "policies", Desired: policies}, {Kind: "pods", Desired: pods}}
	select {
	case <-c.ready:
		for i, kind := range []kind{policyKind, podKind} {
			waiting := c.queue.Count(func(k key) bool { return k.kind == kind })
			counts[i].Programmed = max(0, counts[i].Desired-waiting)
		}
	default:
	}
	return counts
}

// Listed is a policy as this node enforces it.
type Listed struct {
	cluster.Key
	// Ingress and Egress are the directions in which it isolates Pods.
	Ingress, Egress bool
	// Pods are those of this node that it isolates. Without any, no rule of the
	// kernel is about the policy.
	Pods []cluster.Key
	// Refused says what of the policy is left out, and why.
	Refused []string
	// Pending is set where the kernel does not have it as it is now.
	Pending *reconcile.Work
}

// List returns the policies of the cluster, by name.
func (c *Controller) List() []Listed {
	pending := map[string]reconcile.Work{}
	for _, w := range c.queue.Work() {
		pending[w.What] = w
	}
	all, everything := pending[rulesKey.String()]
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Listed
	for _, some := range c.state.policies {
		for k, p := range some {
			l := Listed{Key: k, Ingress: p.IsolatesIngress, Egress: p.IsolatesEgress, Refused: p.Problems, Pods: c.state.isolatedBy(p)}
			if w, ok := pending[key{kind: policyKind, name: k}.String()]; ok {
				l.Pending = &w
			} else if everything {
				l.Pending = &all
			}
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b Listed) int { return compareKeys(a.Key, b.Key) })
	return list
}

// isolatedBy are the Pods of this node that a policy selects, by name.
func (s *state) isolatedBy(p *cluster.NetworkPolicy) []cluster.Key {
	var pods []cluster.Key
	for k, pod := range s.local[p.Namespace] {
		if p.Pods.Matches(pod.Labels) {
			pods = append(pods, k)
		}
	}
	slices.SortFunc(pods, compareKeys)
	return pods
}

// Sets are the IP sets of policies.
func (c *Controller) Sets() []ipset.Listed { return c.sets.List() }
