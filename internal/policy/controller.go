// Package policy is the controller of NetworkPolicies: iptables chains for the
// Pods of this node that policies isolate, and IP sets for their peers.
//
// A Pod elsewhere is an entry of sets: its coming and going changes entries and
// no rule. Rules change with the policies and with the Pods of this node.
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

// Config is what the operator decides.
type Config struct {
	// NodeName is the name of this node's Node object.
	NodeName string
	// Families are the enabled address families.
	Families []inet.Family
	// ServiceRanges are the cluster's ranges of Service addresses, NodePorts
	// its range of node ports.
	ServiceRanges []netip.Prefix
	NodePorts     PortRange
	// SyncPeriod is how often the kernel is read back and drift repaired; 0 is
	// never.
	SyncPeriod time.Duration
	// Synced is told how long each round of changes took; nil is allowed.
	Synced func(time.Duration)
}

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }

// Drivers are the kernel, as the controller sees it.
type Drivers struct {
	Sets ipset.Interface
	// Rules has the Ruleset of each enabled family, shared by the controllers.
	Rules map[inet.Family]*iptables.Ruleset
}

// Controller keeps the kernel's packet filter as the policies want it.
type Controller struct {
	config Config
	rules  map[inet.Family]*iptables.Ruleset
	sets   *ipset.Sets
	log    *slog.Logger
	queue  *reconcile.Queue[key]
	ready  chan struct{}

	mu     sync.Mutex
	state  *state
	status Status

	// What follows belongs to the goroutine of Run.
	outputs    map[inet.Family]*output // in the kernel
	programmed bool
	complaint  reconcile.Complaints
}

// key is dirty work: an address whose place in the peers' sets may have
// changed, or one of the two below.
type key struct {
	addr   netip.Addr
	rules  bool // everything: policies or Pods of this node have changed
	resync bool // read the kernel back
}

// String is "address 10.244.1.7", "rules" or "resync".
func (k key) String() string {
	switch {
	case k.rules:
		return "rules"
	case k.resync:
		return "resync"
	}
	return "address " + k.addr.String()
}

var (
	rulesKey  = key{rules: true}
	resyncKey = key{resync: true}
)

// New returns a Controller that follows the Pods, Namespaces and
// NetworkPolicies of feeds.
func New(config Config, feeds *cluster.Feeds, drivers Drivers, log *slog.Logger) *Controller {
	c := &Controller{
		config: config, rules: drivers.Rules, log: log,
		sets:    ipset.NewSets(drivers.Sets, ownedSets()...),
		queue:   reconcile.NewQueue[key](),
		ready:   make(chan struct{}),
		state:   newState(config.NodeName),
		outputs: map[inet.Family]*output{}, complaint: reconcile.Complaints{},
	}
	feeds.Pods.Subscribe(c.podChanged)
	feeds.Namespaces.Subscribe(c.namespaceChanged)
	feeds.NetworkPolicies.Subscribe(c.policyChanged)
	return c
}

// Ready is closed when everything was programmed once.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

func (c *Controller) podChanged(change cluster.Change[cluster.Pod]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addrs, rules := c.state.setPod(change.Old, change.New)
	if rules || c.status.namedEgress && (hasPorts(change.Old) || hasPorts(change.New)) {
		c.queue.Mark(rulesKey)
	}
	c.markAddrs(addrs)
}

func hasPorts(p *cluster.Pod) bool { return p != nil && len(p.Ports) > 0 }

func (c *Controller) namespaceChanged(change cluster.Change[cluster.Namespace]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.markAddrs(c.state.setNamespace(change.Old, change.New))
}

func (c *Controller) policyChanged(change cluster.Change[cluster.NetworkPolicy]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.setPolicy(change.Old, change.New)
	c.queue.Mark(rulesKey)
}

func (c *Controller) markAddrs(addrs []netip.Addr) {
	for _, addr := range addrs {
		c.queue.Mark(key{addr: addr})
	}
}

