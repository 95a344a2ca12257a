package watch

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kube-router/kube-router/internal/cluster"
)

// The times of an election, those that Kubernetes' own components use. A holder
// that could not renew its lease for renewDeadline stops, some time before
// others may take it, leaseDuration after they saw the last renewal.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	leaseRetry    = 2 * time.Second
	// releaseTimeout is how long giving the lease up may take at the end.
	releaseTimeout = 2 * time.Second
)

// Lead takes part in the election for a lease, until ctx ends. Whenever this
// agent holds the lease, it calls lead with a context that ends when the lease
// is lost; it gives the lease up only when lead has returned.
//
// The algorithm is that of client-go's package leaderelection, which brings the
// clients of every kind of Kubernetes with it: half as much again of program,
// and twenty megabytes of memory in each agent.
func (c *Client) Lead(ctx context.Context, lease cluster.Key, identity string, lead func(context.Context)) {
	e := &election{
		client: c.clients[coordinationv1.SchemeGroupVersion], key: lease, identity: identity, log: c.log,
	}
	for ctx.Err() == nil {
		if e.acquire(ctx) {
			e.hold(ctx, lead)
		}
	}
}

// election is this agent's view of a lease. It belongs to one goroutine.
type election struct {
	client   rest.Interface
	key      cluster.Key
	identity string
	log      *slog.Logger

	// lease is how it was last seen, and seen when it was first seen so. Clocks
	// of nodes differ, so times are never compared with those in it.
	lease *coordinationv1.Lease
	seen  time.Time
	// renewed is when the request was made that took or renewed the lease last.
	renewed time.Time
	said    string // the failure that was logged last
}

// acquire waits until this agent holds the lease. It is false when ctx ended.
func (e *election) acquire(ctx context.Context) bool {
	for {
		e.renewed = time.Now()
		attempt, cancel := context.WithTimeout(ctx, renewDeadline)
		holds, err := e.try(attempt)
		cancel()
		if ctx.Err() != nil {
			return false
		}
		e.report(err)
		if holds {
			return true
		}
		pause := leaseRetry
		if err == nil {
			// Those who wait for another holder look when half of its time is
			// over: there may be thousands of them.
			pause = max(pause, min(e.remaining(), leaseDuration)/2)
		}
		if !pauseFor(ctx, pause/2+rand.N(pause)) {
			return false
		}
	}
}

// hold calls lead and renews the lease until it is lost or ctx ends.
func (e *election) hold(ctx context.Context, lead func(context.Context)) {
	term, cancel := context.WithCancel(ctx)
	var led sync.WaitGroup
	led.Go(func() {
		defer cancel()
		lead(term)
	})
	mine := e.renew(term)
	cancel()
	led.Wait()
	if mine {
		e.release(ctx)
	}
}

// renew renews the lease until ctx ends or it is lost, which is false.
func (e *election) renew(ctx context.Context) (mine bool) {
	for {
		if !pauseFor(ctx, leaseRetry) {
			return true
		}
		began := time.Now()
		attempt, cancel := context.WithDeadline(ctx, e.renewed.Add(renewDeadline))
		holds, err := e.try(attempt)
		cancel()
		switch {
		case ctx.Err() != nil:
			return true
		case holds:
			e.renewed = began
		case err == nil, time.Since(e.renewed) >= renewDeadline:
			e.log.Warn("lost the lease", "lease", e.key.String(), "holder", e.holder(), "err", err)
			return false
		}
		e.report(err)
	}
}

// release gives the lease up, so that another agent need not wait for its end.
func (e *election) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := e.get(ctx); err != nil || e.holder() != e.identity {
		return
	}
	if err := e.update(ctx, "", time.Second); err != nil {
		e.log.Info("the lease is not given up; it ends by itself", "lease", e.key.String(), "err", err)
	}
}

