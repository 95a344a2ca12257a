package routes

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/peering"
)

// host is the kernel of node n1, in memory. It outlives controllers.
type host struct {
	t       *testing.T
	routes  *route.Fake
	links   *link.Fake
	sysctl  *sysctl.Fake
	sets    *ipset.Fake
	rules   *iptables.Fake
	cniFile string
	modules error

	mu       sync.Mutex
	speakers []*bgp.Fake
}

func newHost(t *testing.T) *host {
	h := &host{
		t: t, routes: route.NewFake(), links: link.NewFake(), sets: ipset.NewFake(), rules: iptables.NewFake(),
		sysctl:  sysctl.NewFake(map[string]string{"net/ipv4/ip_forward": "0", "net/bridge/bridge-nf-call-iptables": "0"}),
		cniFile: filepath.Join(t.TempDir(), "10-kuberouter.conflist"),
	}
	h.rules.SetExists = h.sets.Exists
	eth0 := netip.MustParsePrefix("192.168.66.11/24")
	h.links.AddLink("eth0", 1450, eth0)
	h.routes.AddLink("eth0", eth0)
	return h
}

// linked are links that routes can lead to.
type linked struct {
	*link.Fake
	routes *route.Fake
}

func (l linked) EnsureTunnel(t link.Tunnel) (bool, error) {
	changed, err := l.Fake.EnsureTunnel(t)
	if changed {
		l.routes.AddLink(t.Name())
	}
	return changed, err
}

func (l linked) DeleteTunnels(keep func(string) bool) ([]string, error) {
	deleted, err := l.Fake.DeleteTunnels(keep)
	for _, name := range deleted {
		l.routes.DelLink(name)
	}
	return deleted, err
}

// run is a controller that runs on a host.
type run struct {
	*Controller
	t     *testing.T
	host  *host
	feeds *cluster.Feeds
	warns *warnings
	// rounds counts the rounds of work.
	rounds *atomic.Uint64
	end    func()
}

type warnings struct {
	mu   sync.Mutex
	seen []string
}

func (w *warnings) Warn(kind string, o *cluster.Meta, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, fmt.Sprintf("%s %s %s: %s", kind, o.Key, reason, message))
}

func fullMesh() peering.Config {
	return peering.Config{Families: []inet.Family{inet.IPv4}, ASN: 64512, Port: 179, Between: true, FullMesh: true}
}

// warned says whether a warning with all of these parts was given.
func (w *warnings) warned(parts ...string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.seen, func(line string) bool {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				return false
			}
		}
		return true
	})
}

func (h *host) start(change func(*Config), apply func(*cluster.Feeds)) *run {
	h.t.Helper()
	config := Config{
		NodeName: "n1", Families: []inet.Family{inet.IPv4}, Peering: fullMesh(), PodCIDRs: true,
		GracefulRestart: true, RestartTime: 90 * time.Second, PodEgress: true, AutoMTU: true, EnableCNI: true, CNIFile: h.cniFile,
	}
	rounds := new(atomic.Uint64)
	config.Synced = func(time.Duration) { rounds.Add(1) }
	if change != nil {
		change(&config)
	}
	log := slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	rules := map[inet.Family]*iptables.Ruleset{inet.IPv4: iptables.NewRuleset(h.rules, inet.IPv4, log)}
	feeds, warns := cluster.NewFeeds(), &warnings{}
	c := New(config, feeds, Drivers{
		Speak: h.speak, Routes: h.routes, Links: linked{h.links, h.routes}, Sysctl: h.sysctl, Sets: h.sets, Rules: rules,
		Modules: func(...string) error { return h.modules },
	}, warns, log)
	r := &run{Controller: c, t: h.t, host: h, feeds: feeds, warns: warns, rounds: rounds}
	if apply != nil {
		apply(feeds)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.Run(ctx); err != nil {
			h.t.Error(err)
		}
	}()
	r.end = sync.OnceFunc(func() { cancel(); <-ended })
	h.t.Cleanup(r.end)
	return r
}

func (h *host) speak(c bgp.Config, _ *slog.Logger) (Speaker, error) {
	f, err := bgp.StartFake(c)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.speakers = append(h.speakers, f)
	return f, nil
}

