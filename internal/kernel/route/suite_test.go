package route

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// system is an implementation under test, with ways to look at it and to
// change what is around it that do not go through it.
type system struct {
	Interface
	text    func(table int) string // as ip route, only proto 17
	addLink func(name string, addrs ...string)
	delLink func(name string)
	foreign func(key Key, via string) // "ip route replace KEY via VIA proto static"
	spawn   func(func())
	// addDummy adds a dummy link, which cedes if it is called former0.
	addDummy func(name, addr string)
}

func key(dst string) Key { return Key{Table: Main, Dst: netip.MustParsePrefix(dst)} }

// via is a route by next hops of the form "192.168.66.12", "192.168.66.12@v0",
// "@v0", or "172.31.0.9@v0!" for one that is on the link.
func via(dst string, hops ...string) Route {
	r := Route{Key: key(dst), Type: Unicast}
	for _, hop := range hops {
		addr, link, _ := strings.Cut(hop, "@")
		h := NextHop{Link: strings.TrimSuffix(link, "!"), OnLink: strings.HasSuffix(link, "!")}
		if addr != "" {
			h.Via = netip.MustParseAddr(addr)
		}
		r.NextHops = append(r.NextHops, h)
	}
	return r
}

func local(dst, link string) Route {
	return Route{
		Key:  Key{Table: Local, Dst: netip.MustParsePrefix(dst)},
		Type: LocalType, NextHops: []NextHop{{Link: link}},
	}
}

func unreachable(dst string) Route { return Route{Key: key(dst), Type: Unreachable} }

func (r Route) from(src string) Route {
	r.Src = netip.MustParseAddr(src)
	return r
}

// suite holds fake and kernel to the same behaviour.
func suite(t *testing.T, fresh func(*testing.T) system) {
	tests := []struct {
		name string
		run  func(*testing.T, system)
	}{
		{"routes of both families and all types", testKinds},
		{"replacement in every direction", testReplace},
		{"another table", testTable},
		{"removal", testDelete},
		{"removal of all, from every table", testRemove},
		{"refusals", testRefusals},
		{"routes of others stay", testForeign},
		{"our route that another owner took over", testTakenOver},
		{"a restart of a converged node changes nothing", testAdopt},
		{"only differences reach the kernel", testDifferences},
		{"drift is found and repaired", testResync},
		{"failures are tried again", testRetry},
		{"a lost route is noticed", testWatch},
		{"rules are made, found and removed", testRules},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := fresh(t)
			s.addLink("v0", "192.168.66.11/24", "fd00:66::11/64")
			s.addLink("v1", "192.168.67.11/24", "fd00:67::11/64", "10.96.255.1/32")
			test.run(t, s)
		})
	}
}

func (s system) Replace(r Route) error { return s.Apply([]Change{{r.Key, &r}})[0] }

func (s system) Delete(k Key) error { return s.Apply([]Change{{Key: k}})[0] }

func (s system) replace(t *testing.T, routes ...Route) {
	t.Helper()
	for _, r := range routes {
		if err := s.Replace(r); err != nil {
			t.Fatal(err)
		}
	}
}

func (s system) want(t *testing.T, table int, want string) {
	t.Helper()
	want = strings.TrimLeft(want, "\n")
	if got := s.text(table); got != want {
		t.Errorf("ip route:\n%s\nwant:\n%s", got, want)
	}
	routes, err := s.List(table)
	if err != nil {
		t.Fatal(err)
	}
	if got := Text(routes); got != want {
		t.Errorf("List:\n%s\nwant:\n%s", got, want)
	}
}

