package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kube-router/kube-router/internal/inet"
)

func server(c Config, weights map[string]uint32) *Server {
	s := &Server{Config: c, Real: map[netip.AddrPort]Real{}}
	for addr, weight := range weights {
		s.Real[netip.MustParseAddrPort(addr)] = Real{Weight: weight}
	}
	return s
}

// ownsClusterIPs claims what is in 10.96.0.0/16.
func ownsClusterIPs(id ID) bool {
	return netip.MustParsePrefix("10.96.0.0/16").Contains(id.Addr.Addr())
}

func mustSet(t interface{ Fatalf(string, ...any) }, s *Servers, want map[ID]*Server) {
	for id, err := range s.Set(want) {
		t.Fatalf("%s: %v", id, err)
	}
}

func loaded(t *testing.T, driver Interface) *Servers {
	t.Helper()
	s := NewServers(driver, ownsClusterIPs)
	if err := s.Load(); err != nil {
		t.Fatal(err)
	}
	return s
}

func testServersAdopt(t *testing.T, s system) {
	foreign := tcp("192.0.2.1:80")
	s.apply(t, addServer(foreign, rr))
	want := map[ID]*Server{
		tcp("10.96.0.20:80"):           server(rr, map[string]uint32{"10.244.1.5:8080": 1, "10.244.1.6:8080": 1}),
		id(inet.UDP, "10.96.0.10:53"):  server(rr, map[string]uint32{"10.244.1.2:53": 1}),
		tcp("[fd00:96::1]:443"):        server(Config{Scheduler: "sh", Persistence: 9}, map[string]uint32{"[fd00::5]:443": 1}),
		id(inet.SCTP, "10.96.0.10:53"): server(rr, nil),
	}
	first := loaded(t, s)
	mustSet(t, first, want)
	before := s.text()

	second := loaded(t, s)
	mustSet(t, second, want)
	second.Retain(func(id ID) bool { return want[id] != nil })
	if repaired, err := second.Resync(); repaired != 0 || err != nil {
		t.Errorf("Resync = %d, %v", repaired, err)
	}
	if c := second.Counters(); c.Changes != 0 || c.Failed != 0 {
		t.Errorf("a restart of a converged node changed the kernel: %+v", c)
	}
	if after := s.text(); after != before {
		t.Errorf("a restart left\n%swant\n%s", after, before)
	}

	gone := tcp("10.96.0.20:80")
	third := loaded(t, s)
	delete(want, gone)
	mustSet(t, third, want)
	mustSet(t, third, map[ID]*Server{foreign: nil})
	if errs := third.Retain(func(id ID) bool { return want[id] != nil }); len(errs) > 0 {
		t.Error(errs)
	}
	if c := third.Counters(); c.Changes != 1 {
		t.Errorf("the sweep took %d changes, want 1: ours goes, the foreign one stays", c.Changes)
	}
	if _, ok, err := s.Get(foreign); !ok || err != nil {
		t.Errorf("the foreign server is gone: %v", err)
	}
}

// atEachStep shows the state of the system before every change.
type atEachStep struct {
	system
	look func()
}

func (s atEachStep) Apply(changes []Change) []error {
	errs := make([]error, len(changes))
	for i, c := range changes {
		errs[i] = s.system.Apply([]Change{c})[0]
		s.look()
	}
	return errs
}

func testServersOrder(t *testing.T, s system) {
	web := tcp("10.96.0.20:80")
	servers := loaded(t, s)
	mustSet(t, servers, map[ID]*Server{web: server(rr, map[string]uint32{"10.244.1.5:80": 1, "10.244.1.6:80": 1})})
	watched := loaded(t, atEachStep{s, func() {
		usable := 0
		now, _, _ := s.Get(web)
		for _, real := range now.Real {
			if real.Weight > 0 {
				usable++
			}
		}
		if usable == 0 {
			t.Error("the virtual server has no usable real server in between")
		}
	}})
	mustSet(t, watched, map[ID]*Server{web: server(Config{Scheduler: "lc"}, map[string]uint32{"10.244.1.5:80": 0, "10.244.2.1:80": 1})})
	s.want(t, `
-A -t 10.96.0.20:80 -s lc
-a -t 10.96.0.20:80 -r 10.244.1.5:80 -m -w 0
-a -t 10.96.0.20:80 -r 10.244.2.1:80 -m -w 1
`)
}

