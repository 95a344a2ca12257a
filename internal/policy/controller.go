// Package policy is the controller of NetworkPolicies.
package policy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/reconcile"
)

type Config struct {
	Node                string
	Families            []inet.Family
	ServiceRanges       []netip.Prefix
	FirstPort, LastPort uint16
	SyncPeriod          time.Duration
}

type Controller struct {
	config Config
	rules  map[inet.Family]*iptables.Ruleset
	sets   *ipset.Sets
	log    *slog.Logger
	queue  *reconcile.Queue[string]
	ready  chan struct{}
	once   sync.Once

	mu    sync.Mutex
	state state
}

func New(config Config, feeds *cluster.Feeds, sets ipset.Interface, rules map[inet.Family]*iptables.Ruleset, log *slog.Logger) *Controller {
	c := &Controller{
		config: config, rules: rules, log: log,
		sets:  ipset.NewSets(sets, "kube-router-isolated", "KUBE-ROUTER-", "inet6:kube-router-isolated", "inet6:KUBE-ROUTER-"),
		queue: reconcile.NewQueue[string](), ready: make(chan struct{}),
		state: state{map[cluster.Key]*cluster.Pod{}, map[string]*cluster.Namespace{}, map[cluster.Key]*cluster.NetworkPolicy{}},
	}
	feeds.Pods.Subscribe(func(ch cluster.Change[cluster.Pod]) {
		c.change(func() { put(c.state.pods, ch.Old, ch.New, func(p *cluster.Pod) cluster.Key { return p.Key }) })
	})
	feeds.Namespaces.Subscribe(func(ch cluster.Change[cluster.Namespace]) {
		c.change(func() { put(c.state.namespaces, ch.Old, ch.New, func(n *cluster.Namespace) string { return n.Name }) })
	})
	feeds.NetworkPolicies.Subscribe(func(ch cluster.Change[cluster.NetworkPolicy]) {
		c.change(func() {
			put(c.state.policies, ch.Old, ch.New, func(p *cluster.NetworkPolicy) cluster.Key { return p.Key })
		})
	})
	return c
}

func put[K comparable, T any](m map[K]*T, old, new *T, key func(*T) K) {
	if new == nil {
		delete(m, key(old))
		return
	}
	m[key(new)] = new
}

func (c *Controller) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	c.queue.Mark("all")
}

func (c *Controller) Ready() <-chan struct{} { return c.ready }

func (c *Controller) Run(ctx context.Context) error {
	c.queue.Mark("all")
	for {
		keys := c.queue.Take(ctx)
		if keys == nil {
			return nil
		}
		err := c.apply(ctx)
		if err != nil {
			c.log.Error("policy: not programmed, will be retried", "err", err)
		} else {
			c.once.Do(func() { close(c.ready) })
		}
		for _, key := range keys {
			c.queue.Settle(key, err)
		}
	}
}

func (c *Controller) apply(ctx context.Context) error {
	sets := map[string]ipset.Set{}
	outputs := map[inet.Family]output{}
	c.mu.Lock()
	for _, f := range c.config.Families {
		outputs[f] = compile(c.config, &c.state, f)
		maps.Copy(sets, outputs[f].sets)
	}
	c.mu.Unlock()
	if err := c.sets.PutAll(sets); err != nil {
		return err
	}
	names := map[string]bool{}
	for name := range sets {
		names[name] = true
	}
	for f, o := range outputs {
		if _, err := c.rules[f].Apply(ctx, o.section()); err != nil {
			return err
		}
	}
	return errors.Join(c.sets.Retain(names))
}
