package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/policy"
)

// settleTime is how long the controller may take for anything.
const settleTime = time.Minute

// agent is a policy controller with the kernel of this process's network
// namespace, and a cluster that the benchmark changes.
type agent struct {
	feeds      *cluster.Feeds
	sets       ipset.Interface
	controller *policy.Controller
	variant    iptables.Variant
	counter    *counter
	rounds     chan struct{} // a round of changes is done
}

// startAgent runs the controller until ctx ends. took is from its start, with
// all of the cluster known, until everything is programmed.
func startAgent(ctx context.Context, w *workload) (a *agent, took time.Duration, err error) {
	a = &agent{feeds: cluster.NewFeeds(), counter: &counter{}, rounds: make(chan struct{}, 1)}
	kernel, err := ipset.Open()
	if err != nil {
		return nil, 0, err
	}
	a.sets = kernel
	if a.variant, err = iptables.Detect(ctx); err != nil {
		return nil, 0, err
	}
	tables, err := iptables.Open(ctx, inet.IPv4, a.variant)
	if err != nil {
		return nil, 0, err
	}
	links, err := link.Open()
	if err != nil {
		return nil, 0, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	counted := &countedRules{Interface: tables, counter: a.counter, chains: map[string][]string{}}
	a.controller = policy.New(policy.Config{
		NodeName: localNode, Families: []inet.Family{inet.IPv4},
		ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		NodePorts:     policy.PortRange{First: 30000, Last: 32767},
		Synced:        a.synced,
	}, a.feeds, policy.Drivers{
		Sets:   countedSets{kernel, a.counter},
		Rules:  map[inet.Family]*iptables.Ruleset{inet.IPv4: iptables.NewRuleset(counted, inet.IPv4, log)},
		Sysctl: sysctl.New(""), Modules: module.Load, Bridges: links.Bridges,
	}, log)
	if err := fill(a.feeds, w); err != nil {
		return nil, 0, err
	}
	began := time.Now()
	go a.controller.Run(ctx)
	select {
	case <-a.controller.Ready():
		took = time.Since(began)
	case <-time.After(settleTime):
		return nil, 0, fmt.Errorf("not programmed within %v: %v", settleTime, a.controller.Status().Pending)
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	return a, took, a.settle(ctx)
}

func (a *agent) synced(time.Duration) {
	select {
	case a.rounds <- struct{}{}:
	default:
	}
}

// settle waits until nothing is pending.
func (a *agent) settle(ctx context.Context) error {
	limit := time.After(settleTime)
	for {
		pending := a.controller.Status().Pending
		if len(pending) == 0 {
			return nil
		}
		select {
		case <-a.rounds:
		case <-limit:
			return fmt.Errorf("not settled within %v: %v", settleTime, pending)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// change makes a change of the cluster, waits until the kernel has it, and
// tells how long it took and what it cost.
func (a *agent) change(ctx context.Context, do func()) (time.Duration, operations, error) {
	before := a.counter.now()
	began := time.Now()
	do()
	err := a.settle(ctx)
	return time.Since(began), a.counter.now().minus(before), err
}

func (a *agent) setPod(p pod)    { a.feeds.Pods.Set(p.key(), p.model()) }
func (a *agent) deletePod(p pod) { a.feeds.Pods.Delete(p.key()) }

// placed counts the kernel's sets that hold each address.
func (a *agent) placed() (map[netip.Addr]int, error) {
	sets, err := a.sets.List("")
	if err != nil {
		return nil, err
	}
	placed := map[netip.Addr]int{}
	for _, set := range sets {
		for entry := range set.Entries {
			if entry.Prefix.IsSingleIP() {
				placed[entry.Prefix.Addr()]++
			}
		}
	}
	return placed, nil
}
