package policy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// world is a cluster's objects and this node's kernel.
type world struct {
	feeds *cluster.Feeds
	sets  *ipset.Fake
	rules *iptables.Fake
	// rules6 is nil in a cluster without IPv6.
	rules6 *iptables.Fake
	c      *Controller
	adapt  func(*Config) // nil for none
}

var testConfig = Config{
	NodeName: "node1", Families: []inet.Family{inet.IPv4},
	ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:96::/112")},
	NodePorts:     PortRange{30000, 32767},
}

func newWorld() *world { return newWorldWith(func(*Config) {}) }

// newWorldWith is a world with another configuration.
func newWorldWith(adapt func(*Config)) *world {
	w := &world{feeds: cluster.NewFeeds(), sets: ipset.NewFake(), rules: iptables.NewFake(), adapt: adapt}
	w.sets.InUse, w.rules.SetExists = w.rules.UsesSet, w.sets.Exists
	w.start()
	return w
}

// besideOurProxy is a configuration where the service proxy runs too, and lets
// pass what goes to Services itself.
func besideOurProxy(c *Config) { c.ServiceRanges, c.NodePorts = nil, PortRange{} }

// newDualWorld has both address families.
func newDualWorld() *world { return newDualWorldWith(nil) }

func newDualWorldWith(adapt func(*Config)) *world {
	w := &world{feeds: cluster.NewFeeds(), sets: ipset.NewFake(), rules: iptables.NewFake(), rules6: iptables.NewFake(), adapt: adapt}
	w.sets.InUse = func(name string) bool { return w.rules.UsesSet(name) || w.rules6.UsesSet(name) }
	w.rules.SetExists, w.rules6.SetExists = w.sets.Exists, w.sets.Exists
	w.start()
	return w
}

// restarted is another agent over the same kernel, with feeds that are empty.
func (w *world) restarted() *world {
	again := &world{feeds: cluster.NewFeeds(), sets: w.sets, rules: w.rules, rules6: w.rules6, adapt: w.adapt}
	again.start()
	return again
}

// start starts an agent over the kernel as it is.
func (w *world) start() {
	config, rules := testConfig, map[inet.Family]*iptables.Ruleset{}
	config.Families = slices.Sorted(maps.Keys(w.tables()))
	if w.adapt != nil {
		w.adapt(&config)
	}
	for family, fake := range w.tables() {
		rules[family] = iptables.NewRuleset(fake, family, slog.New(slog.DiscardHandler))
	}
	w.c = New(config, w.feeds, w.drivers(rules), slog.New(slog.DiscardHandler))
}

// drivers are those of a world, over a platform that is as it should be.
func (w *world) drivers(rules map[inet.Family]*iptables.Ruleset) Drivers {
	return Drivers{
		Sets: w.sets, Rules: rules, Modules: func(...string) error { return nil },
		Bridges: func() ([]link.Bridge, error) { return nil, nil },
		Sysctl:  sysctl.NewFake(map[string]string{bridgeParameter(inet.IPv4): "1", bridgeParameter(inet.IPv6): "1"}),
	}
}

// tables are the packet filters of the families that the world has.
func (w *world) tables() map[inet.Family]*iptables.Fake {
	tables := map[inet.Family]*iptables.Fake{inet.IPv4: w.rules}
	if w.rules6 != nil {
		tables[inet.IPv6] = w.rules6
	}
	return tables
}

// settle works until nothing is dirty, and tries again what fails.
func (w *world) settle(t testing.TB) {
	t.Helper()
	if err := w.attempt(1000); err != nil {
		t.Fatal(err)
	}
}

// work is settle where nothing may fail.
func (w *world) work() error { return w.attempt(1) }

// attempt works until nothing is dirty or something has failed too often.
func (w *world) attempt(attempts int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !w.c.programmed() {
		w.c.queue.Mark(platformKey, rulesKey)
	}
	for len(w.c.queue.Pending()) > 0 {
		for _, work := range w.c.Status().Pending {
			if work.Attempts >= attempts {
				return fmt.Errorf("%s fails: %w", work.What, work.Err)
			}
		}
		keys := w.c.queue.Take(ctx)
		if keys == nil {
			return fmt.Errorf("still dirty: %+v", w.c.queue.Pending())
		}
		w.c.work(ctx, keys)
	}
	return nil
}

// kernel is all that is programmed, as operators read it.
func (w *world) kernel() string {
	text := w.rules.Text(iptables.Filter)
	if w.rules6 != nil {
		text += w.rules6.Text(iptables.Filter)
	}
	return text + w.sets.Save()
}

func newPod(ns, name, node, ip, labelText string) *cluster.Pod {
	set, err := labels.ConvertSelectorToLabelsMap(labelText)
	if err != nil {
		panic(err)
	}
	p := &cluster.Pod{Meta: cluster.Meta{Key: cluster.Key{Namespace: ns, Name: name}}, Labels: set, Node: node}
	if ip != "" {
		p.IPs = []netip.Addr{netip.MustParseAddr(ip)}
	}
	return p
}

func newNamespace(name, labelText string) *cluster.Namespace {
	set, err := labels.ConvertSelectorToLabelsMap(labelText)
	if err != nil {
		panic(err)
	}
	return &cluster.Namespace{Meta: cluster.Meta{Key: cluster.Key{Name: name}}, Labels: set}
}

func selects(text string) labels.Selector {
	s, err := labels.Parse(text)
	if err != nil {
		panic(err)
	}
	return s
}

func (w *world) pod(p *cluster.Pod)              { w.feeds.Pods.Set(p.Key, p) }
func (w *world) namespace(n *cluster.Namespace)  { w.feeds.Namespaces.Set(n.Key, n) }
func (w *world) policy(p *cluster.NetworkPolicy) { w.feeds.NetworkPolicies.Set(p.Key, p) }
func denyIngress(ns string) *cluster.NetworkPolicy {
	return &cluster.NetworkPolicy{
		Meta: cluster.Meta{Key: cluster.Key{Namespace: ns, Name: "deny"}},
		Pods: labels.Everything(), IsolatesIngress: true,
	}
}

func trim(s string) string {
	var lines []string
	for _, line := range strings.Split(s, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
