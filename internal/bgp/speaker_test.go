package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
)

// GoBGP keeps options in package variables, which every speaker that starts
// writes: so tests with speakers in this process run one after the other, and
// start them all before any has a route.

// Speakers of a test are 127.0.<net>.<n>, one loopback net a test, so that
// tests do not meet.
func nodeAddr(net, n byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, net, n}) }

func podCIDR(n byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, n, 0}), 24)
}

const testPort = 17900

func testConfig(net, n byte) Config {
	return Config{
		ASN: 64512, RouterID: nodeAddr(net, n), Listen: []netip.Addr{nodeAddr(net, n)}, Port: testPort,
		Families: []inet.Family{inet.IPv4},
	}
}

func start(t *testing.T, c Config) *Speaker {
	t.Helper()
	s, err := Start(c, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// mesh returns n's peers in a full mesh of the nodes.
func mesh(net, n byte, nodes ...byte) []Peer {
	var peers []Peer
	for _, other := range nodes {
		if other != n {
			peers = append(peers, Peer{
				Addr: nodeAddr(net, other), ASN: 64512, Port: testPort, Local: nodeAddr(net, n), Passive: n < other,
			})
		}
	}
	return peers
}

func own(net, n byte) []Route {
	return []Route{{Prefix: podCIDR(n), NextHop: nodeAddr(net, n), To: ToNodes}}
}

// eventually waits for a condition; got describes what there is instead.
func eventually(t *testing.T, within time.Duration, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		done, got := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s\nthere is:\n%s", within, what, got)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// table is what the speaker learned, one route a line.
func table(s *Speaker) string {
	var lines []string
	for prefix, hops := range s.Learned() {
		lines = append(lines, fmt.Sprintf("%s via %v", prefix, hops))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func learns(t *testing.T, s *Speaker, lines ...string) {
	t.Helper()
	want := strings.Join(lines, "\n")
	eventually(t, 20*time.Second, "learned\n"+want, func() (bool, string) {
		got := table(s)
		return got == want, got
	})
}

func TestMeshExchangesRoutes(t *testing.T) {
	nodes := []byte{1, 2, 3}
	speakers := map[byte]*Speaker{}
	for _, n := range nodes {
		speakers[n] = start(t, testConfig(1, n))
	}
	began := time.Now()
	for _, n := range nodes {
		if err := speakers[n].SetPeers(mesh(1, n, nodes...)); err != nil {
			t.Fatal(err)
		}
		if err := speakers[n].Advertise(own(1, n)); err != nil {
			t.Fatal(err)
		}
	}
	learns(t, speakers[1], "10.244.2.0/24 via [127.0.1.2]", "10.244.3.0/24 via [127.0.1.3]")
	learns(t, speakers[2], "10.244.1.0/24 via [127.0.1.1]", "10.244.3.0/24 via [127.0.1.3]")
	learns(t, speakers[3], "10.244.1.0/24 via [127.0.1.1]", "10.244.2.0/24 via [127.0.1.2]")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a mesh of three took %v to converge, more than 5s", took)
	}
	if err := speakers[3].Advertise(nil); err != nil {
		t.Fatal(err)
	}
	learns(t, speakers[1], "10.244.2.0/24 via [127.0.1.2]")
}

func TestPeersComeAndGoWithoutTouchingOthers(t *testing.T) {
	a, b, c := start(t, testConfig(2, 1)), start(t, testConfig(2, 2)), start(t, testConfig(2, 3))
	set := func(s *Speaker, peers []Peer) {
		t.Helper()
		if err := s.SetPeers(peers); err != nil {
			t.Fatal(err)
		}
	}
	for n, s := range map[byte]*Speaker{2: b, 3: c} {
		set(s, mesh(2, n, 1, n))
		if err := s.Advertise(own(2, n)); err != nil {
			t.Fatal(err)
		}
	}
	set(a, mesh(2, 1, 1, 2))
	learns(t, a, "10.244.2.0/24 via [127.0.2.2]")
	since := a.Peers()[0].Since

	set(a, mesh(2, 1, 1, 2, 3))
	learns(t, a, "10.244.2.0/24 via [127.0.2.2]", "10.244.3.0/24 via [127.0.2.3]")
	set(a, mesh(2, 1, 1, 2, 3))
	set(a, mesh(2, 1, 1, 2))
	learns(t, a, "10.244.2.0/24 via [127.0.2.2]")

	got := a.Peers()
	want := []PeerState{{
		Peer: mesh(2, 1, 2)[0], State: "Established", Since: since, Received: 1, Accepted: 1,
	}}
	for i := range got {
		got[i].Settled = false // depends on time without graceful restart
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("peer 2's session was touched (-want +got):\n%s", d)
	}
}

func TestEqualPathsAreMultipath(t *testing.T) {
	a, b, c := start(t, testConfig(3, 1)), start(t, testConfig(3, 2)), start(t, testConfig(3, 3))
	shared := podCIDR(9)
	changed := make(chan netip.Prefix, 100)
	a.config.OnRoute = func(p netip.Prefix) { changed <- p }
	for n, s := range map[byte]*Speaker{1: a, 2: b, 3: c} {
		if err := s.SetPeers(mesh(3, n, 1, 2, 3)); err != nil {
			t.Fatal(err)
		}
		if n != 1 {
			if err := s.Advertise([]Route{{Prefix: shared, NextHop: nodeAddr(3, n), To: ToNodes}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	learns(t, a, "10.244.9.0/24 via [127.0.3.2 127.0.3.3]")
	if err := b.Advertise(nil); err != nil {
		t.Fatal(err)
	}
	learns(t, a, "10.244.9.0/24 via [127.0.3.3]")
	if err := c.Advertise([]Route{{Prefix: shared, NextHop: nodeAddr(3, 77), To: ToNodes}}); err != nil {
		t.Fatal(err)
	}
	learns(t, a, "10.244.9.0/24 via [127.0.3.77]")
	if got := a.NextHops(shared); !slices.Equal(got, []netip.Addr{nodeAddr(3, 77)}) {
		t.Errorf("next hops of %s: %v", shared, got)
	}
	eventually(t, 5*time.Second, "4 changes of the prefix reported", func() (bool, string) {
		return len(changed) == 4, fmt.Sprint(len(changed))
	})
}

func TestIPv6RoutesOverAnIPv4Session(t *testing.T) {
	config := func(n byte) Config {
		c := testConfig(4, n)
		c.Families = []inet.Family{inet.IPv4, inet.IPv6}
		return c
	}
	a, b := start(t, config(1)), start(t, config(2))
	for n, s := range map[byte]*Speaker{1: a, 2: b} {
		if err := s.SetPeers(mesh(4, n, 1, 2)); err != nil {
			t.Fatal(err)
		}
	}
	routes := append(own(4, 2), Route{Prefix: netip.MustParsePrefix("fd00:10:244:2::/64"), NextHop: netip.MustParseAddr("fd00::2"), To: ToNodes})
	if err := b.Advertise(routes); err != nil {
		t.Fatal(err)
	}
	learns(t, a, "10.244.2.0/24 via [127.0.4.2]", "fd00:10:244:2::/64 via [fd00::2]")
}

func TestStopLeavesNothingRunning(t *testing.T) {
	start(t, testConfig(5, 9)).Stop() // what the library starts once and keeps
	before := runtime.NumGoroutine()
	sa, sb := start(t, testConfig(5, 1)), start(t, testConfig(5, 2))
	for n, s := range map[byte]*Speaker{1: sa, 2: sb} {
		// 3 does not exist: its connection attempts must end too.
		if err := s.SetPeers(mesh(5, n, 1, 2, 3)); err != nil {
			t.Fatal(err)
		}
		if err := s.Advertise(own(5, n)); err != nil {
			t.Fatal(err)
		}
	}
	learns(t, sa, "10.244.2.0/24 via [127.0.5.2]")
	sa.Stop()
	if got := table(sa); got != "10.244.2.0/24 via [127.0.5.2]" {
		t.Errorf("what a stopped speaker had learned: %q", got)
	}
	sb.Stop()
	sa.Stop()
	if err := sa.SetPeers(nil); err == nil {
		t.Error("a stopped speaker took peers")
	}
	settlesAt(t, before, 6) // three peers of two speakers
}

// settlesAt waits until there are no more goroutines than before. Those that
// pump a queue of GoBGP's are not counted, up to so many: it forgets one where a
// message was still queued when its session ended (v4.8.0:
// channels.InfiniteChannel is closed and then drained without waiting). That is a few kilobytes for one peer of 200 that are removed or change, so
// that only many thousand changes in one run of the agent are noticeable.
func settlesAt(t *testing.T, before, left int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%d goroutines, and %d that GoBGP leaves", before, left), func() (bool, string) {
		buf := make([]byte, 4<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		pumps := min(strings.Count(stacks, "infiniteBuffer("), left)
		return runtime.NumGoroutine()-pumps <= before, stacks
	})
}

// A thousand times peers come, of all roles, with passwords and BFD, change and
// go, beside one that stays.
func TestPeerChangesLeaveNothingRunning(t *testing.T) {
	a, b := reflector(t, 8, 1), start(t, testConfig(8, 2))
	set(t, b, mesh(8, 2, 1, 2)...)
	stays := mesh(8, 1, 1, 2)[0]
	set(t, a, stays)
	since := up(t, a, stays.Addr).Since
	var before, removed int
	for round := range 100 {
		var peers []Peer
		for n := range byte(10) {
			p := Peer{Addr: nodeAddr(8, 3+n), ASN: 64512, Port: testPort, Local: nodeAddr(8, 1), Role: Role((int(n) + round) % 4)}
			if n%3 == 0 {
				p.Password = Secret(fmt.Sprint("password ", round))
			}
			p.BFD.Enabled = n == 1
			peers = append(peers, p)
		}
		set(t, a, append(peers, stays)...)
		if round%2 == 0 {
			set(t, a, stays)
		}
		if round == 10 {
			before = runtime.NumGoroutine()
		}
		removed += 10 // they go, or change
	}
	set(t, a, stays)
	settlesAt(t, before, removed/10) // there are about five of a thousand
	if got := a.Peers(); len(got) != 1 || got[0].Since != since {
		t.Errorf("configured: %+v", got)
	}
}

func TestStartRefuses(t *testing.T) {
	occupied := start(t, testConfig(6, 1))
	defer occupied.Stop()
	for name, change := range map[string]func(*Config){
		"no autonomous system number":                func(c *Config) { c.ASN = 0 },
		"is not an IPv4 address":                     func(c *Config) { c.RouterID = netip.MustParseAddr("fd00::1") },
		"no address family":                          func(c *Config) { c.Families = nil },
		"is not between 1s and 4095s":                func(c *Config) { c.GracefulRestart = true },
		"BGP on [127.0.6.1] port 17900: listen tcp":  func(*Config) {},
		"BGP on [192.0.2.77] port 17900: listen tcp": func(c *Config) { c.Listen = []netip.Addr{netip.MustParseAddr("192.0.2.77")} },
		"cannot assign requested address":            func(c *Config) { c.Listen = []netip.Addr{netip.MustParseAddr("192.0.2.77")} },
		"address already in use":                     func(*Config) {},
	} {
		c := testConfig(6, 1)
		change(&c)
		s, err := Start(c, slog.New(slog.DiscardHandler))
		if err == nil {
			s.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got error %v, want %q", err, name)
		}
	}
}

func TestABadPeerDoesNotKeepOthersOut(t *testing.T) {
	a := start(t, testConfig(7, 1))
	err := a.SetPeers([]Peer{{ASN: 64512}, {Addr: nodeAddr(7, 3)}, mesh(7, 1, 2)[0]})
	if err == nil || !strings.Contains(err.Error(), "BGP peer 127.0.7.3: needs") {
		t.Errorf("error of bad peers: %v", err)
	}
	if got := a.Peers(); len(got) != 1 || got[0].Addr != nodeAddr(7, 2) {
		t.Errorf("configured: %+v", got)
	}
}
