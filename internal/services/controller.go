// Package services is the service proxy: every Service becomes virtual servers
// of the kernel's IPVS, one for each address and port, with one real server
// for each endpoint.
//
// What it programs for a Service costs the same with ten Services and with ten
// thousand: virtual servers, a local route for each address, and entries of
// sets. The iptables rules are constant.
package services

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/healthcheck"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// Config is what the operator decides.
type Config struct {
	// NodeName is the name of this node's Node object.
	NodeName string
	// Families are the enabled address families. Addresses of others are left
	// alone.
	Families []inet.Family
	// Scheduler is the IPVS scheduler of Services that do not name one; empty
	// is "rr".
	Scheduler string
	// Hairpin lets a Pod reach itself through a Service.
	Hairpin bool
	// MasqueradeAll gives everything that IPVS forwards this node's address
	// for source.
	MasqueradeAll bool
	// ServiceRanges are the cluster's ranges of cluster IPs; none where nobody
	// said which they are, since Pods may be in a guessed one.
	ServiceRanges []netip.Prefix
	// ExternalIPRanges and LoadBalancerIPRanges are what external and load
	// balancer IPs must be in: whoever may write a Service could otherwise take
	// any address of the world for the cluster's Pods (CVE-2020-8554).
	ExternalIPRanges, LoadBalancerIPRanges []netip.Prefix
	// AnyIP takes external and load balancer IPs outside of those, too.
	AnyIP bool
	// RejectUnassigned answers for addresses of ServiceRanges that no Service
	// has.
	RejectUnassigned bool
	// DSR lets endpoints on other nodes answer clients directly, unless a
	// Service says otherwise.
	DSR bool
	// NodePortsEverywhere serves node ports at all addresses of the host.
	NodePortsEverywhere bool
	// Predecessors are the links of other service proxies: their addresses are
	// those of Services, not the host's.
	Predecessors []string
	// Guard has the firewall of the Services' addresses.
	Guard bool
	// GracePeriod is how long the connections of a removed endpoint may last.
	GracePeriod time.Duration
	// ExcludedCIDRs hold virtual servers of others.
	ExcludedCIDRs []netip.Prefix
	// TCPTimeout, TCPFinTimeout and UDPTimeout are IPVS's; 0 leaves the
	// kernel's.
	TCPTimeout, TCPFinTimeout, UDPTimeout time.Duration
	// NodePorts is the cluster's range of node ports.
	NodePorts PortRange
	// SyncPeriod is how often the kernel is read back and drift repaired; 0 is
	// never.
	SyncPeriod time.Duration
	// Synced is told how long each round of changes took; nil is allowed.
	Synced func(time.Duration)
	// Landed is told how long a change of the cluster took to reach
	// the kernel, from when it was heard of; nil is allowed.
	Landed func(time.Duration)
}

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }

func (r PortRange) contains(port uint16) bool { return r.First <= port && port <= r.Last }

// Drivers are the kernel, as the controller sees it.
type Drivers struct {
	// OpenIPVS is ipvs.Open: it is tried until it succeeds, since the module
	// may be loaded later.
	OpenIPVS func() (ipvs.Interface, error)
	Routes   route.Interface
	Links    link.Interface
	Sets     ipset.Interface
	// Rules has the Ruleset of each enabled family, shared by the controllers.
	Rules   map[inet.Family]*iptables.Ruleset
	Sysctl  sysctl.Interface
	Modules func(names ...string) error // module.Load
	Flows   conntrack.Interface
	// Health answers load balancers that ask for endpoints of this node.
	Health HealthServer
}

// HealthServer is healthcheck.Servers.
type HealthServer interface {
	Set(map[cluster.Key]*healthcheck.Check)
	Healthy(bool)
}

// step is one of the things that the controller keeps right. They are worked
// on in this order: what is later may need what is earlier.
type step uint8

const (
	stepPlatform step = iota // modules and sysctls
	stepNode                 // who this node is
	stepSets                 // IP sets: adopt those of a former run
	stepRules                // iptables
	stepIPVS                 // open IPVS, read it and the local routes back
	stepService              // one Service
	stepFlows                // delete the tracking of flows that lead nowhere
	stepSweep                // remove what a former run left
	stepReap                 // remove real servers whose connections have ended
	stepRepair               // read the local routes back and repair
	stepResync               // read everything back and repair
	steps                    // their number
)

