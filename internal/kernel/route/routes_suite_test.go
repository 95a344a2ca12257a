package route

import (
	"errors"
	"syscall"
	"testing"
)

func mustSet(t *testing.T, routes *Routes, want map[Key]*Route) {
	t.Helper()
	for _, err := range routes.Set(want) {
		t.Fatal(err)
	}
}

// table is a node's routes: one to each of three others, one with two ways.
func table() map[Key]*Route {
	routes := map[Key]*Route{}
	for _, r := range []Route{
		via("10.244.2.0/24", "192.168.66.12"),
		via("10.244.3.0/24", "192.168.66.13@v0"),
		via("10.244.4.0/24", "192.168.67.14", "192.168.66.14"),
		via("fd00:244:2::/64", "fd00:66::12"),
		via("fd00:244:4::/64", "fd00:67::14", "fd00:66::14"),
		via("10.244.6.0/24", "192.168.66.16").from("192.168.66.11"),
		unreachable("10.244.0.0/16"),
		unreachable("fd00:244::/48"),
	} {
		routes[r.Key] = &r
	}
	return routes
}

func testAdopt(t *testing.T, s system) {
	mustSet(t, NewRoutes(s, Main), table())
	before := s.text(Main)
	again := NewRoutes(s, Main)
	if err := again.Load(); err != nil {
		t.Fatal(err)
	}
	mustSet(t, again, table())
	again.Retain(func(key Key) bool { return table()[key] != nil })
	if n, err := again.Resync(); n != 0 || err != nil {
		t.Errorf("Resync = %d, %v", n, err)
	}
	if c := again.Counters(); c.Changes != 0 || c.Failed != 0 {
		t.Errorf("a restart of a converged node changed the kernel: %+v", c)
	}
	s.want(t, Main, before)
	if errs := again.Retain(func(key Key) bool { return key.Dst.Addr().Is4() }); len(errs) != 0 {
		t.Error(errs)
	}
	if c := again.Counters(); c.Changes != 3 {
		t.Errorf("the sweep took %d changes, want 3", c.Changes)
	}
	if again.Len() != len(table())-3 {
		t.Errorf("Len = %d after the sweep", again.Len())
	}
}

func testDifferences(t *testing.T, s system) {
	routes := NewRoutes(s, Main)
	mustSet(t, routes, table())
	begin := routes.Counters().Changes
	changed := via("10.244.2.0/24", "192.168.66.22")
	mustSet(t, routes, table())
	mustSet(t, routes, map[Key]*Route{changed.Key: &changed, key("10.244.3.0/24"): nil, key("10.244.99.0/24"): nil})
	if n := routes.Counters().Changes - begin; n != 2 {
		t.Errorf("%d changes, want 2", n)
	}
	s.want(t, Main, `
10.244.2.0/24 via 192.168.66.22 dev v0 proto 17
10.244.4.0/24 proto 17 nexthop via 192.168.66.14 dev v0 nexthop via 192.168.67.14 dev v1
10.244.6.0/24 via 192.168.66.16 dev v0 proto 17 src 192.168.66.11
fd00:244:2::/64 via fd00:66::12 dev v0 proto 17
fd00:244:4::/64 proto 17 nexthop via fd00:66::14 dev v0 nexthop via fd00:67::14 dev v1
unreachable 10.244.0.0/16 proto 17
unreachable fd00:244::/48 proto 17
`)
}

func testResync(t *testing.T, s system) {
	routes := NewRoutes(s, Main)
	mustSet(t, routes, table())
	routes.Retain(func(Key) bool { return true })
	before := s.text(Main)
	s.replace(t, via("10.244.3.0/24", "192.168.66.99"), via("10.244.77.0/24", "192.168.66.99"))
	if err := s.Delete(key("fd00:244:2::/64")); err != nil {
		t.Fatal(err)
	}
	if n, err := routes.Resync(); n != 3 || err != nil {
		t.Errorf("Resync = %d, %v, want 3", n, err)
	}
	s.want(t, Main, before)
}

func testRetry(t *testing.T, s system) {
	routes := NewRoutes(s, Main)
	early := via("10.244.2.0/24", "192.168.77.12")
	if errs := routes.Set(map[Key]*Route{early.Key: &early}); !errors.Is(errs[early.Key], syscall.ENETUNREACH) {
		t.Errorf("errors %v, want ENETUNREACH", errs)
	}
	s.addLink("v7", "192.168.77.11/24")
	if n, err := routes.Resync(); n != 1 || err != nil {
		t.Errorf("Resync = %d, %v", n, err)
	}
	s.want(t, Main, "10.244.2.0/24 via 192.168.77.12 dev v7 proto 17\n")

	s.delLink("v7")
	s.want(t, Main, "")
	if errs := routes.Set(map[Key]*Route{early.Key: nil}); len(errs) != 0 {
		t.Errorf("removal of a route that went with its link: %v", errs)
	}
	if n, err := routes.Resync(); n != 0 || err != nil {
		t.Errorf("Resync = %d, %v", n, err)
	}
}