func (h *host) speaker() *bgp.Fake {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.speakers) == 0 {
		return nil
	}
	return h.speakers[len(h.speakers)-1]
}

// until waits for a condition.
func (r *run) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 10s: %s\npending: %+v\n%s", what, r.Status().Pending, r.state())
		}
		time.Sleep(time.Millisecond)
	}
}

// settled waits until nothing is left to do but what is in pending.
func (r *run) settled(pending ...string) {
	r.t.Helper()
	r.until(fmt.Sprintf("pending is %q", pending), func() bool {
		var got []string
		for _, p := range r.Status().Pending {
			if p.Err == nil && p.Attempts > 0 {
				return false
			}
			got = append(got, p.What)
		}
		slices.Sort(got)
		return slices.Equal(got, pending)
	})
}

// state is all that the controller programs, as an operator would print it.
func (r *run) state() string {
	h := r.host
	var b strings.Builder
	links := regexp.MustCompile(`(?m)^\d+: `).ReplaceAllString(h.links.String(), "")
	fmt.Fprintf(&b, "# ip link\n%s# ip route show proto 17\n%s", links, h.routes.Text(route.Main))
	fmt.Fprintf(&b, "# ipset save\n%s# iptables-save -t filter\n%s# iptables-save -t nat\n%s",
		h.sets.Save(), h.rules.Text(iptables.Filter), h.rules.Text(iptables.NAT))
	fmt.Fprintf(&b, "# bgp\n")
	if s := h.speaker(); s != nil {
		b.WriteString(s.String())
	}
	return b.String()
}

func (r *run) wants(want string) {
	r.t.Helper()
	if d := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(r.state())); d != "" {
		r.t.Errorf("(-want +got):\n%s", d)
	}
}

// routesAre waits for the kernel's routes.
func (r *run) routesAre(want ...string) {
	r.t.Helper()
	text := strings.Join(want, "\n")
	r.until("ip route show proto 17 is\n"+text, func() bool {
		return strings.TrimSpace(r.host.routes.Text(route.Main)) == text
	})
}

// changes counts everything that was ever changed in the kernel.
func (h *host) changes() string {
	_, applies, _ := h.sets.Calls()
	_, restores := h.rules.Calls()
	return fmt.Sprintf("routes %d, links %d, sysctls %d, set batches %d, rule transactions %d",
		h.routes.Changes(), h.links.Changes(), h.sysctl.Changes(), applies, restores)
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func node(n int) *cluster.Node {
	return nodeOf(fmt.Sprintf("n%d", n), fmt.Sprintf("192.168.66.%d", 10+n), fmt.Sprintf("10.244.%d.0/24", n))
}

func nodeOf(name, ip string, cidrs ...string) *cluster.Node {
	n := &cluster.Node{Meta: cluster.Meta{Key: cluster.Key{Name: name}}}
	if ip != "" {
		n.InternalIPs = []netip.Addr{addr(ip)}
	}
	for _, c := range cidrs {
		n.PodCIDRs = append(n.PodCIDRs, prefix(c))
	}
	return n
}

func (r *run) set(nodes ...*cluster.Node) {
	for _, n := range nodes {
		r.feeds.Nodes.Set(n.Key, n)
	}
}

func nodes(ns ...int) func(*cluster.Feeds) {
	return func(f *cluster.Feeds) {
		for _, n := range ns {
			f.Nodes.Set(node(n).Key, node(n))
		}
	}
}

// answers makes the peers do what their nodes would do: establish the session,
// send the Pod CIDR and end of RIB.
func (r *run) answers(ns ...int) {
	r.t.Helper()
	r.until("a speaker with the peers", func() bool {
		s := r.host.speaker()
		return s != nil && strings.Count(s.String(), " as 64512") >= len(ns)
	})
	s := r.host.speaker()
	for _, n := range ns {
		peer := node(n).InternalIPs[0]
		s.Establish(peer)
		s.Deliver(peer, node(n).PodCIDRs[0], peer)
		s.Settle(peer)
	}
}
