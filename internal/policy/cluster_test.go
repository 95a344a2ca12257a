package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// world is a cluster's objects and this node's kernel.
type world struct {
	feeds *cluster.Feeds
	sets  *ipset.Fake
	rules *iptables.Fake
	c     *Controller
}

var testConfig = Config{
	NodeName: "node1", Families: []inet.Family{inet.IPv4},
	ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
	NodePorts:     PortRange{30000, 32767},
}

func newWorld() *world {
	w := &world{feeds: cluster.NewFeeds(), sets: ipset.NewFake(), rules: iptables.NewFake()}
	w.sets.InUse, w.rules.SetExists = w.rules.UsesSet, w.sets.Exists
	w.start()
	return w
}

// start starts an agent over the kernel as it is.
func (w *world) start() {
	rules := map[inet.Family]*iptables.Ruleset{inet.IPv4: iptables.NewRuleset(w.rules, inet.IPv4, slog.New(slog.DiscardHandler))}
	w.c = New(testConfig, w.feeds, Drivers{Sets: w.sets, Rules: rules}, slog.New(slog.DiscardHandler))
}

// settle works until nothing is dirty.
func (w *world) settle(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !w.c.programmed {
		w.c.queue.Mark(rulesKey)
	}
	for len(w.c.queue.Pending()) > 0 {
		keys := w.c.queue.Take(ctx)
		if keys == nil {
			t.Fatalf("still dirty: %+v", w.c.queue.Pending())
		}
		w.c.work(ctx, keys)
	}
}

// kernel is all that is programmed, as operators read it.
func (w *world) kernel() string { return w.rules.Text(iptables.Filter) + w.sets.Save() }

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
