// Package policy is the controller of NetworkPolicies: iptables chains for the
// Pods of this node that policies isolate, and IP sets for their peers.
//
// A Pod elsewhere is an entry of sets: its coming and going changes entries and
// no rule. Rules change with the policies and with the Pods of this node, and
// then those rules only.
package policy

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// Config is what the operator decides.
type Config struct {
	// NodeName is the name of this node's Node object.
	NodeName string
	// Families are the enabled address families.
	Families []inet.Family
	// ServiceRanges are the cluster's ranges of cluster IPs; none where our own
	// proxy says what Services have.
	ServiceRanges []netip.Prefix
	// ExternalRanges and NodePorts are the ranges of Services' other addresses
	// and of node ports. They pass where nobody can tell which of them are in
	// use, and are empty where the proxy accepts its own before policies.
	ExternalRanges []netip.Prefix
	NodePorts      PortRange
	// Bridges are the links that are known to have this node's Pods before it
	// has any.
	Bridges []string
	// NewPods says which Pods of this node are closed until their rules are in.
	NewPods NewPods
	// CutFlows ends established flows that the policies do not allow any more.
	CutFlows bool
	// CountDrops says that Drops will be asked for.
	CountDrops bool
	// SyncPeriod is how often the kernel is read back and drift repaired; 0 is
	// never.
	SyncPeriod time.Duration
	// Synced is told how long each round of changes took; nil is allowed.
	Synced func(time.Duration)
	// Landed is told how long a change of the cluster took to reach
	// the kernel, from when it was heard of; nil is allowed.
	Landed func(time.Duration)
}

// NewPods is a mode of closing Pods that this node does not know yet.
type NewPods uint8

// The modes. Selected closes them while a Pod is expected that a policy
// isolates, Closed always, also while the agent is down as long as the kernel
// keeps the rules, and Open never.
const (
	Selected NewPods = iota
	Closed
	Open
)

// PortRange is an inclusive range of ports, empty where it is zero.
type PortRange struct{ First, Last uint16 }

func (r PortRange) empty() bool { return r.Last == 0 }

func (r PortRange) contains(port uint16) bool {
	return !r.empty() && r.First <= port && port <= r.Last
}

// Drivers are the kernel, as the controller sees it.
type Drivers struct {
	Sets ipset.Interface
	// Rules has the Ruleset of each enabled family, shared by the controllers,
	// and that of IPv6 where the kernel has it: Pods may reach each other by it
	// whatever families the cluster has.
	Rules   map[inet.Family]*iptables.Ruleset
	Sysctl  sysctl.Interface
	Modules func(names ...string) error   // module.Load
	Bridges func() ([]link.Bridge, error) // of this node
	// Flows and HostAddrs, this node's addresses, are asked where
	// Config.CutFlows is set.
	Flows     Flows
	HostAddrs func() ([]netip.Addr, error)
}

// Controller keeps the kernel's packet filter as the policies want it.
type Controller struct {
	config  Config
	rules   map[inet.Family]*iptables.Ruleset
	sets    *ipset.Sets
	sysctl  sysctl.Interface
	modules func(names ...string) error
	look    func() ([]link.Bridge, error)
	log     *slog.Logger
	queue   *reconcile.Queue[key]
	ready   chan struct{}
	cutter  *cutter
	drops   drops

	mu     sync.Mutex
	live   bool // changes are marked
	state  *state
	status Status

	// What follows belongs to the goroutine of Run.
	plans     map[inet.Family]*plan
	bridges   []link.Bridge        // of this node, when it was last looked
	shared    map[string]bool      // bridges that were said to have other ports
	warned    map[inet.Family]bool // that there are no Pod CIDRs
	prepared  bool                 // the platform was, once
	settling  time.Time            // when the keys at hand were done
	complaint reconcile.Complaints
}

// New returns a Controller that follows the Pods, Namespaces, NetworkPolicies
// and Nodes of feeds.
func New(config Config, feeds *cluster.Feeds, drivers Drivers, log *slog.Logger) *Controller {
	c := &Controller{
		config: config, rules: drivers.Rules, log: log,
		sets:   ipset.NewSets(drivers.Sets, OwnedSets()...),
		sysctl: drivers.Sysctl, modules: drivers.Modules, look: drivers.Bridges,
		queue: reconcile.NewQueue[key](),
		ready: make(chan struct{}), cutter: newCutter(drivers), drops: drops{totals: Drops{Policies: map[Drop]uint64{}}},
		state: newState(config.NodeName),
		plans: map[inet.Family]*plan{}, warned: map[inet.Family]bool{}, shared: map[string]bool{}, complaint: reconcile.Complaints{},
	}
	for _, f := range config.Families {
		c.plans[f] = newPlan(config, f)
	}
	if _, there := drivers.Rules[inet.IPv6]; there && c.plans[inet.IPv6] == nil {
		c.plans[inet.IPv6] = newPlan(config, inet.IPv6)
		c.plans[inet.IPv6].bare = true
	}
	if config.Landed != nil {
		c.queue.Landed = c.landed
	}
	feeds.Pods.Subscribe(c.podChanged)
	feeds.Namespaces.Subscribe(c.namespaceChanged)
	feeds.NetworkPolicies.Subscribe(c.policyChanged)
	if config.NewPods != Open {
		feeds.Nodes.Subscribe(c.nodeChanged)
	}
	return c
}

