// Package routes is the controller of Pod networking: this node speaks BGP
// with the others and with routers, advertises its Pod CIDR and the addresses
// of Services, and programs what it learns into the kernel. It also sets up the
// bridge of the Pods and the tunnels of an overlay, lets their traffic through
// and out, and writes the CNI configuration last, because that makes the node
// Ready.
package routes

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/cni"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/overlay"
	"github.com/kube-router/kube-router/internal/peering"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// Controller keeps this node's Pod networking as the cluster wants it.
type Controller struct {
	config  Config
	drivers Drivers
	log     *slog.Logger
	events  cluster.Reporter
	queue   *reconcile.Queue[key]
	routes  *route.Routes
	detours *route.Routes // of overlay.Table
	sets    *ipset.Sets
	file    cni.File
	ready   chan struct{}

	// What follows belongs to the goroutine of Run.
	links   []link.Addr
	tunnels overlay.Plan
	// withoutTunnels says that there is no overlay, and none of a former run.
	withoutTunnels bool

	done      [steps]bool
	complaint reconcile.Complaints
	speaks    bgp.Config // what the speaker that runs was started with
	own       peering.Own
	ownNode   *cluster.Node // that it was read from
	former    bool          // an agent programmed this host before, since it was booted
	left      bool          // routes of a former run, when the speaker was started
	settled   time.Time     // when all peers had delivered their tables
	wanted    []bgp.Peer
	leaving   map[netip.Addr]leaving
	discarded map[netip.Prefix]bool // ranges of which the unused addresses lead nowhere
	loaded    bool
	reported  map[string]bool
	settling  time.Time // when the step at hand was done

	mu       sync.Mutex
	nodes    map[string]*cluster.Node
	vips     *vipState
	me       self
	speaker  Speaker
	spoke    time.Time
	desired  map[netip.Prefix]route.Route
	unusable map[netip.Prefix]string
	swept    bool
	lastSync time.Time
	repairs  uint64
}

// New returns a Controller that follows the Nodes of feeds.
func New(config Config, feeds *cluster.Feeds, drivers Drivers, events cluster.Reporter, log *slog.Logger) *Controller {
	c := &Controller{
		config: config, drivers: drivers, log: log, events: events,
		queue:     reconcile.NewQueue[key](),
		routes:    route.NewRoutes(drivers.Routes, route.Main),
		detours:   route.NewRoutes(drivers.Routes, overlay.Table),
		sets:      ipset.NewSets(drivers.Sets, OwnedSets()...),
		file:      cni.NewFile(config.CNIFile),
		ready:     make(chan struct{}),
		complaint: reconcile.Complaints{}, reported: map[string]bool{},
		nodes:   map[string]*cluster.Node{},
		vips:    newVIPState(config.NodeName),
		leaving: map[netip.Addr]leaving{},
		desired: map[netip.Prefix]route.Route{}, unusable: map[netip.Prefix]string{},
	}
	if config.Landed != nil {
		c.queue.Landed = c.landed
	}
	feeds.Nodes.Subscribe(c.nodeChanged)
	if config.VIPs.Watch {
		feeds.Services.Subscribe(c.serviceChanged)
		feeds.EndpointSlices.Subscribe(c.sliceChanged)
	}
	return c
}

// landed measures the changes that come from elsewhere: Nodes that become
// entries of sets, and learned routes.
func (c *Controller) landed(k key, since time.Time) {
	if k.step == stepSets || k.step == stepRoute {
		c.config.Landed(c.settling.Sub(since))
	}
}

// Ready is closed when everything that does not depend on other nodes was
// programmed once.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// nodeChanged takes note of a Node and marks what depends on it. Most updates
// of Nodes (heartbeats, conditions) change nothing here.
func (c *Controller) nodeChanged(change cluster.Change[cluster.Node]) {
	if change.Old != nil && change.New != nil && sameNode(change.Old, change.New) {
		return
	}
	c.mu.Lock()
	node := change.New
	if node != nil {
		c.nodes[node.Name] = node
	} else {
		node = change.Old
		delete(c.nodes, node.Name)
	}
	c.mu.Unlock()
	if node.Name == c.config.NodeName {
		c.queue.Mark(key{step: stepSelf})
	}
	c.queue.Mark(key{step: stepPeers}, key{step: stepSets}, key{step: stepAdvertise}, key{step: stepTunnels})
}

func sameNode(a, b *cluster.Node) bool {
	return slices.Equal(a.InternalIPs, b.InternalIPs) && slices.Equal(a.ExternalIPs, b.ExternalIPs) &&
		slices.Equal(a.PodCIDRs, b.PodCIDRs) && maps.Equal(a.Annotations, b.Annotations) && a.Created.Equal(b.Created)
}