func testKinds(t *testing.T, s system) {
	s.want(t, Main, "")
	s.replace(t,
		via("10.244.2.0/24", "192.168.66.12@v0"),
		via("10.244.3.0/24", "192.168.66.13"),
		via("10.244.4.0/24", "192.168.66.14@v0", "192.168.67.14@v1"),
		via("10.244.5.0/24", "@v0").from("192.168.66.11"),
		via("10.244.6.7/32", "192.168.66.12").from("192.168.66.11"),
		via("10.244.7.0/24", "172.31.0.9@v1!").from("192.168.66.11"),
		via("10.244.8.0/24", "172.31.0.9@v1!", "192.168.66.12@v0"),
		via("0.0.0.0/0", "192.168.66.1"),
		unreachable("10.244.0.0/16"),
		via("fd00:244:2::/64", "fd00:66::12@v0"),
		via("fd00:244:3::/64", "fd00:66::13"),
		via("fd00:244:4::/64", "fd00:66::14@v0", "fd00:67::14@v1"),
		via("fd00:244:5::/64", "@v0"),
		via("fd00:244:7::/64", "fd00:99::9@v1!").from("fd00:66::11"),
		via("fd00:244:8::/64", "fe80::9@v1!"),
		via("fd00:244:9::/64", "fd00:99::9@v1!", "fd00:66::12@v0"),
		via("::/0", "fd00:66::1"),
		unreachable("fd00:244::/48"),
		local("10.96.0.0/16", "lo").from("10.96.255.1"),
		local("fd00:96::/112", "lo"),
	)
	s.want(t, Main, `
10.244.2.0/24 via 192.168.66.12 dev v0 proto 17
10.244.3.0/24 via 192.168.66.13 dev v0 proto 17
10.244.4.0/24 proto 17 nexthop via 192.168.66.14 dev v0 nexthop via 192.168.67.14 dev v1
10.244.5.0/24 dev v0 proto 17 src 192.168.66.11
10.244.6.7 via 192.168.66.12 dev v0 proto 17 src 192.168.66.11
10.244.7.0/24 via 172.31.0.9 dev v1 proto 17 src 192.168.66.11 onlink
10.244.8.0/24 proto 17 nexthop via 172.31.0.9 dev v1 onlink nexthop via 192.168.66.12 dev v0
default via 192.168.66.1 dev v0 proto 17
default via fd00:66::1 dev v0 proto 17
fd00:244:2::/64 via fd00:66::12 dev v0 proto 17
fd00:244:3::/64 via fd00:66::13 dev v0 proto 17
fd00:244:4::/64 proto 17 nexthop via fd00:66::14 dev v0 nexthop via fd00:67::14 dev v1
fd00:244:5::/64 dev v0 proto 17
fd00:244:7::/64 via fd00:99::9 dev v1 proto 17 src fd00:66::11 onlink
fd00:244:8::/64 via fe80::9 dev v1 proto 17 onlink
fd00:244:9::/64 proto 17 nexthop via fd00:66::12 dev v0 nexthop via fd00:99::9 dev v1 onlink
unreachable 10.244.0.0/16 proto 17
unreachable fd00:244::/48 proto 17
`)
	s.want(t, Local, `
local 10.96.0.0/16 dev lo proto 17 src 10.96.255.1
local fd00:96::/112 dev lo proto 17
`)
}

// The kinds of a route turn into one another in one step, in both families,
// where IPv6 treats several next hops as several routes.
func testReplace(t *testing.T, s system) {
	for _, routes := range [][]Route{
		{
			via("10.244.2.0/24", "192.168.66.12@v0"),
			via("10.244.2.0/24", "192.168.66.12@v1!"),
			via("10.244.2.0/24", "192.168.66.12@v0", "192.168.67.12@v1"),
			via("10.244.2.0/24", "@v1"),
			unreachable("10.244.2.0/24"),
		}, {
			via("fd00:244:2::/64", "fd00:66::12@v0"),
			via("fd00:244:2::/64", "fe80::9@v1!"),
			via("fd00:244:2::/64", "fd00:66::12@v0", "fd00:67::12@v1"),
			via("fd00:244:2::/64", "@v1"),
			unreachable("fd00:244:2::/64"),
		},
	} {
		for _, from := range routes {
			for _, to := range routes {
				s.replace(t, from, to)
				s.want(t, Main, to.String()+"\n")
				if err := s.Delete(from.Key); err != nil {
					t.Fatal(err)
				}
				s.want(t, Main, "")
			}
		}
	}
}

func testTable(t *testing.T, s system) {
	const table = 77
	s.want(t, table, "")
	r := via("10.244.2.0/24", "192.168.66.12@v0")
	r.Table = table
	s.replace(t, r)
	s.want(t, table, r.String()+"\n")
	s.want(t, Main, "")
	if err := s.Delete(r.Key); err != nil {
		t.Fatal(err)
	}
	s.want(t, table, "")
}

func testDelete(t *testing.T, s system) {
	routes := []Route{
		via("10.244.4.0/24", "192.168.66.14@v0", "192.168.67.14@v1"),
		via("10.244.5.0/24", "@v0"),
		via("fd00:244:4::/64", "fd00:66::14@v0", "fd00:67::14@v1"),
		unreachable("fd00:244::/48"),
		local("10.96.0.0/16", "lo").from("10.96.255.1"),
		local("fd00:96::/112", "lo"),
	}
	s.replace(t, routes...)
	for range 2 { // the second time it is gone already
		for _, r := range routes {
			if err := s.Delete(r.Key); err != nil {
				t.Error(err)
			}
		}
		s.want(t, Main, "")
		s.want(t, Local, "")
	}
}

