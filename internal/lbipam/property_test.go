package lbipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// machine drives an allocator as the controller does, with a status that is
// written late, or not at all before the next change.
type machine struct {
	alloc    *allocator
	services map[cluster.Key]*cluster.Service
	uids     int
}

// 192.0.2.1 to 192.0.2.6 and four of IPv6, with ranges that overlap.
const smallRanges = "192.0.2.0/29 192.0.2.4/31 2001:db8::/126"

var someAddrs = []string{"", "", "", "192.0.2.1", "192.0.2.4", "192.0.2.7", "2001:db8::2", "198.51.100.1", "192.0.2.2 2001:db8::1"}

func newMachine() *machine {
	isOurs := func(class string) bool { return class != "metallb" }
	return &machine{alloc: newAllocator(prefixes(smallRanges), isOurs), services: map[cluster.Key]*cluster.Service{}}
}

func (m *machine) put(t *rapid.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}).Draw(t, "name")
	s := lb(name, created(rapid.IntRange(0, 3).Draw(t, "created")),
		class(rapid.SampledFrom([]string{"", "", "kube-router", "metallb"}).Draw(t, "class")),
		external(rapid.SampledFrom(someAddrs).Draw(t, "external")),
		asks(rapid.SampledFrom(someAddrs).Draw(t, "asks")))
	s.LoadBalancer.Families = rapid.SampledFrom([][]inet.Family{{v4}, {v6}, {v4, v6}, {v6, v4}}).Draw(t, "families")
	switch rapid.IntRange(0, 4).Draw(t, "policy") {
	case 0:
		s.LoadBalancer.AllFamilies = true
	case 1:
		s.LoadBalancer.AnyFamily = true
	case 2:
		s.LoadBalancer.Wanted = false
	}
	if old := m.services[s.Key]; old != nil && rapid.IntRange(0, 3).Draw(t, "same") > 0 {
		s.UID = old.UID
		s.LoadBalancer.Created = old.LoadBalancer.Created
		if s.LoadBalancer.Wanted { // else the API server clears it
			s.LoadBalancer.Ingress = old.LoadBalancer.Ingress
		}
	} else {
		m.uids++
		s.UID = fmt.Sprint(m.uids)
	}
	m.services[s.Key] = s
	m.alloc.set(s)
}

// serve decides; what was decided is not written yet.
func (m *machine) serve(*rapid.T) { m.alloc.serve() }

func (m *machine) remove(t *rapid.T) {
	if key, ok := m.any(t); ok {
		delete(m.services, key)
		m.alloc.remove(key)
	}
}

func (m *machine) any(t *rapid.T) (cluster.Key, bool) {
	keys := slices.SortedFunc(maps.Keys(m.alloc.holders), func(a, b cluster.Key) int { return older(m.alloc.holders[a].service, m.alloc.holders[b].service) })
	if len(keys) == 0 {
		return cluster.Key{}, false
	}
	return rapid.SampledFrom(keys).Draw(t, "key"), true
}

// write writes the status of one Service, and sometimes the feed tells of it.
func (m *machine) write(t *rapid.T) {
	if key, ok := m.any(t); ok {
		m.writeOne(key, rapid.Bool().Draw(t, "echo"))
	}
}

func (m *machine) writeOne(key cluster.Key, echo bool) {
	h := m.alloc.holders[key]
	if h == nil {
		return
	}
	s := m.services[key]
	if m.alloc.differs(h) && s != nil && s.UID == h.service.UID {
		changed, l := *s, *s.LoadBalancer
		l.Ingress = h.ingress()
		changed.LoadBalancer = &l
		s = &changed
		m.services[key] = s
	}
	m.alloc.written(key)
	if echo && s != nil && m.alloc.holders[key] != nil {
		m.alloc.set(s)
	}
}

// settle does all that is to be done.
func (m *machine) settle() {
	for range 20 {
		m.alloc.serve()
		for key := range maps.Clone(m.alloc.holders) {
			m.writeOne(key, true)
		}
	}
}