// Run programs everything and then follows the changes until ctx ends. What
// was programmed stays; the speaker stops as its configuration says. Run is
// for after the feeds have synced.
func (c *Controller) Run(ctx context.Context) error {
	defer c.stopSpeaker()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { c.watchRoutes(ctx) })
	for _, s := range []step{stepLinks, stepSelf, stepSets, stepRules, stepTunnels} { // they mark the others
		c.queue.Mark(key{step: s})
	}
	watching.Go(func() { c.awaitServed(ctx) })
	watching.Go(func() { c.awaitPolicies(ctx) })
	watching.Go(func() { reconcile.Every(ctx, c.config.SyncPeriod, c.markAll) })
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

// watchRoutes marks what must be looked at when routes or addresses may have
// gone. Watching again after a failure starts with a look, too.
func (c *Controller) watchRoutes(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.drivers.Routes.Watch(ctx, func() {
			c.queue.Mark(key{step: stepLinks}, key{step: stepTunnels}, key{step: stepRepair})
		})
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("watching the kernel's routes ended; trying again", "err", err)
		wait(ctx, time.Second)
		c.queue.Mark(key{step: stepLinks}, key{step: stepTunnels}, key{step: stepRepair})
	}
}

// markAll marks what a resync looks at.
func (c *Controller) markAll() {
	for _, s := range []step{stepLinks, stepPlatform, stepCNI, stepTunnels, stepResync} {
		c.queue.Mark(key{step: s})
	}
}

// wait says whether d passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// work settles the keys, in the order of their steps.
func (c *Controller) work(ctx context.Context, keys []key) {
	slices.SortStableFunc(keys, func(a, b key) int { return int(a.step) - int(b.step) })
	if !c.load() {
		for _, k := range keys {
			c.queue.Settle(k, errNotRead)
		}
		return
	}
	for len(keys) > 0 {
		n := 1
		for n < len(keys) && keys[n].step == keys[0].step {
			n++
		}
		c.workStep(ctx, keys[:n])
		keys = keys[n:]
	}
	c.becomeReady()
}

// workStep settles keys of one step: many for stepRoute, else one.
func (c *Controller) workStep(ctx context.Context, keys []key) {
	if keys[0].step == stepRoute {
		failed := c.program(keys)
		c.settling = time.Now()
		for _, k := range keys {
			c.settle(ctx, k, failed[k.prefix])
		}
		return
	}
	err := c.act(ctx, keys[0].step)
	switch {
	case errors.Is(err, errLater):
		err = nil // what it waits for marks it
	case err == nil:
		c.done[keys[0].step] = true
	}
	c.settling = time.Now()
	c.settle(ctx, keys[0], err)
}

func (c *Controller) act(ctx context.Context, s step) error {
	switch s {
	case stepLinks:
		return c.readLinks()
	case stepSelf:
		return c.findSelf()
	case stepPlatform:
		return c.preparePlatform(ctx)
	case stepSets:
		return c.fillSets()
	case stepRules:
		return c.applyRules(ctx)
	case stepCNI:
		return c.writeCNI()
	case stepVIPs:
		return c.compileVIPs()
	case stepAdvertise:
		return c.advertise()
	case stepPeers:
		return c.configurePeers()
	case stepTunnels:
		return c.buildTunnels()
	case stepSweep:
		return c.sweep()
	case stepRepair:
		return c.repairRoutes()
	}
	return c.resync(ctx)
}

// settle ends the work on a key. A failure is one log line when it begins, or
// becomes another one, and one when it is over.
func (c *Controller) settle(ctx context.Context, k key, err error) {
	c.queue.Settle(k, err)
	if ctx.Err() != nil {
		return
	}
	switch began, ended := c.complaint.Change(k.String(), err); {
	case ended:
		c.log.Info("routes: goes on", "step", k.String())
	case began:
		level := slog.LevelWarn
		switch {
		case k.step == stepSweep: // waiting for peers is how every start begins
			level = slog.LevelDebug
		case errors.Is(err, errNoPolicies): // and this every new node
			level = slog.LevelInfo
		}
		c.log.Log(ctx, level, "routes: will be tried again", "step", k.String(), "err", err)
	}
}

// becomeReady closes Ready when each step has succeeded once.
func (c *Controller) becomeReady() {
	select {
	case <-c.ready:
		return
	default:
	}
	for _, s := range []step{stepLinks, stepSelf, stepPlatform, stepSets, stepRules, stepCNI, stepAdvertise, stepPeers, stepTunnels} {
		if !c.done[s] {
			return
		}
	}
	c.log.Info("routes: Pod networking of this node is programmed")
	close(c.ready)
}

// identity is who this node is, the zero self as long as that is not known.
func (c *Controller) identity() self {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.me
}

// present returns the Nodes as of now.
func (c *Controller) present() map[string]*cluster.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.nodes)
}
