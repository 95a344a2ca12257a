package lbipam

import (
	"time"

	"github.com/kube-router/kube-router/internal/reconcile"
)

// Progress tells when the last round of work ended. It is never Busy: the work
// is to ask the API server, whose outages an agent must outlive.
func (c *Controller) Progress() reconcile.Progress {
	t := c.leading()
	if t == nil {
		return reconcile.Progress{}
	}
	p := t.queue.Progress()
	p.Busy = time.Time{}
	return p
}

// Work is what is not done, longest first: "service default/web".
func (c *Controller) Work() []reconcile.Work {
	t := c.leading()
	if t == nil {
		return nil
	}
	work := t.queue.Work()
	for i := range work {
		work[i].What = "service " + work[i].What
	}
	return work
}

// Counts are the Services that ask this controller for addresses and those that
// have them, while this agent leads.
func (c *Controller) Counts() []reconcile.Count {
	s := c.Status()
	if !s.Leading {
		return nil
	}
	return []reconcile.Count{{Kind: "services", Desired: s.Services, Programmed: s.Services - s.Waiting}}
}