func testServersResync(t *testing.T, s system) {
	web, dns := tcp("10.96.0.20:80"), id(inet.UDP, "10.96.0.10:53")
	servers := loaded(t, s)
	mustSet(t, servers, map[ID]*Server{
		web: server(rr, map[string]uint32{"10.244.1.5:80": 1}),
		dns: server(rr, map[string]uint32{"10.244.1.2:53": 1}),
	})
	servers.Retain(func(ID) bool { return true })
	want := s.text()
	s.apply(t,
		real(AddReal, web, "10.244.9.9:80", 1),
		real(DeleteReal, web, "10.244.1.5:80", 0),
		Change{Op: DeleteServer, ID: dns},
		addServer(tcp("10.96.0.99:1"), rr),
	)
	if repaired, err := servers.Resync(); repaired != 3 || err != nil {
		t.Errorf("Resync = %d, %v, want 3 repaired", repaired, err)
	}
	s.want(t, want)
	if repaired, err := servers.Resync(); repaired != 0 || err != nil {
		t.Errorf("second Resync = %d, %v", repaired, err)
	}
}

func TestSetIsOneBatchAndOnlyDifferences(t *testing.T) {
	f := NewFake()
	s := loaded(t, f)
	all := map[ID]*Server{}
	for i := range 100 {
		all[tcp(fmt.Sprintf("10.96.0.%d:80", i))] = server(rr, map[string]uint32{"10.244.1.5:80": 1})
	}
	mustSet(t, s, all)
	if f.Batches() != 1 || f.Changes() != 200 {
		t.Errorf("%d changes in %d batches, want 200 in 1", f.Changes(), f.Batches())
	}
	mustSet(t, s, all)
	one := tcp("10.96.0.7:80")
	mustSet(t, s, map[ID]*Server{one: server(rr, map[string]uint32{"10.244.1.5:80": 1, "10.244.1.6:80": 1})})
	if f.Batches() != 2 || f.Changes() != 201 {
		t.Errorf("%d changes in %d batches, want one more of each", f.Changes(), f.Batches())
	}
}