func testRemove(t *testing.T, s system) {
	s.foreign(key("10.244.9.0/24"), "192.168.66.99")
	ours := []Route{
		via("10.244.2.0/24", "192.168.66.12@v0"),
		via("10.244.4.0/24", "192.168.66.14@v0", "192.168.67.14@v1"),
		via("fd00:244:4::/64", "fd00:66::14@v0", "fd00:67::14@v1"),
		via("192.168.66.12/32", "@v0"),
		local("10.96.0.10/32", "lo").from("10.96.255.1"),
	}
	ours[3].Table = 77
	s.replace(t, ours...)
	removed, err := Remove(s)
	if len(removed) != len(ours) || err != nil {
		t.Errorf("removed %v, %v", removed, err)
	}
	for _, table := range []int{Main, Local, 77} {
		s.want(t, table, "")
	}
	if removed, err := Remove(s); removed != nil || err != nil {
		t.Errorf("again: removed %v, %v", removed, err)
	}
	if err := s.Replace(via("10.244.9.0/24", "192.168.66.12")); !errors.Is(err, ErrForeign) {
		t.Errorf("the route of somebody else has gone: %v", err)
	}
}

func testRefusals(t *testing.T, s system) {
	s.replace(t, via("10.244.2.0/24", "192.168.66.12@v0"))
	for _, test := range []struct {
		route Route
		want  []error // any of them
	}{
		{via("10.244.3.0/24", "172.31.0.1"), []error{syscall.ENETUNREACH}},
		{via("10.244.2.0/24", "172.31.0.1"), []error{syscall.ENETUNREACH}},
		{via("10.244.3.0/24", "192.168.66.12@nonesuch"), []error{syscall.ENODEV}},
		{via("fd00:244::/64", "fd00:99::1"), []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH}},
		{via("10.244.3.0/24", "172.31.0.1@nonesuch!"), []error{syscall.ENODEV}},
		{via("10.244.3.0/24", "@v0!"), []error{syscall.EINVAL}},
		{via("10.244.3.0/24"), []error{syscall.EINVAL}},
		{via("10.244.3.0/24", ""), []error{syscall.EINVAL}},
		{via("10.244.3.0/24", "fd00:66::12"), []error{syscall.EINVAL}},
		{via("10.244.3.1/24", "192.168.66.12"), []error{syscall.EINVAL}},
		{via("10.244.3.0/24", "192.168.66.12").from("fd00:66::11"), []error{syscall.EINVAL}},
		{Route{Key: key("10.244.3.0/24"), Type: 99}, []error{syscall.EINVAL}},
		{Route{Type: Unreachable}, []error{syscall.EINVAL}},
		{local("10.96.0.0/16", ""), []error{syscall.EINVAL}},
	} {
		err := s.Replace(test.route)
		ok := false
		for _, want := range test.want {
			ok = ok || errors.Is(err, want)
		}
		if !ok {
			t.Errorf("%s: %v, want %v", test.route, err, test.want)
		}
	}
	if err := s.Delete(Key{}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Delete of nothing: %v", err)
	}
	s.want(t, Main, "10.244.2.0/24 via 192.168.66.12 dev v0 proto 17\n")
}

func testForeign(t *testing.T, s system) {
	s.foreign(key("10.244.9.0/24"), "192.168.66.99")
	s.foreign(key("fd00:244:9::/64"), "fd00:66::99")
	for _, r := range []Route{
		via("10.244.9.0/24", "192.168.66.12"),
		via("fd00:244:9::/64", "fd00:66::12"),
		via("192.168.66.0/24", "192.168.67.12"),                                 // connected
		local("192.168.66.11/32", "lo"),                                         // the kernel's own
		via("10.244.9.0/24", "192.168.66.12", "192.168.67.12"),                  // several
		via("fd00:244:9::/64", "fd00:66::12@v0", "fd00:67::12@v1"),              // several
		{Key: key("10.244.9.0/24"), Type: Unreachable},                          // of another type
		via("10.244.9.0/24", "192.168.66.99"),                                   // the same one
		via("fd00:244:9::/64", "fd00:66::99@v0"),                                // the same one
		{Key: key("fd00:244:9::/64"), Type: Unreachable, NextHops: []NextHop{}}, // of another type
	} {
		err := s.Replace(r)
		if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), dstText(r.Dst)+" ") {
			t.Errorf("%s: %v, want ErrForeign with their route", r, err)
		}
		if err := s.Delete(r.Key); err != nil {
			t.Error(err)
		}
	}
	s.want(t, Main, "")
	// They are still there: we still may not.
	if err := s.Replace(via("10.244.9.0/24", "192.168.66.12")); !errors.Is(err, ErrForeign) {
		t.Error("the foreign route was deleted")
	}
	if err := s.Replace(via("fd00:244:9::/64", "fd00:66::12")); !errors.Is(err, ErrForeign) {
		t.Error("the foreign route was deleted")
	}
}

