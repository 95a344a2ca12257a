// Package lbipam gives Services of type LoadBalancer their addresses. One agent
// of the cluster does so at a time, the one that holds a lease; all others hold
// nothing of it in memory.
package lbipam

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// Class is the spec.loadBalancerClass of Services that ask for this controller
// by name.
const Class = "kube-router"

// defaultClass is what a Service may write instead of no class.
const defaultClass = "default"

// leaseName is the Lease that makes one agent the leader.
const leaseName = "kube-router-lballoc"

// refused is the reason of the Events about addresses that a Service lacks.
const refused = "NoLoadBalancerIP"

// Config is what the operator decides.
type Config struct {
	// Ranges are the addresses to give out.
	Ranges []netip.Prefix
	// DefaultClass says that Services without a class are served as well.
	DefaultClass bool
	// Namespace is where the Lease is, Identity who holds it: the Pod's name.
	Namespace, Identity string
	// SyncPeriod is how often all Services are looked at again; 0 is never.
	SyncPeriod time.Duration
	// Synced is told how long each round of changes took; nil is allowed.
	Synced func(time.Duration)
}

// API is the API server, as the controller sees it.
type API interface {
	// Lead calls lead whenever this agent becomes the holder of a lease, until
	// ctx ends. The context of lead ends when the lease is lost, and nobody
	// else holds it before lead had the time to return.
	Lead(ctx context.Context, lease cluster.Key, identity string, lead func(context.Context))
	// ListServices reads all Services as they are now, not as they were when
	// some cache last heard of them.
	ListServices(ctx context.Context, each func(*cluster.Service)) error
	// SetLoadBalancerIPs writes the status of the very Service, by UID. One
	// that is gone, or no longer of type LoadBalancer, is left alone.
	SetLoadBalancerIPs(ctx context.Context, service *cluster.Meta, addrs []netip.Addr) error
	// ClearLoadBalancerIPs empties the status of the very Service where it
	// shows the address. One that does not, or is gone, is left alone.
	ClearLoadBalancerIPs(ctx context.Context, service *cluster.Meta, shown netip.Addr) error
}

// Controller gives addresses to Services while it is the leader.
type Controller struct {
	config Config
	api    API
	events cluster.Reporter
	log    *slog.Logger
	ready  chan struct{}

	mu     sync.Mutex
	term   *term // nil while another agent leads
	status Status
}

// New returns a Controller that follows the Services of feeds.
func New(config Config, feeds *cluster.Feeds, api API, events cluster.Reporter, log *slog.Logger) *Controller {
	c := &Controller{config: config, api: api, events: events, log: log, ready: make(chan struct{})}
	feeds.Services.Subscribe(func(change cluster.Change[cluster.Service]) {
		if t := c.leading(); t != nil {
			t.changed(change)
		}
	})
	return c
}

func (c *Controller) leading() *term {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term
}

// Ready is closed when the controller takes part in the election: a node has
// nothing to wait for.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run gives addresses whenever this agent leads, until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	close(c.ready)
	lease := cluster.Key{Namespace: c.config.Namespace, Name: leaseName}
	c.api.Lead(ctx, lease, c.config.Identity, c.lead)
	return nil
}

// lead is one term of leadership. It knows nothing of an earlier one.
func (c *Controller) lead(ctx context.Context) {
	t := newTerm(c)
	c.setTerm(t)
	defer c.setTerm(nil)
	if !t.begin(ctx) {
		return
	}
	c.log.Info("loadbalancer: this agent gives out the addresses", "services", t.known())
	var helpers sync.WaitGroup
	defer helpers.Wait()
	helpers.Go(func() { reconcile.Every(ctx, c.config.SyncPeriod, t.markAll) })
	t.run(ctx)
	c.log.Info("loadbalancer: this agent no longer gives out the addresses")
}

func (c *Controller) setTerm(t *term) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term = t
	c.status = Status{Leading: t != nil}
}

func (c *Controller) isOurs(class string) bool {
	return class == Class || c.config.DefaultClass && (class == "" || class == defaultClass)
}

// Status is what the controller does and what it could not do yet.
type Status struct {
	// Leading says that this agent gives out the addresses. All else is 0 where
	// another one does.
	Leading bool
	// Services counts those that are served or name an address of the ranges,
	// Waiting those that lack an address, Addresses what is in use of the ranges.
	Services, Waiting, Addresses int
	// Pending is what is not done, longest first.
	Pending []reconcile.Work
}

// Status returns the present state.
func (c *Controller) Status() Status {
	c.mu.Lock()
	s, t := c.status, c.term
	c.mu.Unlock()
	if t != nil {
		s.Pending = t.queue.Work()
	}
	return s
}
