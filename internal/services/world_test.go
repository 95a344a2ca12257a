package services

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/healthcheck"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// world is an imaginary node's kernel, which outlives controllers.
type world struct {
	t      *testing.T
	ipvs   *ipvs.Fake
	routes *route.Fake
	links  *link.Fake
	flows  *conntrack.Fake
	health *checks
	sets   *ipset.Fake
	rules  map[inet.Family]*iptables.Fake
	sysctl *sysctl.Fake
	events *warnings
	broken atomic.Pointer[failures]
	// before records sysctls; nil is no record.
	before *record.File
	// lax leaves out the check of the order of changes.
	lax bool
}

// failures are what does not work now. What is nil works.
type failures struct {
	open   error // of IPVS
	ipvs   func(ipvs.Change) error
	routes func(route.Key) error
	sets   func(ipset.Change) error
	rules  func(input string) error
}

func (w *world) fail(f failures) { w.broken.Store(&f) }

// failure asks one of the failures.
func failure[T any](w *world, which func(*failures) func(T) error) func(T) error {
	return func(x T) error {
		if fn := which(w.broken.Load()); fn != nil {
			return fn(x)
		}
		return nil
	}
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, ipvs: ipvs.NewFake(), routes: route.NewFake(), links: link.NewFake(), flows: conntrack.NewFake(), health: &checks{of: map[cluster.Key]healthcheck.Check{}}, sets: ipset.NewFake(), events: &warnings{}}
	w.fail(failures{})
	w.ipvs.FailWith(failure(w, func(f *failures) func(ipvs.Change) error { return f.ipvs }))
	w.routes.FailWith(failure(w, func(f *failures) func(route.Key) error { return f.routes }))
	w.sets.Fail = failure(w, func(f *failures) func(ipset.Change) error { return f.sets })
	w.rules = map[inet.Family]*iptables.Fake{}
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		w.rules[f] = iptables.NewFake()
		w.rules[f].SetExists = w.sets.Exists
		w.rules[f].Fail = failure(w, func(f *failures) func(string) error { return f.rules })
	}
	w.sets.InUse = func(name string) bool {
		return w.rules[inet.IPv4].UsesSet(name) || w.rules[inet.IPv6].UsesSet(name)
	}
	values := map[string]string{"kernel/osrelease": "6.1.0-40-amd64"}
	for _, p := range parameters([]inet.Family{inet.IPv4, inet.IPv6}, "") {
		values[p.name] = "0"
	}
	for _, link := range []string{"all", "tunl0", "eth0"} {
		values[conf(link, "rp_filter")], values[conf(link, "accept_local")] = "1", "0"
	}
	w.links.AddLink("eth0", 1500, netip.MustParsePrefix("192.168.7.11/24"))
	w.sysctl = sysctl.NewFake(values)
	return w
}

// running is a controller at work.
type running struct {
	*Controller
	*world
	feeds *cluster.Feeds
	stop  func()
}

// config4 is the configuration of a cluster with IPv4 only.
func config4() Config {
	return Config{
		NodeName: "n1", Families: []inet.Family{inet.IPv4}, NodePorts: PortRange{30000, 32767}, Guard: true,
		ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
	}
}

// config46 is that of a dual-stack cluster.
func config46() Config {
	c := config4()
	c.Families = append(c.Families, inet.IPv6)
	c.ServiceRanges = append(c.ServiceRanges, netip.MustParsePrefix("fd00:96::/112"))
	return c
}