// check is what holds at all times: no address is given or shown twice.
func (m *machine) check(t *rapid.T) {
	given, shown := map[netip.Addr]cluster.Key{}, map[netip.Addr]cluster.Key{}
	once := func(seen map[netip.Addr]cluster.Key, addr netip.Addr, key cluster.Key) {
		if other, ok := seen[addr]; ok && other != key {
			t.Fatalf("%s and %s both have %s", other, key, addr)
		}
		seen[addr] = key
	}
	for key, h := range m.alloc.holders {
		for _, addr := range h.held {
			once(given, addr, key)
		}
		for _, addr := range h.leaving {
			once(given, addr, key)
		}
	}
	for key, s := range m.services {
		for _, addr := range ingress(s) {
			once(shown, addr, key)
		}
	}
}

// checkSettled is what holds once all is done: whoever lacks an address could
// not be given one, and one who reads it all anew would decide the same.
func (m *machine) checkSettled(t *rapid.T) {
	m.settle()
	m.check(t)
	free := map[inet.Family]bool{}
	for f, list := range map[inet.Family]string{v4: "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6", v6: "2001:db8:: 2001:db8::1 2001:db8::2 2001:db8::3"} {
		for _, addr := range addrs(list) {
			used := slices.ContainsFunc(slices.Collect(maps.Values(m.services)), func(s *cluster.Service) bool {
				return slices.Contains(s.ExternalIPs, addr) || slices.Contains(ingress(s), addr)
			})
			free[f] = free[f] || !used
			if used != m.alloc.taken(addr) {
				t.Fatalf("%s: taken %v, used %v", addr, m.alloc.taken(addr), used)
			}
		}
	}
	for key, h := range m.alloc.waiting {
		lb := h.service.LoadBalancer
		for _, f := range lb.Families {
			if !lb.AllFamilies && free[f] && !h.held[f].IsValid() && !wish(lb, f).IsValid() {
				t.Fatalf("%s lacks %s, which is free", key, f)
			}
		}
		if h.refusal == "" && !lb.AnyFamily {
			t.Fatalf("%s waits without a word", key)
		}
	}
	m.checkRestart(t)
	for key := range m.services {
		delete(m.services, key)
		m.alloc.remove(key)
	}
	m.settle()
	if a := m.alloc; len(a.holders) > 0 || len(a.uses) > 0 || len(a.waiting) > 0 || len(a.fresh) > 0 {
		t.Fatalf("remembered of nothing: %d Services, %d addresses, %d that wait", len(a.holders), len(a.uses), len(a.waiting))
	}
}

func (m *machine) checkRestart(t *rapid.T) {
	anew := newMachine()
	list := slices.SortedFunc(maps.Values(m.services), older)
	for _, s := range list {
		anew.alloc.set(s)
	}
	anew.alloc.serve()
	for _, s := range list {
		if h := anew.alloc.holders[s.Key]; h != nil && anew.alloc.differs(h) {
			t.Fatalf("a new leader changes %s from %v to %v", s.Name, ingress(s), h.ingress())
		}
	}
}

func TestNoAddressTwiceAndNoneLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		t.Repeat(map[string]func(*rapid.T){
			"": m.check, "put": m.put, "serve": m.serve, "remove": m.remove, "write": m.write,
		})
		m.checkSettled(t)
	})
}

// What an allocation costs does not grow with the size of a range, or with what
// is in use of it.
func TestLowestFreeIsNotSearchedFor(t *testing.T) {
	looked, used := 0, map[netip.Addr]bool{}
	p := newPool(netip.MustParsePrefix("10.0.0.0/8"))
	taken := func(a netip.Addr) bool { looked++; return used[a] }
	for range 50000 {
		used[p.lowest(taken)] = true
	}
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 0, 100, byte(i)})
		delete(used, a)
		p.free(a)
		if got := p.lowest(taken); got != a {
			t.Fatalf("the lowest free is %s, not %s", got, a)
		}
		used[a] = true
	}
	for range 1000 {
		p.free(netip.MustParseAddr("10.0.0.9"))
		p.free(netip.MustParseAddr("10.200.0.9"))
	}
	if len(p.freed) > 257 { // what was given again goes when it is looked at
		t.Errorf("%d freed addresses are remembered", len(p.freed))
	}
	if looked > 3*51000 {
		t.Errorf("looked at %d addresses to give 51000", looked)
	}
}