// landed measures the changes of Pods, Namespaces, policies and this Node.
func (c *Controller) landed(k key, since time.Time) {
	if k.kind >= nodeKind {
		c.config.Landed(c.settling.Sub(since))
	}
}

// Ready is closed when everything was programmed once.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

func (c *Controller) podChanged(change cluster.Change[cluster.Pod]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addrs, rules := c.state.setPod(change.Old, change.New)
	if rules {
		c.mark(key{kind: podKind, name: cmp.Or(change.New, change.Old).Key})
	}
	c.markAddrs(addrs)
}

func (c *Controller) namespaceChanged(change cluster.Change[cluster.Namespace]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.markAddrs(c.state.setNamespace(change.Old, change.New))
}

func (c *Controller) policyChanged(change cluster.Change[cluster.NetworkPolicy]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.setPolicy(change.Old, change.New)
	c.mark(key{kind: policyKind, name: cmp.Or(change.New, change.Old).Key})
}

func (c *Controller) nodeChanged(change cluster.Change[cluster.Node]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.setNode(change) {
		c.mark(key{kind: nodeKind})
	}
}

func (c *Controller) markAddrs(addrs []netip.Addr) {
	for _, addr := range addrs {
		c.mark(key{kind: addrKind, addr: addr})
	}
}

// mark notes what has to be looked at. Before the first look at everything
// that would be in vain. The caller holds the lock.
func (c *Controller) mark(k key) {
	if c.live {
		c.queue.Mark(k)
	}
}

// Run programs all policies, and then every change, until ctx ends. What is
// programmed stays.
func (c *Controller) Run(ctx context.Context) error {
	c.queue.Mark(platformKey, rulesKey)
	go reconcile.Every(ctx, c.config.SyncPeriod, func() { c.queue.Mark(platformKey, resyncKey) })
	go c.cutFlows(ctx)
	go c.beginDrops(ctx)
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

// work settles the keys: first the entries of sets, so that a new Pod's rules
// find its peers, then the rules, then what others have changed.
func (c *Controller) work(ctx context.Context, keys []key) {
	d, addrs, resync := sortOut(keys)
	var errs [addrKind + 1]error
	if contains(keys, platformKind) {
		errs[platformKind] = c.preparePlatform()
		c.bridges = nil // program looks at them again
	}
	if len(addrs) > 0 {
		errs[addrKind] = c.place(addrs)
	}
	var programErr error
	if !d.empty() || contains(keys, nodeKind) || contains(keys, platformKind) {
		programErr = c.program(ctx, d)
		errs[allKind], errs[nodeKind], errs[podKind], errs[policyKind] = programErr, programErr, programErr, programErr
	}
	if resync {
		errs[resyncKind] = c.resync(ctx)
	}
	if ctx.Err() == nil {
		c.complain(errors.Join(errs[platformKind], programErr, errs[addrKind], errs[resyncKind]))
	}
	errs[platformKind] = cmp.Or(errs[platformKind], programErr)
	c.becomeReady()
	c.settling = time.Now()
	for _, k := range keys {
		c.queue.Settle(k, errs[k.kind])
	}
	c.updateStatus()
}

// becomeReady closes Ready when policies hold for all traffic.
func (c *Controller) becomeReady() {
	select {
	case <-c.ready:
		return
	default:
	}
	if c.prepared && c.programmed() {
		close(c.ready)
		c.log.Info("policy: all policies are programmed")
	}
}

// families are those that have rules: those that are enabled, then one that
// has rules for strays only.
func (c *Controller) families() []inet.Family {
	if p := c.plans[inet.IPv6]; p != nil && p.bare {
		return append(slices.Clone(c.config.Families), inet.IPv6)
	}
	return c.config.Families
}

// programmed says that each enabled family was, once.
func (c *Controller) programmed() bool {
	for _, p := range c.plans {
		if !p.programmed && !p.bare {
			return false
		}
	}
	return true
}

func contains(keys []key, kind kind) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return k.kind == kind })
}

// place puts addresses into the sets of rules or takes them out.
func (c *Controller) place(addrs []netip.Addr) error {
	edits, former := c.edits(addrs)
	var errs []error
	for name, e := range edits {
		errs = append(errs, c.sets.Edit(name, e.present, e.absent))
	}
	err := errors.Join(errs...)
	c.cutter.edited(edits)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for addr, ports := range former {
			c.state.formerPorts[addr] = append(c.state.formerPorts[addr], ports...)
		}
	}
	return err
}

// edits are those that change a set, and the former ports that they answer for.
func (c *Controller) edits(addrs []netip.Addr) (map[string]edit, map[netip.Addr][]cluster.ContainerPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	edits, former := map[string]edit{}, map[netip.Addr][]cluster.ContainerPort{}
	for _, p := range c.plans {
		for name, e := range p.edits(c.state, addrs) {
			if !c.sets.Holds(name, e.present, e.absent) {
				edits[name] = e
			}
		}
	}
	for _, addr := range addrs {
		if ports := c.state.formerPorts[addr]; ports != nil {
			former[addr] = ports
			delete(c.state.formerPorts, addr)
		}
	}
	return edits, former
}

// resync reads the kernel back and repairs what differs. The rules of a family
// that never came up are not repaired but programmed, when its keys are due.
func (c *Controller) resync(ctx context.Context) error {
	repaired, err := c.sets.Resync()
	errs := []error{err}
	for _, f := range c.families() {
		if !c.plans[f].programmed {
			continue
		}
		n, err := c.rules[f].Resync(ctx, RulesOwner)
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