func testCeding(t *testing.T, s system) {
	s.addDummy("former0", "10.96.0.10/32")
	s.addDummy("mine0", "10.96.0.11/32")
	ours := local("10.96.0.10/32", "lo").from("192.168.66.11")
	s.replace(t, ours)
	s.want(t, Local, "local 10.96.0.10 dev lo proto 17 src 192.168.66.11\n")
	other := local("10.96.0.10/32", "lo").from("192.168.67.11")
	s.replace(t, other, ours, ours) // changed, and changed back, beside theirs
	s.want(t, Local, "local 10.96.0.10 dev lo proto 17 src 192.168.66.11\n")
	if err := s.Replace(local("10.96.0.11/32", "lo")); !errors.Is(err, ErrForeign) {
		t.Errorf("another link's route: %v", err)
	}
	s.delLink("former0")
	s.want(t, Local, "local 10.96.0.10 dev lo proto 17 src 192.168.66.11\n")
	if err := s.Delete(ours.Key); err != nil {
		t.Error(err)
	}
	s.want(t, Local, "")
	// Taking ours away leaves theirs.
	s.addDummy("former0", "10.96.0.10/32")
	s.replace(t, ours)
	if err := s.Delete(ours.Key); err != nil {
		t.Error(err)
	}
	if err := s.Replace(unreachableLocal("10.96.0.10/32")); !errors.Is(err, ErrForeign) {
		t.Errorf("theirs has gone, too: %v", err)
	}
}

// unreachableLocal is a route that is in the way of a local one.
func unreachableLocal(dst string) Route {
	return Route{Key: Key{Table: Local, Dst: netip.MustParsePrefix(dst)}, Type: Unreachable}
}

func testTakenOver(t *testing.T, s system) {
	routes := NewRoutes(s, Main)
	want := via("10.244.2.0/24", "192.168.66.12@v0")
	mustSet(t, routes, map[Key]*Route{want.Key: &want})
	s.foreign(want.Key, "192.168.66.99")
	if _, err := routes.Resync(); !errors.Is(err, ErrForeign) {
		t.Errorf("Resync: %v, want ErrForeign", err)
	}
	s.want(t, Main, "")
}

func testWatch(t *testing.T, s system) {
	ctx, cancel := context.WithCancel(context.Background())
	called, done := make(chan struct{}, 1), make(chan error, 1)
	s.spawn(func() {
		done <- s.Watch(ctx, func() {
			select {
			case called <- struct{}{}:
			default:
			}
		})
	})
	// When the subscription begins is not defined: change until it is noticed.
	deadline := time.After(10 * time.Second)
	for noticed := false; !noticed; {
		s.addLink("v8", "192.168.88.11/24")
		s.delLink("v8")
		select {
		case <-called:
			noticed = true
		case <-time.After(200 * time.Millisecond):
		case <-deadline:
			t.Fatal("Watch did not call within 10 s")
		}
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Watch: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Watch did not end with its context")
	}
}

func testRules(t *testing.T, s system) {
	four := Rule{Priority: 1000, Src: netip.MustParsePrefix("10.244.1.0/24"), Table: 77}
	six := Rule{Priority: 1000, Src: netip.MustParsePrefix("fd00:244:1::/64"), Table: 300}
	want := func(rules ...Rule) {
		t.Helper()
		if got, err := s.Rules(); err != nil || !slices.Equal(got, rules) {
			t.Errorf("Rules() = %v, %v, want %v", got, err, rules)
		}
	}
	want()
	for range 2 {
		for _, r := range []Rule{four, six} {
			if err := s.AddRule(r); err != nil {
				t.Error(err)
			}
		}
		want(four, six)
	}
	for range 2 {
		if err := s.DeleteRule(four); err != nil {
			t.Error(err)
		}
		want(six)
	}
	for _, bad := range []Rule{{}, {Priority: 1, Table: 77}, {Src: four.Src, Table: 77}, {Priority: 1, Src: four.Src}} {
		if err := s.AddRule(bad); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("AddRule(%s): %v", bad, err)
		}
	}
}
