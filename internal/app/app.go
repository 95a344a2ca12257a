// Package app wires the agent from its configuration: the watches of the API
// server, the kernel's drivers, and the enabled controllers.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kube-router/kube-router/internal/admin"
	"github.com/kube-router/kube-router/internal/advice"
	"github.com/kube-router/kube-router/internal/cleanup"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/cluster/watch"
	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/health"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/lbipam"
	"github.com/kube-router/kube-router/internal/policy"
	"github.com/kube-router/kube-router/internal/routes"
	"github.com/kube-router/kube-router/internal/services"
)

// The names of the controllers in logs, health and metrics.
const (
	routesName       = "routes"
	servicesName     = "services"
	policyName       = "policy"
	loadBalancerName = "loadbalancer"
)

// controllerNames are all, in the order in which the status has them.
var controllerNames = [...]string{routesName, servicesName, policyName, loadBalancerName}

// stopTime bounds the end of the agent after SIGTERM. What is programmed
// stays, so there is little to do.
const stopTime = 4 * time.Second

// How much garbage there may be for each hundred bytes that live: during the
// first fill, which makes much, and afterwards. More room for the fill takes as
// much time, as each fresh page costs; afterwards there is little garbage, and
// room for it is resident memory.
const (
	gcPercent     = 40
	gcPercentRest = 20
)

// agent is one run of the agent.
type agent struct {
	cfg     config.Config
	log     *slog.Logger
	version string
	feeds   *cluster.Feeds
	metrics *health.Metrics
	before  *record.File // what was on the node
	local   *admin.Server
	started time.Time
	lacks   atomic.Pointer[string] // what retry waits for
	built   chan struct{}          // closed when there are parts
	parts   []part
	advisor *advice.Advisor // nil where there is nothing to advise on

	// The controllers that run; nil are those that do not.
	router   *routes.Controller
	proxy    *services.Controller
	firewall *policy.Controller
	balancer *lbipam.Controller
}

func newAgent(cfg config.Config, log *slog.Logger, version string) *agent {
	return &agent{
		cfg: cfg, log: log, version: version, started: time.Now(),
		feeds: cluster.NewFeeds(), metrics: health.NewMetrics(version, log), local: admin.NewServer(cfg.Socket, log),
		before: record.Open(cfg.RecordFile, log), built: make(chan struct{}),
	}
}

// Run runs the agent until ctx ends. Whatever is missing, it waits for and
// says so; its error is for what waiting cannot mend.
func Run(ctx context.Context, cfg config.Config, version string, logTo io.Writer) error {
	if err := checkPrivileges(); err != nil {
		return err
	}
	log := newLogger(logTo, cfg.Verbosity)
	log.Info("kube-router starts", "version", version, "node", cfg.NodeName, "controllers", strings.Join(enabled(cfg), ","))
	for _, warning := range cfg.Warnings {
		log.Warn(warning)
	}
	debug.SetGCPercent(gcPercent)
	watch.RouteKlog(log)
	a := newAgent(cfg, log, version)
	go cleanup.Announce(ctx)
	err := a.run(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		log.Info("kube-router stops; what it programmed stays in force")
		return nil
	}
	return err
}

func (a *agent) run(ctx context.Context) error {
	var local sync.WaitGroup
	defer local.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// What asks after the agent is answered while it waits, too: the kubelet
	// would end it for silence, and nobody would learn what it waits for.
	a.local.Show(admin.Views{Status: a.starting, Starting: a.notBuilt})
	local.Go(func() { _ = a.local.Run(ctx) })
	local.Go(func() { _ = a.server().Run(ctx) })
	client, err := retry(ctx, a, "a way to the API server", a.openClient)
	if err != nil {
		return err
	}
	kernel, err := retry(ctx, a, "the kernel's drivers", func() (drivers, error) {
		return openDrivers(filtered(a.cfg), a.before, a.log)
	})
	if err != nil {
		return err
	}
	a.build(kernel, client)
	close(a.built)
	a.show(client)
	return a.runAll(ctx, client, kernel)
}

// runAll watches and runs the controllers until ctx ends. One that
// returns an error ends the agent: the DaemonSet starts it anew.
func (a *agent) runAll(ctx context.Context, client *watch.Client, kernel drivers) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	start := func(name string, run func(context.Context) error) {
		all.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	start("watch", func(ctx context.Context) error { return client.Run(ctx, a.feeds) })
	if a.prepare(ctx, kernel) == nil {
		for _, p := range a.parts {
			start(p.name, p.Run)
		}
		if a.advisor != nil {
			start("advice", a.advisor.Run)
		}
		all.Go(func() { a.settle(ctx) })
		all.Go(func() { a.sweepFormer(ctx, kernel) })
		<-ctx.Done()
	}
	a.wait(&all)
	return context.Cause(ctx)
}

// prepare waits for the lists and opens iptables meanwhile.
func (a *agent) prepare(ctx context.Context, kernel drivers) error {
	variant, err := retry(ctx, a, "iptables", func() (iptables.Variant, error) { return kernel.openRules(ctx) })
	if err != nil {
		return err
	}
	a.log.Info("kernel drivers are open", "iptables", variant)
	return a.feeds.WaitSynced(ctx)
}

// settle gives the memory back that the first fill took: what it leaves behind
// is a fraction of it.
func (a *agent) settle(ctx context.Context) {
	for _, p := range a.parts {
		select {
		case <-p.Ready():
		case <-ctx.Done():
			return
		}
	}
	debug.SetGCPercent(gcPercentRest)
	debug.FreeOSMemory()
}

// wait waits for all work to end, but not for longer than stopTime.
func (a *agent) wait(work *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(stopTime):
		a.log.Warn("not everything ended in time", "waited", stopTime)
	}
}

// enabled names the controllers that are to run, sorted.
func enabled(cfg config.Config) []string {
	var names []string
	for name, on := range map[string]bool{routesName: cfg.RunRouter, servicesName: cfg.RunServiceProxy, policyName: cfg.RunFirewall, loadBalancerName: cfg.RunLoadBalancer} {
		if on {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func newLogger(to io.Writer, verbosity int) *slog.Logger {
	level := slog.LevelInfo
	if verbosity > 0 {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: level}))
}
