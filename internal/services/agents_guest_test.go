//go:build guest

package services

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
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
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// start runs a controller in n1 until the returned function is called.
func (n *network) start(config Config, feeds func(*cluster.Feeds)) (*Controller, *cluster.Feeds, func()) {
	n.t.Helper()
	return n.startOn("n1", config, feeds)
}

func (n *network) startOn(node string, config Config, feeds func(*cluster.Feeds)) (*Controller, *cluster.Feeds, func()) {
	n.t.Helper()
	t, n1 := n.t, n.hosts[node]
	config.NodeName, config.NodePorts = node, PortRange{30000, 32767}
	if config.Families == nil {
		config.Families = []inet.Family{inet.IPv4}
	}
	config.ServiceRanges = append(prefixes("10.96.0.0/12"), config.ServiceRanges...)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	var drivers Drivers
	var errs [5]error
	n1.in(func() {
		drivers.Rules = map[inet.Family]*iptables.Ruleset{}
		for _, f := range config.Families {
			rules, err := iptables.Open(t.Context(), f, iptables.Legacy)
			drivers.Rules[f], errs[0] = iptables.NewRuleset(rules, f, log), errors.Join(errs[0], err)
		}
		drivers.Routes, errs[1] = route.Open()
		drivers.Sets, errs[2] = ipset.Open()
		drivers.Links, errs[3] = link.Open()
		drivers.Flows, errs[4] = conntrack.Open()
	})
	for _, err := range errs {
		n1.must(err)
	}
	drivers.OpenIPVS = func() (ipvs.Interface, error) { return ipvs.Open() }
	health := healthcheck.New(log, &warnings{}, config.Families)
	t.Cleanup(health.Close)
	drivers.Health = health
	drivers.Sysctl, drivers.Modules = sysctl.New(""), module.Load
	f := cluster.NewFeeds()
	c := New(config, f, drivers, &warnings{}, log)
	feeds(f)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	n1.Go(t, func() {
		defer close(ended)
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	select {
	case <-c.Ready():
	case <-time.After(30 * time.Second):
		t.Fatalf("not ready within 30s; pending: %+v", c.Status().Pending)
	}
	n.settled(c)
	return c, f, stop
}

func (n *network) settled(c *Controller) {
	n.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		pending := c.Status().Pending
		if len(pending) == 0 {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("not settled: %+v", pending)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// state is what the agent programs, as the tools print it, without counters.
func (h *host) state() string {
	h.t.Helper()
	return h.run("sh", "-c", `ip route show table local proto 17; ipvsadm -Sn; ipset save | sort; iptables-legacy-save | grep -v '^[#:]'`)
}

// eventuallyLacks waits until none of the words is in the state.
func (h *host) eventuallyLacks(words ...string) {
	h.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		state := h.state()
		if !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(state, w) }) {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("one of %q is still in\n%s", words, state)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
