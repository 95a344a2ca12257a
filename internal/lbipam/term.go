package lbipam

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// listRetry is how long a new leader waits before it reads the Services again,
// when it could not.
const listRetry = time.Second

// term is one time of being the leader, with its own memory.
type term struct {
	*Controller
	queue *reconcile.Queue[cluster.Key]

	mu sync.Mutex
	// view are the relevant Services; in those that begin reads, nil is one
	// that went meanwhile.
	view map[cluster.Key]*cluster.Service

	// What follows belongs to the goroutine of lead.
	alloc     *allocator
	told      map[cluster.Key]string
	complaint reconcile.Complaints
}

func newTerm(c *Controller) *term {
	return &term{
		Controller: c, queue: reconcile.NewQueue[cluster.Key](), view: map[cluster.Key]*cluster.Service{},
		alloc: newAllocator(c.config.Ranges, c.isOurs), told: map[cluster.Key]string{}, complaint: reconcile.Complaints{},
	}
}

// changed takes note of a change of the feed.
func (t *term) changed(change cluster.Change[cluster.Service]) {
	object := change.New
	if object == nil {
		object = change.Old
	}
	if !relevant(change.Old) && !relevant(change.New) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view[object.Key] = nil
	if relevant(change.New) {
		t.view[object.Key] = change.New
	}
	t.queue.Mark(object.Key)
}

// known is the number of Services, which the feed may be changing.
func (t *term) known() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.view)
}

// begin learns from the API server who has which address. The feed may lag
// behind what the leader before has written last. It is false when ctx ended.
func (t *term) begin(ctx context.Context) bool {
	var list []*cluster.Service
	for {
		list = list[:0]
		err := t.api.ListServices(ctx, func(s *cluster.Service) {
			if relevant(s) {
				list = append(list, s)
			}
		})
		if ctx.Err() != nil {
			return false
		}
		t.complain("the list of Services", err)
		if err == nil {
			break
		}
		wait(ctx, listRetry)
	}
	slices.SortFunc(list, older)
	for _, s := range list {
		t.alloc.set(s)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range list {
		if _, newer := t.view[s.Key]; !newer {
			t.view[s.Key] = s
		}
		t.queue.Mark(s.Key)
	}
	return true
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (t *term) markAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.view {
		t.queue.Mark(key)
	}
}

// run follows the changes until ctx ends.
func (t *term) run(ctx context.Context) {
	for {
		keys := t.queue.Take(ctx)
		if keys == nil {
			return
		}
		began := time.Now()
		t.work(ctx, keys)
		if t.config.Synced != nil {
			t.config.Synced(time.Since(began))
		}
	}
}

// work takes note of all that changed, decides, and only then writes. What the
// writing frees is given at once.
func (t *term) work(ctx context.Context, keys []cluster.Key) {
	t.observe(keys)
	t.serve()
	for _, key := range t.alloc.ordered(keys) {
		err := t.write(ctx, key)
		if ctx.Err() == nil {
			t.complain("the status of "+key.String(), err)
		}
		t.queue.Settle(key, err)
	}
	t.serve()
	t.updateStatus()
}

// observe tells the allocator of the Services as they are now.
func (t *term) observe(keys []cluster.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range keys {
		s, known := t.view[key]
		switch h := t.alloc.holders[key]; {
		case s == nil:
			if known {
				t.alloc.remove(key)
			}
			delete(t.view, key)
			delete(t.told, key)
		case h == nil || h.service != s:
			t.alloc.set(s)
		}
	}
}

// serve lets the allocator decide, and marks those whose status is to change.
func (t *term) serve() {
	for _, h := range t.alloc.serve() {
		t.tell(h)
		if t.alloc.differs(h) {
			t.queue.Mark(h.key)
		}
	}
}

// tell reports once why a Service lacks an address.
func (t *term) tell(h *holder) {
	if h.refusal == "" {
		delete(t.told, h.key)
		return
	}
	if id := h.service.UID + " " + h.refusal; t.told[h.key] != id {
		t.told[h.key] = id
		t.events.Warn("Service", &h.service.Meta, refused, h.refusal)
	}
}

// write makes the status of a Service show what was decided.
func (t *term) write(ctx context.Context, key cluster.Key) error {
	h := t.alloc.holders[key]
	if h == nil {
		return nil
	}
	var err error
	switch {
	case !t.alloc.differs(h):
	case h.served:
		err = t.api.SetLoadBalancerIPs(ctx, &h.service.Meta, h.ingress())
	default:
		err = t.api.ClearLoadBalancerIPs(ctx, &h.service.Meta, h.shown[0])
	}
	if err == nil {
		t.alloc.written(key)
	}
	return err
}

// complain logs a failure when it begins and when it is over.
func (t *term) complain(what string, err error) {
	switch began, ended := t.complaint.Change(what, err); {
	case ended:
		t.log.Info("loadbalancer: done after all", "what", what)
	case began:
		t.log.Warn("loadbalancer: not done yet; it is tried again", "what", what, "err", err)
	}
}

func (t *term) updateStatus() {
	t.Controller.mu.Lock()
	defer t.Controller.mu.Unlock()
	t.status.Services, t.status.Waiting, t.status.Addresses = len(t.alloc.holders), len(t.alloc.waiting), len(t.alloc.uses)
}
