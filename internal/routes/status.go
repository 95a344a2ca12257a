package routes

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// Status is what the controller does and what it could not do yet.
type Status struct {
	// NodeIP and PodCIDRs are this node's; NodeIP is invalid as long as the
	// node is not known.
	NodeIP   netip.Addr
	PodCIDRs []netip.Prefix
	Peers    []bgp.PeerState
	// Desired counts the kernel's routes that should be there, Learned the
	// prefixes that peers sent, and Unusable are those of them that have no
	// route, by prefix.
	Desired, Learned int
	Unusable         []Unusable
	// Swept says that what a former run left has been cleared up.
	Swept bool
	// Pending is what is not done, longest first.
	Pending  []reconcile.Work
	LastSync time.Time
	// Repairs counts what resyncs had to repair, Changes the kernel's route
	// operations.
	Repairs, Changes uint64
}

// Unusable is a learned prefix without a route in the kernel.
type Unusable struct {
	Prefix netip.Prefix
	Reason string
}

// Status returns the present state.
func (c *Controller) Status() Status {
	c.mu.Lock()
	speaker := c.speaker
	s := Status{
		NodeIP: c.me.primary, PodCIDRs: c.me.podCIDRs(), Desired: len(c.desired),
		Swept: c.swept, LastSync: c.lastSync, Repairs: c.repairs,
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(c.unusable), comparePrefixes) {
		s.Unusable = append(s.Unusable, Unusable{prefix, c.unusable[prefix]})
	}
	c.mu.Unlock()
	if speaker != nil {
		s.Peers, s.Learned = speaker.Peers(), len(speaker.Learned())
	}
	s.Pending = c.queue.Work()
	s.Changes = c.routes.Counters().Changes
	return s
}

func comparePrefixes(a, b netip.Prefix) int {
	if d := a.Addr().Compare(b.Addr()); d != 0 {
		return d
	}
	return a.Bits() - b.Bits()
}