func TestFailureIsReadBackAndRepaired(t *testing.T) {
	web, dns := tcp("10.96.0.20:80"), id(inet.UDP, "10.96.0.10:53")
	want := map[ID]*Server{
		web: server(rr, map[string]uint32{"10.244.1.5:80": 1}),
		dns: server(rr, map[string]uint32{"10.244.1.2:53": 1}),
	}
	retries := map[string]func(*Servers) error{
		"by Set": func(s *Servers) error { return s.Set(map[ID]*Server{web: want[web]})[web] },
		"by Resync": func(s *Servers) error {
			_, err := s.Resync()
			return err
		},
	}
	for name, retry := range retries {
		t.Run(name, func(t *testing.T) {
			f := NewFake()
			s := loaded(t, f)
			f.FailWith(func(c Change) error {
				if c.ID == web && c.Op == AddReal {
					return syscall.ENOMEM
				}
				return nil
			})
			errs := s.Set(want)
			if len(errs) != 1 || !errors.Is(errs[web], syscall.ENOMEM) {
				t.Fatalf("errors %v, want ENOMEM for %s alone", errs, web)
			}
			f.FailWith(nil)
			if err := retry(s); err != nil {
				t.Fatal(err)
			}
			if got, wantText := f.String(), Text(map[ID]Server{web: *want[web], dns: *want[dns]}); got != wantText {
				t.Errorf("after the retry:\n%swant:\n%s", got, wantText)
			}
			if _, err := s.Resync(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRemovalThatFailedIsRetried(t *testing.T) {
	f := NewFake()
	s := loaded(t, f)
	nodePort := tcp("192.0.2.1:30080") // not claimed by owns, but set by us
	mustSet(t, s, map[ID]*Server{nodePort: server(rr, nil)})
	f.FailWith(func(Change) error { return syscall.ENOMEM })
	if errs := s.Set(map[ID]*Server{nodePort: nil}); !errors.Is(errs[nodePort], syscall.ENOMEM) {
		t.Fatal(errs)
	}
	f.FailWith(nil)
	mustSet(t, s, map[ID]*Server{nodePort: nil})
	if f.String() != "" {
		t.Errorf("left:\n%s", f)
	}
}

func TestResyncBeforeTheFirstSweepDeletesNothing(t *testing.T) {
	f := NewFake()
	f.Apply([]Change{addServer(tcp("10.96.0.20:80"), rr)})
	s := loaded(t, f)
	if _, err := s.Resync(); err != nil {
		t.Fatal(err)
	}
	if got := f.String(); got != "-A -t 10.96.0.20:80 -s rr\n" {
		t.Errorf("what may yet be desired was swept, left: %q", got)
	}
}

// Whatever the kernel holds and whatever comes in whichever order, with
// failures in between, ends as what was desired last.
func TestServersConverge(t *testing.T) {
	ids := []ID{tcp("10.96.0.1:80"), MarkID(1, inet.IPv4), id(inet.UDP, "10.96.0.1:80"), MarkID(1, inet.IPv6)}
	v4 := []string{"10.244.0.1:80", "10.244.0.2:80", "10.244.0.3:80"}
	v6 := []string{"[fd00::1:1]:80", "[fd00::1:2]:80"}
	drawServer := func(t *rapid.T, id ID) *Server {
		if rapid.Bool().Draw(t, "none") {
			return nil
		}
		addrs := v4
		if id.family() == inet.IPv6 {
			addrs = v6
		}
		config := Config{
			Scheduler:   rapid.SampledFrom([]string{"rr", "sh"}).Draw(t, "scheduler"),
			Persistence: rapid.SampledFrom([]uint32{0, 10}).Draw(t, "persistence"),
		}
		weights := map[string]uint32{}
		for _, addr := range rapid.SliceOfDistinct(rapid.SampledFrom(addrs), rapid.ID).Draw(t, "reals") {
			weights[addr] = rapid.Uint32Range(0, 2).Draw(t, "weight")
		}
		return server(config, weights)
	}
	rapid.Check(t, func(t *rapid.T) {
		f := NewFake()
		want := map[ID]*Server{}
		s := NewServers(f, func(ID) bool { return true })
		s.Grace = rapid.SampledFrom([]time.Duration{0, grace}).Draw(t, "grace")
		if err := s.Load(); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			failing := rapid.IntRange(0, 8).Draw(t, "failing")
			f.FailWith(func(Change) error {
				if failing--; failing == 0 {
					return syscall.ENOMEM
				}
				return nil
			})
			step := map[ID]*Server{}
			for _, id := range rapid.SliceOfDistinct(rapid.SampledFrom(ids), func(i ID) ID { return i }).Draw(t, "ids") {
				step[id] = drawServer(t, id)
				want[id] = step[id]
			}
			errs := s.Set(step)
			f.FailWith(nil)
			again := map[ID]*Server{}
			for id := range errs {
				again[id] = step[id]
			}
			mustSet(t, s, again)
		}
		if left, err := s.Reap(time.Now().Add(grace)); left != 0 || err != nil {
			t.Fatalf("Reap = %d, %v", left, err)
		}
		final := map[ID]Server{}
		for id, server := range want {
			if server != nil {
				final[id] = *server
			}
		}
		if got, want := f.String(), Text(final); got != want {
			t.Fatalf("got\n%swant\n%s", got, want)
		}
		changes := f.Changes()
		if n, err := s.Resync(); n != 0 || err != nil || f.Changes() != changes {
			t.Fatalf("Resync of a converged system = %d, %v", n, err)
		}
	})
}
