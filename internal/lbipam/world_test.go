package lbipam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(text string) []netip.Addr {
	var list []netip.Addr
	for _, s := range strings.Fields(text) {
		if s == "hostname" {
			list = append(list, netip.Addr{})
			continue
		}
		list = append(list, addr(s))
	}
	return list
}

func prefixes(text string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range strings.Fields(text) {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type edit func(*cluster.Service)

// lb is a Service of namespace default that asks for one IPv4 address. Those
// without an age are all of one second.
func lb(name string, edits ...edit) *cluster.Service {
	s := &cluster.Service{
		Meta: cluster.Meta{Key: cluster.Key{Namespace: "default", Name: name}, UID: "uid-" + name},
		LoadBalancer: &cluster.LoadBalancer{
			Wanted: true, Created: epoch, Families: []inet.Family{inet.IPv4},
		},
	}
	for _, e := range edits {
		e(s)
	}
	return s
}

func with(edit func(*cluster.LoadBalancer)) edit {
	return func(s *cluster.Service) { edit(s.LoadBalancer) }
}

func created(seconds int) edit {
	return with(func(l *cluster.LoadBalancer) { l.Created = epoch.Add(time.Duration(seconds) * time.Second) })
}
func class(name string) edit { return with(func(l *cluster.LoadBalancer) { l.Class = name }) }
func shows(text string) edit { return with(func(l *cluster.LoadBalancer) { l.Ingress = addrs(text) }) }
func asks(text string) edit  { return with(func(l *cluster.LoadBalancer) { l.Requested = addrs(text) }) }
func families(f ...inet.Family) edit {
	return with(func(l *cluster.LoadBalancer) { l.Families = f })
}
func requireDual(f ...inet.Family) edit {
	return with(func(l *cluster.LoadBalancer) { l.Families, l.AllFamilies = f, true })
}
func preferDual(f ...inet.Family) edit {
	return with(func(l *cluster.LoadBalancer) { l.Families, l.AnyFamily = f, true })
}
func uid(u string) edit { return func(s *cluster.Service) { s.UID = u } }
func external(text string) edit {
	return func(s *cluster.Service) { s.ExternalIPs = addrs(text) }
}

// clusterIP is what is left when a Service stops being of type LoadBalancer.
func clusterIP(s *cluster.Service) { s.LoadBalancer = nil }

// world is an API server with Services, and agents that follow it.
type world struct {
	t      *testing.T
	agents []*agent
	lease  chan struct{} // holds a token while nobody leads

	mu       sync.Mutex
	services map[cluster.Key]*cluster.Service
	hidden   map[cluster.Key]bool // no longer in the feeds
	writes   []string
	fail     error
	slow     time.Duration // what a write takes, and a list until it is handed over
}

// agent is one node's.
type agent struct {
	*Controller
	w       *world
	name    string
	feeds   *cluster.Feeds
	log     *bytes.Buffer
	lags    bool // its feed hears of nothing
	depose  chan struct{}
	stop    func()
	events  []string
	eventMu sync.Mutex
}

func bubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, lease: make(chan struct{}, 1), services: map[cluster.Key]*cluster.Service{}, hidden: map[cluster.Key]bool{},
		}
		w.lease <- struct{}{}
		defer func() {
			for _, a := range w.agents {
				a.stop()
			}
		}()
		test(t, w)
	})
}

// start runs an agent with ranges to give out.
func (w *world) start(name, ranges string, edits ...func(*Config)) *agent {
	w.t.Helper()
	config := Config{
		Ranges: prefixes(ranges), DefaultClass: true, Namespace: "kube-system", Identity: name, SyncPeriod: time.Minute,
	}
	for _, e := range edits {
		e(&config)
	}
	a := &agent{w: w, name: name, feeds: cluster.NewFeeds(), log: &bytes.Buffer{}, depose: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a.Controller = New(config, a.feeds, a, a, log)
	w.mu.Lock()
	all := map[cluster.Key]*cluster.Service{}
	for key, s := range w.services {
		if !w.hidden[key] {
			all[key] = s
		}
	}
	a.feeds.Services.Replace(all)
	w.agents = append(w.agents, a)
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}()
	a.stop = sync.OnceFunc(func() { cancel(); <-done })
	<-a.Ready()
	synctest.Wait()
	return a
}

// Lead implements API. A deposed agent stands for election again.
func (a *agent) Lead(ctx context.Context, lease cluster.Key, identity string, lead func(context.Context)) {
	if lease.String() != "kube-system/kube-router-lballoc" || identity != a.name {
		a.w.t.Errorf("lease %s, identity %s", lease, identity)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.w.lease:
		}
		term, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-a.depose:
			case <-term.Done():
			}
			cancel()
		}()
		lead(term)
		cancel()
		a.w.lease <- struct{}{}
		time.Sleep(time.Second) // let others be faster
	}
}