// start runs a controller until it has nothing to do. It must be called in a
// synctest bubble, and the controller stopped before that ends.
func (w *world) start(config Config, events ...event) *running {
	log := slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	rules := map[inet.Family]*iptables.Ruleset{}
	for f, fake := range w.rules {
		rules[f] = iptables.NewRuleset(fake, f, log)
	}
	open := func() (ipvs.Interface, error) {
		if err := w.broken.Load().open; err != nil {
			return nil, err
		}
		return checkedIPVS{w.ipvs, w}, nil
	}
	sysctls := sysctl.Interface(w.sysctl)
	if w.before != nil {
		sysctls = sysctl.Recording{Interface: w.sysctl, Record: w.before}
	}
	feeds := cluster.NewFeeds()
	c := New(config, feeds, Drivers{
		OpenIPVS: open, Routes: w.routes, Links: w.links, Flows: w.flows, Health: w.health, Sets: checkedSets{w}, Rules: rules, Sysctl: sysctls,
		Modules: func(...string) error { return nil },
	}, w.events, log)
	r := &running{Controller: c, world: w, feeds: feeds}
	for _, e := range events {
		e(feeds)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	r.stop = func() { cancel(); <-ended }
	synctest.Wait()
	return r
}

// event is a change of the cluster.
type event func(*cluster.Feeds)

func set(objects ...any) event {
	return func(f *cluster.Feeds) {
		for _, o := range objects {
			switch o := o.(type) {
			case *cluster.Node:
				f.Nodes.Set(o.Key, o)
			case *cluster.Service:
				f.Services.Set(o.Key, o)
			case *cluster.EndpointSlice:
				f.EndpointSlices.Set(o.Key, o)
			}
		}
	}
}

func gone(objects ...any) event {
	return func(f *cluster.Feeds) {
		for _, o := range objects {
			switch o := o.(type) {
			case *cluster.Node:
				f.Nodes.Delete(o.Key)
			case *cluster.Service:
				f.Services.Delete(o.Key)
			case *cluster.EndpointSlice:
				f.EndpointSlices.Delete(o.Key)
			}
		}
	}
}

// happen publishes events and waits until they have taken effect.
func (r *running) happen(events ...event) {
	for _, e := range events {
		e(r.feeds)
	}
	synctest.Wait()
}

// pending is what is not done, less the times.
func (r *running) pending() string {
	var lines []string
	for _, p := range r.Status().Pending {
		lines = append(lines, fmt.Sprintf("%s: %v", p.What, p.Err))
	}
	return strings.Join(lines, "\n")
}

// state is what grows with Services, as an operator would print it.
func (w *world) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# ipvsadm -Sn\n%s# ip route show table local proto 17\n%s# ipset save\n",
		w.ipvs, w.routes.Text(route.Local))
	for line := range strings.Lines(w.sets.Save()) {
		if strings.HasPrefix(line, "add") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (w *world) wants(want string) {
	w.t.Helper()
	if d := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(w.state())); d != "" {
		w.t.Errorf("(-want +got):\n%s", d)
	}
}

func (w *world) warned(want ...string) {
	w.t.Helper()
	if d := cmp.Diff(want, w.events.sorted()); d != "" {
		w.t.Errorf("events (-want +got):\n%s", d)
	}
}

// changes counts everything that was ever changed in the kernel.
func (w *world) changes() string {
	_, _, entries := w.sets.Calls()
	_, restores4 := w.rules[inet.IPv4].Calls()
	_, restores6 := w.rules[inet.IPv6].Calls()
	return fmt.Sprintf("ipvs %d, routes %d, set entries %d, rule transactions %d, sysctls %d",
		w.ipvs.Changes(), w.routes.Changes(), entries, restores4+restores6, w.sysctl.Changes())
}

// check says that no packet is let through to an address and port that IPVS
// does not serve: it would reach the host.
func (w *world) check() {
	if w.lax {
		return
	}
	servers, _ := w.ipvs.List()
	sets, _ := w.sets.List(portSet, "inet6:"+portSet)
	for name, s := range sets {
		for e := range s.Entries {
			id := entryID(e)
			if _, ok := servers[id]; !ok {
				w.t.Errorf("%s lets %s through, which IPVS does not serve", name, e)
			}
		}
	}
}

// checkedIPVS and checkedSets carry changes out one by one and check after each.
type (
	checkedIPVS struct {
		*ipvs.Fake
		*world
	}
	checkedSets struct{ *world }
)

func (c checkedIPVS) Apply(changes []ipvs.Change) []error {
	var errs []error
	for _, change := range changes {
		errs = append(errs, c.ipvs.Apply([]ipvs.Change{change})...)
		c.check()
	}
	return errs
}

func (c checkedSets) List(prefixes ...string) (map[string]ipset.Set, error) {
	return c.sets.List(prefixes...)
}

func (c checkedSets) Apply(changes []ipset.Change) []error {
	var errs []error
	for _, change := range changes {
		errs = append(errs, c.sets.Apply([]ipset.Change{change})...)
		c.check()
	}
	return errs
}

// bubble runs a test with a clock of its own.
func bubble(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(t, newWorld(t)) })
}