var stepNames = [steps]string{
	"platform", "node", "ipsets", "iptables", "ipvs", "service", "conntrack", "sweep", "drain", "repair", "resync",
}

// key is a dirty step; service belongs to stepService.
type key struct {
	step    step
	service cluster.Key
}

// String is "iptables" or "service default/web".
func (k key) String() string {
	if k.step == stepService {
		return "service " + k.service.String()
	}
	return stepNames[k.step]
}

// Controller keeps this node's virtual servers as the cluster's Services want
// them.
type Controller struct {
	config   Config
	drivers  Drivers
	log      *slog.Logger
	events   cluster.Reporter
	queue    *reconcile.Queue[key]
	state    *state
	compiler compiler
	sets     *ipset.Sets
	routes   *route.Routes
	ready    chan struct{}

	// What follows belongs to the goroutine of Run.
	servers *ipvs.Servers // nil until IPVS is open
	// former are the addresses with local routes of a former run, and
	// formerMarks the marks.
	former      map[netip.Addr]bool
	formerMarks map[uint32]bool
	// formerPorts are the addresses and ports that a former run let through.
	formerPorts map[ipvs.ID]bool
	me          self
	adopted     map[string]ipset.Set // sets as they were found, until the sweep
	done        [steps]bool
	started     time.Time // when the first fill began
	plan        plan
	marks       marks
	starved     map[cluster.Key]bool       // Services that do without a mark
	fed         map[cluster.Key]int        // those that are to get one, and how many they had
	direct      bool                       // some Services have direct server return
	directEnded bool                       // what it needed is to be put back
	sources     map[ipvs.ID][]netip.Prefix // that are let in, where restricted
	touched     map[cluster.Key]*touched
	stale       map[conntrack.Flow]struct{} // to be deleted
	complaint   reconcile.Complaints
	// ruleChanges are the chains and jumps that were changed.
	ruleChanges uint64

	settling time.Time // when the Services at hand were done

	mu     sync.Mutex
	status Status
	// begunAs is this node as the Services were last compiled for it; it has no
	// name before begin.
	begunAs self
}

// New returns a Controller that follows the Services, EndpointSlices and Nodes
// of feeds.
func New(config Config, feeds *cluster.Feeds, drivers Drivers, events cluster.Reporter, log *slog.Logger) *Controller {
	if config.Scheduler == "" {
		config.Scheduler = "rr"
	}
	c := &Controller{
		config: config, drivers: drivers, log: log, events: events,
		queue:    reconcile.NewQueue[key](),
		state:    newState(),
		compiler: compiler{config: config},
		sets:     ipset.NewSets(drivers.Sets, OwnedSets()...),
		routes:   route.NewRoutes(drivers.Routes, route.Local),
		ready:    make(chan struct{}),
		former:   map[netip.Addr]bool{}, formerMarks: map[uint32]bool{}, formerPorts: map[ipvs.ID]bool{},
		plan:      newPlan(),
		marks:     newMarks(),
		starved:   map[cluster.Key]bool{},
		fed:       map[cluster.Key]int{},
		sources:   map[ipvs.ID][]netip.Prefix{},
		touched:   map[cluster.Key]*touched{},
		stale:     map[conntrack.Flow]struct{}{},
		complaint: reconcile.Complaints{},
	}
	if config.Landed != nil {
		c.queue.Landed = c.landed
	}
	feeds.Services.Subscribe(func(change cluster.Change[cluster.Service]) {
		c.markServices(c.state.service(change))
	})
	feeds.EndpointSlices.Subscribe(func(change cluster.Change[cluster.EndpointSlice]) {
		c.markServices(c.state.slice(change)...)
	})
	feeds.Nodes.Subscribe(func(change cluster.Change[cluster.Node]) {
		if c.state.setNode(change, config.NodeName) {
			c.queue.Mark(key{step: stepNode})
		}
	})
	return c
}

// landed measures the changes of Services and their endpoints. Those that were
// put aside have not reached the kernel.
func (c *Controller) landed(k key, since time.Time) {
	if k.step == stepService && c.begun() {
		c.config.Landed(c.settling.Sub(since))
	}
}

func (c *Controller) markServices(services ...cluster.Key) {
	for _, s := range services {
		c.queue.Mark(key{stepService, s})
	}
}