// ListServices implements API.
func (a *agent) ListServices(_ context.Context, each func(*cluster.Service)) error {
	a.w.mu.Lock()
	list, hidden, err, slow := maps.Clone(a.w.services), maps.Clone(a.w.hidden), a.w.fail, a.w.slow
	a.w.mu.Unlock()
	time.Sleep(slow)
	for key, s := range list {
		if !hidden[key] && err == nil {
			each(s)
		}
	}
	return err
}

// SetLoadBalancerIPs implements API.
func (a *agent) SetLoadBalancerIPs(_ context.Context, m *cluster.Meta, list []netip.Addr) error {
	return a.write(m, func(s *cluster.Service) error {
		if s.UID != m.UID || s.LoadBalancer == nil || !s.LoadBalancer.Wanted {
			return errors.New("a test of the patch failed")
		}
		s.LoadBalancer.Ingress = slices.Clone(list)
		return nil
	})
}

// ClearLoadBalancerIPs implements API.
func (a *agent) ClearLoadBalancerIPs(_ context.Context, m *cluster.Meta, shown netip.Addr) error {
	return a.write(m, func(s *cluster.Service) error {
		if s.UID == m.UID && s.LoadBalancer != nil && len(s.LoadBalancer.Ingress) > 0 && s.LoadBalancer.Ingress[0] == shown {
			s.LoadBalancer.Ingress = nil
		}
		return nil
	})
}

func (a *agent) write(m *cluster.Meta, change func(*cluster.Service) error) error {
	a.w.mu.Lock()
	slow := a.w.slow
	a.w.mu.Unlock()
	time.Sleep(slow)
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	old := a.w.services[m.Key]
	if a.w.fail != nil || old == nil {
		return a.w.fail
	}
	s := *old
	if old.LoadBalancer != nil {
		l := *old.LoadBalancer
		s.LoadBalancer = &l
	}
	if err := change(&s); err != nil {
		return err
	}
	if !cmp.Equal(old, &s, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })) {
		a.w.writes = append(a.w.writes, m.Name)
		a.w.publish(m.Key, &s)
	}
	return nil
}

// Warn implements cluster.Reporter.
func (a *agent) Warn(kind string, object *cluster.Meta, reason, message string) {
	a.eventMu.Lock()
	defer a.eventMu.Unlock()
	a.events = append(a.events, fmt.Sprintf("%s %s: %s: %s", kind, object.Name, reason, message))
}

// told returns the Events since the last time.
func (a *agent) told() string {
	a.eventMu.Lock()
	defer a.eventMu.Unlock()
	list := strings.Join(a.events, "\n")
	a.events = nil
	return list
}

// publish makes a Service what it is, and looks whether an address is twice.
func (w *world) publish(key cluster.Key, s *cluster.Service) {
	if s == nil {
		delete(w.services, key)
	} else {
		w.services[key] = s
	}
	for _, a := range w.agents {
		switch {
		case a.lags:
		case s == nil || w.hidden[key]:
			a.feeds.Services.Delete(key)
		default:
			a.feeds.Services.Set(key, s)
		}
	}
	owners := map[netip.Addr]string{}
	for _, s := range w.services {
		for _, ip := range ingress(s) {
			if other := owners[ip]; ip.IsValid() && other != "" {
				w.t.Errorf("%s and %s both have %s", other, s.Name, ip)
			}
			owners[ip] = s.Name
		}
	}
}

func ingress(s *cluster.Service) []netip.Addr {
	if s.LoadBalancer == nil {
		return nil
	}
	return s.LoadBalancer.Ingress
}

// put applies Services, and keeps the status that they have.
func (w *world) put(services ...*cluster.Service) {
	w.mu.Lock()
	for _, s := range services {
		if old := w.services[s.Key]; old != nil && old.UID == s.UID && s.LoadBalancer != nil && s.LoadBalancer.Ingress == nil {
			s.LoadBalancer.Ingress = ingress(old)
		}
		w.publish(s.Key, s)
	}
	w.mu.Unlock()
	synctest.Wait()
}

func (w *world) remove(names ...string) {
	w.mu.Lock()
	for _, name := range names {
		w.publish(cluster.Key{Namespace: "default", Name: name}, nil)
	}
	w.mu.Unlock()
	synctest.Wait()
}

// hide takes a Service out of the feeds, as its label does that gives it to
// another proxy.
func (w *world) hide(name string) {
	w.mu.Lock()
	key := cluster.Key{Namespace: "default", Name: name}
	w.hidden[key] = true
	w.publish(key, w.services[key])
	w.mu.Unlock()
	synctest.Wait()
}

func (w *world) set(change func(w *world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// wants compares the status of all Services, a line for each.
func (w *world) wants(want string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := ""
	for _, key := range slices.SortedFunc(maps.Keys(w.services), func(a, b cluster.Key) int { return strings.Compare(a.Name, b.Name) }) {
		line := key.Name
		for _, ip := range ingress(w.services[key]) {
			if !ip.IsValid() {
				line += " hostname"
				continue
			}
			line += " " + ip.String()
		}
		got += line + "\n"
	}
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), got); diff != "" {
		w.t.Errorf("-want +got:\n%s", diff)
	}
}