// Run programs all policies, and then every change, until ctx ends. What is
// programmed stays.
func (c *Controller) Run(ctx context.Context) error {
	c.queue.Mark(rulesKey)
	go reconcile.Every(ctx, c.config.SyncPeriod, func() { c.queue.Mark(resyncKey) })
	for {
		keys := c.queue.Take(ctx)
		if keys == nil {
			return nil
		}
		began := time.Now()
		c.work(ctx, keys)
		if c.config.Synced != nil {
			c.config.Synced(time.Since(began))
		}
	}
}

// work settles the keys: all of them by compiling anew where rules may have
// changed, else each address on its own.
func (c *Controller) work(ctx context.Context, keys []key) {
	var rules, resync bool
	for _, k := range keys {
		rules, resync = rules || k.rules, resync || k.resync
	}
	var err error
	if rules || !c.programmed {
		err = c.program(ctx)
	} else {
		err = c.place(keys)
	}
	if err == nil && resync {
		err = c.resync(ctx)
	}
	if ctx.Err() == nil {
		c.complain(err)
	}
	for _, k := range keys {
		c.queue.Settle(k, err)
	}
	c.updateStatus()
}

// program compiles everything and makes the kernel follow: first the sets that
// rules match, then the rules, then the sets that no rule matches any more. On
// error what was in force stays so.
func (c *Controller) program(ctx context.Context) error {
	outputs := c.compileAll()
	sets, names := map[string]ipset.Set{}, map[string]bool{}
	for _, o := range outputs {
		maps.Copy(sets, o.sets)
	}
	for name := range sets {
		names[name] = true
	}
	if err := c.sets.PutAll(sets); err != nil {
		return err
	}
	for f, o := range outputs {
		if _, err := c.rules[f].Apply(ctx, o.section()); err != nil {
			return err
		}
	}
	c.outputs = outputs
	if !c.programmed {
		c.programmed = true
		close(c.ready)
		c.log.Info("policy: all policies are programmed")
	}
	return c.sets.Retain(names)
}

func (c *Controller) compileAll() map[inet.Family]*output {
	c.mu.Lock()
	defer c.mu.Unlock()
	outputs := map[inet.Family]*output{}
	c.status.namedEgress = false
	for _, f := range c.config.Families {
		outputs[f] = compile(c.config, c.state, f)
		c.status.namedEgress = c.status.namedEgress || outputs[f].namedEgress
	}
	return outputs
}

// place puts addresses into the peers' sets or takes them out.
func (c *Controller) place(keys []key) error {
	var errs []error
	for f, o := range c.outputs {
		for name, edit := range c.edits(o, f, keys) {
			errs = append(errs, c.sets.Edit(name, edit.add, edit.del))
		}
	}
	return errors.Join(errs...)
}

type edit struct{ add, del []ipset.Entry }

// edits says where the keys' addresses belong now. That an entry is there
// already costs nothing.
func (c *Controller) edits(o *output, f inet.Family, keys []key) map[string]edit {
	c.mu.Lock()
	defer c.mu.Unlock()
	edits := map[string]edit{}
	for name, sel := range o.selectors {
		var e edit
		for _, k := range keys {
			switch {
			case !k.addr.IsValid() || inet.FamilyOf(k.addr) != f:
			case sel.holds(c.state, k.addr):
				e.add = append(e.add, ipset.IP(k.addr))
			default:
				e.del = append(e.del, ipset.IP(k.addr))
			}
		}
		edits[name] = e
	}
	return edits
}

// resync reads the kernel back and repairs what differs.
func (c *Controller) resync(ctx context.Context) error {
	repaired, err := c.sets.Resync()
	errs := []error{err}
	for _, f := range c.config.Families {
		n, err := c.rules[f].Resync(ctx)
		repaired += n
		errs = append(errs, err)
	}
	if repaired > 0 {
		c.log.Warn("policy: repaired what somebody else had changed", "repaired", repaired)
		c.mu.Lock()
		c.status.Repairs += uint64(repaired)
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}

// complain logs a failure when it begins and when it is over.
func (c *Controller) complain(err error) {
	switch began, ended := c.complaint.Change("policies", err); {
	case ended:
		c.log.Info("policy: done after all")
	case began:
		c.log.Error("policy: not programmed; what was in force stays, and it is tried again", "err", err)
	}
}