// Ready is closed when every Service was programmed once, or was tried to be,
// and what a former run left was removed.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run programs everything and then follows the changes until ctx ends. What
// was programmed stays. Run is for after the feeds have synced.
func (c *Controller) Run(ctx context.Context) error {
	var helpers sync.WaitGroup
	defer helpers.Wait()
	helpers.Go(func() { c.watchRoutes(ctx) })
	helpers.Go(func() {
		reconcile.Every(ctx, c.config.SyncPeriod, func() { c.queue.Mark(key{step: stepResync}) })
	})
	if c.config.GracePeriod > 0 {
		helpers.Go(func() {
			reconcile.Every(ctx, reapInterval, func() { c.queue.Mark(key{step: stepReap}) })
		})
	}
	for s := range stepService {
		c.queue.Mark(key{step: s})
	}
	for {
		keys := c.queue.Take(ctx)
		if keys == nil {
			return nil
		}
		c.work(ctx, keys)
		if c.config.Synced != nil {
			c.config.Synced(time.Since(c.queue.Progress().Busy))
		}
	}
}

// watchRoutes marks the routes for a look when some may have gone: the kernel
// silently drops those whose preferred source was removed from a link. Links
// come and go with Pods, so the looks are kept apart.
func (c *Controller) watchRoutes(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.drivers.Routes.Watch(ctx, func() {
			c.queue.Mark(key{step: stepRepair})
			if c.config.NodePortsEverywhere {
				c.queue.Mark(key{step: stepNode})
			}
			wait(ctx, repairInterval)
		})
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("services: watching the kernel's routes ended; trying again", "err", err)
		wait(ctx, repairInterval)
		c.queue.Mark(key{step: stepRepair})
	}
}

// repairInterval keeps looks at the routes apart, and reapInterval those at
// connections that are to end.
const repairInterval, reapInterval = 2 * time.Second, time.Second

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// work does what is due, in the order of the steps, and the Services as one
// batch.
func (c *Controller) work(ctx context.Context, keys []key) {
	var due [steps]bool
	var services []cluster.Key
	for _, k := range keys {
		due[k.step] = true
		if k.step == stepService {
			services = append(services, k.service)
		}
	}
	for s := range steps {
		before := c.begun()
		switch {
		case !due[s]:
		case s == stepService:
			c.workServices(services)
		default:
			c.workStep(ctx, s)
		}
		if !before && c.begun() {
			c.begin(services)
		}
	}
	c.updateStatus()
}

func (c *Controller) workStep(ctx context.Context, s step) {
	err := c.do(ctx, s)
	if ctx.Err() == nil {
		c.complain(stepNames[s], err)
	}
	c.queue.Settle(key{step: s}, err)
	if err == nil {
		c.done[s] = true
	}
	if s == stepSweep {
		c.noteDirect() // which may be over since the former run
	}
}

// do does one step.
func (c *Controller) do(ctx context.Context, s step) error {
	switch s {
	case stepPlatform:
		return c.preparePlatform()
	case stepNode:
		return c.findNode()
	case stepSets:
		return c.adoptSets()
	case stepRules:
		return c.applyRules(ctx)
	case stepIPVS:
		return c.openIPVS()
	case stepFlows:
		return c.dropFlows()
	case stepSweep:
		return c.sweep()
	case stepReap:
		return c.reap()
	case stepRepair:
		return c.repairRoutes()
	}
	return c.resync(ctx)
}

// begun says that Services can be programmed.
func (c *Controller) begun() bool {
	return c.done[stepNode] && c.done[stepSets] && c.done[stepIPVS]
}

// begin marks all Services for the first fill, but for those at hand, whose turn
// comes in this round: those marked before it were put aside.
func (c *Controller) begin(atHand []cluster.Key) {
	c.started = time.Now()
	due := make(map[cluster.Key]struct{}, len(atHand))
	addAll(due, atHand)
	for _, k := range c.state.keys() {
		if _, ok := due[k]; !ok {
			c.markServices(k)
		}
	}
	c.queue.Mark(key{step: stepSweep})
}

// complain logs an error when it is another one than before, and when it has
// gone.
func (c *Controller) complain(what string, err error) {
	switch began, ended := c.complaint.Change(what, err); {
	case ended:
		c.log.Info("services: done after all", "what", what)
	case began:
		c.log.Warn("services: not done yet; it is tried again", "what", what, "err", err)
	}
}