// try takes the lease or renews it, and says whether this agent holds it now.
// The error says why that is not known.
func (e *election) try(ctx context.Context) (holds bool, err error) {
	if e.lease != nil && e.holder() == e.identity {
		if e.update(ctx, e.identity, leaseDuration) == nil {
			return true, nil
		}
	}
	err = e.get(ctx)
	switch {
	case apierrors.IsNotFound(err):
		return e.outcome(e.create(ctx))
	case err != nil:
		return false, err
	case e.holder() != "" && e.holder() != e.identity && e.remaining() > 0:
		return false, nil
	}
	return e.outcome(e.update(ctx, e.identity, leaseDuration))
}

// outcome is that of a write: another agent may have been faster.
func (e *election) outcome(err error) (holds bool, _ error) {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	return err == nil, err
}

// holder is who held the lease when it was last seen; empty is nobody.
func (e *election) holder() string {
	if e.lease == nil || e.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *e.lease.Spec.HolderIdentity
}

// remaining is how long the lease is valid without another renewal.
func (e *election) remaining() time.Duration {
	if e.lease == nil || e.lease.Spec.LeaseDurationSeconds == nil || e.holder() == "" {
		return 0
	}
	return time.Until(e.seen.Add(time.Duration(*e.lease.Spec.LeaseDurationSeconds) * time.Second))
}

// see takes note of a lease that the API server gave. An unchanged one stays as
// old as it is.
func (e *election) see(lease *coordinationv1.Lease) {
	if e.lease == nil || e.lease.UID != lease.UID || e.lease.ResourceVersion != lease.ResourceVersion {
		e.seen = time.Now()
	}
	e.lease = lease
}

func (e *election) get(ctx context.Context) error {
	var lease coordinationv1.Lease
	err := e.client.Get().Namespace(e.key.Namespace).Resource("leases").Name(e.key.Name).Do(ctx).Into(&lease)
	if err == nil {
		e.see(&lease)
	}
	return err
}

func (e *election) create(ctx context.Context) error {
	now := metav1.NowMicro()
	seconds, transitions := int32(leaseDuration/time.Second), int32(0)
	var created coordinationv1.Lease
	err := e.client.Post().Namespace(e.key.Namespace).Resource("leases").Body(&coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.key.Namespace, Name: e.key.Name},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &e.identity, LeaseDurationSeconds: &seconds,
			AcquireTime: &now, RenewTime: &now, LeaseTransitions: &transitions,
		},
	}).Do(ctx).Into(&created)
	if err == nil {
		e.see(&created)
	}
	return err
}

// update writes the lease over the one that was last seen, and over no other.
func (e *election) update(ctx context.Context, holder string, valid time.Duration) error {
	lease := e.lease.DeepCopy()
	now, seconds := metav1.NowMicro(), int32(valid/time.Second)
	if holder != "" && holder != e.holder() {
		transitions := int32(1)
		if t := lease.Spec.LeaseTransitions; t != nil {
			transitions = *t + 1
		}
		lease.Spec.AcquireTime, lease.Spec.LeaseTransitions = &now, &transitions
	}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &holder, &seconds, &now
	var updated coordinationv1.Lease
	err := e.client.Put().Namespace(e.key.Namespace).Resource("leases").Name(e.key.Name).Body(lease).Do(ctx).Into(&updated)
	if err == nil {
		e.see(&updated)
	}
	return err
}

// report logs a failure that is not the one before.
func (e *election) report(err error) {
	said := ""
	if err != nil {
		said = string(apierrors.ReasonForError(err)) + "!"
	}
	if said == e.said {
		return
	}
	e.said = said
	switch {
	case err == nil:
		e.log.Info("the lease can be had again", "lease", e.key.String())
	case apierrors.IsForbidden(err):
		e.log.Warn("cannot take part in the election: let a Role of this agent get, create and update leases", "lease", e.key.String(), "err", err)
	default:
		e.log.Warn("cannot take part in the election, trying until it can", "lease", e.key.String(), "err", err)
	}
}

// pauseFor waits. It is false when ctx ended.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
