package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
)

// reflector is a speaker whose cluster ID is 10.0.0.<n>.
func reflector(t *testing.T, net, n byte) *Speaker {
	t.Helper()
	c := testConfig(net, n)
	c.ClusterID = netip.AddrFrom4([4]byte{10, 0, 0, n})
	return start(t, c)
}

func TestReflectorTellsClientsOfEachOther(t *testing.T) {
	const net = 50
	r, a, b := reflector(t, net, 1), start(t, testConfig(net, 2)), start(t, testConfig(net, 3))
	set(t, r, peering(net, 1, 2, 64512, Client), peering(net, 1, 3, 64512, Client))
	set(t, a, peering(net, 2, 1, 64512, Reflector))
	set(t, b, peering(net, 3, 1, 64512, Reflector))
	for n, s := range map[byte]*Speaker{1: r, 2: a, 3: b} {
		advertise(t, s, own(net, n)...)
	}
	has(t, a,
		"10.244.1.0/24 via 127.0.50.1 pref 100 clusters [10.0.0.1]",
		"10.244.3.0/24 via 127.0.50.3 pref 100 clusters [10.0.0.1]")
	learns(t, b, "10.244.1.0/24 via [127.0.50.1]", "10.244.2.0/24 via [127.0.50.2]")
	learns(t, r, "10.244.2.0/24 via [127.0.50.2]", "10.244.3.0/24 via [127.0.50.3]")
	for peer, want := range map[*Speaker]uint64{a: 2, b: 2} {
		state := knows(t, peer, nodeAddr(net, 1), "delivered", func(p PeerState) bool { return p.Received == want })
		if state.Advertised != 1 {
			t.Errorf("a client told its reflector %d prefixes, not its own one", state.Advertised)
		}
	}
	for _, state := range r.Peers() {
		if state.Advertised != 2 {
			t.Errorf("the reflector told client %s %d prefixes, want its own and the other client's", state.Addr, state.Advertised)
		}
	}
}

// Two reflectors with a client each and one that both have: everybody learns
// everything, and nothing is lost with one reflector.
func TestReflectorsPeerWithEachOther(t *testing.T) {
	const net = 51
	first, second := reflector(t, net, 1), reflector(t, net, 2)
	var shared *Speaker
	var watching atomic.Bool
	lost := make(chan netip.Prefix, 100)
	config := testConfig(net, 3)
	config.OnRoute = func(p netip.Prefix) {
		if watching.Load() && len(shared.NextHops(p)) == 0 {
			lost <- p
		}
	}
	shared = start(t, config)
	a, b := start(t, testConfig(net, 4)), start(t, testConfig(net, 5))
	set(t, first, peering(net, 1, 2, 64512, Reflector), peering(net, 1, 3, 64512, Client), peering(net, 1, 4, 64512, Client))
	set(t, second, peering(net, 2, 1, 64512, Reflector), peering(net, 2, 3, 64512, Client), peering(net, 2, 5, 64512, Client))
	set(t, shared, peering(net, 3, 1, 64512, Reflector), peering(net, 3, 2, 64512, Reflector))
	set(t, a, peering(net, 4, 1, 64512, Reflector))
	set(t, b, peering(net, 5, 2, 64512, Reflector))
	for n, s := range map[byte]*Speaker{1: first, 2: second, 3: shared, 4: a, 5: b} {
		advertise(t, s, own(net, n)...)
	}
	learns(t, a,
		"10.244.1.0/24 via [127.0.51.1]", "10.244.2.0/24 via [127.0.51.2]",
		"10.244.3.0/24 via [127.0.51.3]", "10.244.5.0/24 via [127.0.51.5]")
	learns(t, shared,
		"10.244.1.0/24 via [127.0.51.1]", "10.244.2.0/24 via [127.0.51.2]",
		"10.244.4.0/24 via [127.0.51.4]", "10.244.5.0/24 via [127.0.51.5]")
	for n := byte(1); n <= 2; n++ {
		knows(t, shared, nodeAddr(net, n), "told all", func(p PeerState) bool { return p.Accepted == 4 })
	}
	// The shared client loses a reflector and with it the one client that only
	// that one knew, but nothing else, not even for a moment.
	watching.Store(true)
	first.Stop()
	learns(t, shared, "10.244.2.0/24 via [127.0.51.2]", "10.244.5.0/24 via [127.0.51.5]")
	if got := fmt.Sprint(sorted(<-lost, <-lost)); got != "[10.244.1.0/24 10.244.4.0/24]" || len(lost) > 0 {
		t.Errorf("lost, if only for a while: %s and %d more", got, len(lost))
	}
}

// Reflectors that are each other's clients, with a cluster ID each or one for
// all: routes come, change and go everywhere, and none stays behind because
// reflectors tell each other of it.
func TestReflectorsThatAreEachOthersClients(t *testing.T) {
	var all [2][6]*Speaker
	for i := range all {
		net := byte(65 + i)
		for n := byte(1); n <= 5; n++ {
			c := testConfig(net, n)
			switch {
			case n <= 3 && net == 65:
				c.ClusterID = netip.AddrFrom4([4]byte{10, 0, 0, n})
			case n <= 3:
				c.ClusterID = netip.AddrFrom4([4]byte{10, 0, 0, 42})
			}
			all[i][n] = start(t, c)
		}
	}
	for i, name := range []string{"IDs of their own", "one ID"} {
		net, speakers := byte(65+i), all[i]
		t.Run(name, func(t *testing.T) {
			for n := byte(1); n <= 5; n++ {
				var peers []Peer
				for other := byte(1); other <= 5; other++ {
					switch {
					case other != n && n <= 3:
						peers = append(peers, peering(net, n, other, 64512, Client))
					case other != n && other <= 3:
						peers = append(peers, peering(net, n, other, 64512, Reflector))
					}
				}
				set(t, speakers[n], peers...)
			}
			told := func(lines ...string) {
				t.Helper()
				for _, n := range []byte{1, 2, 3, 5} {
					learns(t, speakers[n], lines...)
				}
			}
			advertise(t, speakers[4], own(net, 4)...)
			told("10.244.4.0/24 via [" + nodeAddr(net, 4).String() + "]")
			advertise(t, speakers[4], Route{Prefix: podCIDR(4), NextHop: nodeAddr(net, 9), To: ToNodes})
			told("10.244.4.0/24 via [" + nodeAddr(net, 9).String() + "]")
			advertise(t, speakers[4])
			told()
			advertise(t, speakers[4], own(net, 4)...)
			told("10.244.4.0/24 via [" + nodeAddr(net, 4).String() + "]")
			speakers[4].Stop()
			told()
		})
	}
}

func sorted(prefixes ...netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return prefixes
}

// What external routers say stays on the node that they said it to, and they
// are told only of what is for them: as a mesh's node and as a reflector, to
// routers of another system and of the same one.
func TestNothingLeaksBetweenNodesAndExternalPeers(t *testing.T) {
	type speakers struct{ node, other, router *Speaker }
	cases := []struct {
		name string
		asn  uint32
		role Role
		path string
		speakers
	}{
		{name: "eBGP, mesh", asn: 65001, role: Mesh, path: " path 64512"},
		{name: "eBGP, reflector", asn: 65001, role: Client, path: " path 64512"},
		{name: "iBGP, mesh", asn: 64512, role: Mesh, path: " pref 100"},
		{name: "iBGP, reflector", asn: 64512, role: Client, path: " pref 100"},
	}
	for i, c := range cases {
		net := byte(52 + i)
		external := testConfig(net, 3)
		external.ASN = c.asn
		cases[i].speakers = speakers{reflector(t, net, 1), start(t, testConfig(net, 2)), start(t, external)}
	}
	t.Run("all", func(t *testing.T) { // once all are started
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				net := byte(52 + i)
				set(t, c.node, peering(net, 1, 2, 64512, c.role), peering(net, 1, 3, c.asn, External))
				set(t, c.other, peering(net, 2, 1, 64512, Mesh))
				set(t, c.router, peering(net, 3, 1, 64512, External))
				at := " via " + nodeAddr(net, 1).String()
				advertise(t, c.node, route(ToNodes, "10.244.1.0/24"+at), route(both, "10.96.0.0/24"+at), route(ToExternal, "10.97.0.0/24"+at))
				advertise(t, c.other, own(net, 2)...)
				advertise(t, c.router, route(ToExternal, "198.51.100.0/24 via "+nodeAddr(net, 3).String()))
				has(t, c.router, "10.96.0.0/24"+at+c.path, "10.97.0.0/24"+at+c.path)
				learns(t, c.node, "10.244.2.0/24 via ["+nodeAddr(net, 2).String()+"]", "198.51.100.0/24 via ["+nodeAddr(net, 3).String()+"]")
				learns(t, c.other, "10.244.1.0/24 via ["+nodeAddr(net, 1).String()+"]", "10.96.0.0/24 via ["+nodeAddr(net, 1).String()+"]")
				for _, peer := range []byte{2, 3} {
					if state := up(t, c.node, nodeAddr(net, peer)); state.Advertised != 2 {
						t.Errorf("%d prefixes advertised to %s, want 2", state.Advertised, state.Addr)
					}
				}
			})
		}
	})
}

func TestAudienceOfARouteChanges(t *testing.T) {
	const net = 56
	node, other := start(t, testConfig(net, 1)), start(t, testConfig(net, 2))
	external := testConfig(net, 3)
	external.ASN = 65001
	router := start(t, external)
	set(t, node, peering(net, 1, 2, 64512, Mesh), peering(net, 1, 3, 65001, External))
	set(t, other, peering(net, 2, 1, 64512, Mesh))
	set(t, router, peering(net, 3, 1, 64512, External))
	known := map[bool]string{true: "10.96.0.1/32 via [127.0.56.1]", false: ""}
	// Nobody hears twice of what stays.
	for _, to := range []Audience{ToNodes, both, ToExternal, 0, ToExternal, ToNodes, both, 0} {
		advertise(t, node, route(to, "10.96.0.1/32 via 127.0.56.1"))
		learns(t, other, known[to&ToNodes != 0])
		learns(t, router, known[to&ToExternal != 0])
	}
}

// What changes while sessions come up reaches everybody in the end.
func TestNothingIsMissedWhileSessionsComeUp(t *testing.T) {
	const net, others = 68, 12
	a := start(t, testConfig(net, 1))
	var peers []Peer
	var speakers []*Speaker
	for n := byte(2); n < 2+others; n++ {
		peers = append(peers, peering(net, 1, n, 64512, Mesh))
		speakers = append(speakers, start(t, testConfig(net, n)))
	}
	set(t, a, peers...)
	for i, s := range speakers {
		set(t, s, peering(net, byte(2+i), 1, 64512, Mesh))
	}
	stays := Route{Prefix: podCIDR(200), NextHop: nodeAddr(net, 1), To: ToNodes}
	for i := 0; ; i++ { // until all are up, other routes all the time
		passing := Route{Prefix: podCIDR(byte(i % 100)), NextHop: nodeAddr(net, 1), To: ToNodes}
		advertise(t, a, stays, passing)
		if i%50 == 0 && !slices.ContainsFunc(a.Peers(), func(p PeerState) bool { return !p.Established() }) {
			break
		}
	}
	advertise(t, a, stays)
	for _, s := range speakers {
		learns(t, s, "10.244.200.0/24 via [127.0.68.1]")
	}
}

// A node that becomes a reflector, or ceases to be one, keeps its sessions with
// the others.
func TestRoleOfANodeChanges(t *testing.T) {
	const net = 67
	a, b := reflector(t, net, 1), start(t, testConfig(net, 2))
	set(t, b, peering(net, 2, 1, 64512, Reflector))
	set(t, a, peering(net, 1, 2, 64512, Client))
	since := up(t, a, nodeAddr(net, 2)).Since
	for _, role := range []Role{Reflector, Client, Mesh} {
		set(t, a, peering(net, 1, 2, 64512, role))
		if state := up(t, a, nodeAddr(net, 2)); state.Role != role || state.Since != since {
			t.Errorf("as %s: %+v, want the session of %s", role, state, since)
		}
	}
}

// A speaker that becomes a reflector tells clients of each other, and stops it
// when it is none any more. Its session with a router stays.
func TestASpeakerBecomesAReflector(t *testing.T) {
	const net = 69
	r, a, b := start(t, testConfig(net, 1)), start(t, testConfig(net, 2)), start(t, testConfig(net, 3))
	external := testConfig(net, 4)
	external.ASN = 65001
	router := start(t, external)
	peers := func(role Role) {
		t.Helper()
		set(t, r, peering(net, 1, 2, 64512, role), peering(net, 1, 3, 64512, role), peering(net, 1, 4, 65001, External))
	}
	peers(Mesh)
	set(t, router, peering(net, 4, 1, 64512, External))
	for n, s := range map[byte]*Speaker{2: a, 3: b} {
		set(t, s, peering(net, n, 1, 64512, Reflector))
		advertise(t, s, own(net, n)...)
	}
	learns(t, r, "10.244.2.0/24 via [127.0.69.2]", "10.244.3.0/24 via [127.0.69.3]")
	since := up(t, r, nodeAddr(net, 4)).Since
	for _, c := range []struct {
		cluster netip.Addr
		role    Role
		known   string
	}{{nodeAddr(net, 1), Client, "10.244.3.0/24 via [127.0.69.3]"}, {netip.Addr{}, Mesh, ""}} {
		if err := r.SetCluster(c.cluster); err != nil {
			t.Fatal(err)
		}
		peers(c.role)
		learns(t, a, c.known)
		up(t, r, nodeAddr(net, 2))
		learns(t, r, "10.244.2.0/24 via [127.0.69.2]", "10.244.3.0/24 via [127.0.69.3]")
		learns(t, a, c.known)
		if state := up(t, r, nodeAddr(net, 4)); state.Since != since {
			t.Errorf("the session with the router started anew at %s", state.Since)
		}
	}
}

// A peer that becomes an external one is not told, even once, what is for
// nodes.
func TestRoleOfAPeerChanges(t *testing.T) {
	const net = 57
	a, b := start(t, testConfig(net, 1)), start(t, testConfig(net, 2))
	advertise(t, a, route(ToNodes, "10.244.1.0/24 via 127.0.57.1"), route(ToExternal, "10.96.0.1/32 via 127.0.57.1"))
	set(t, b, peering(net, 2, 1, 64512, Mesh))
	set(t, a, peering(net, 1, 2, 64512, Mesh))
	learns(t, b, "10.244.1.0/24 via [127.0.57.1]")
	set(t, a, peering(net, 1, 2, 64512, External))
	learns(t, b, "10.96.0.1/32 via [127.0.57.1]")
}

// Several routers at once tell of one prefix, of both families, over sessions
// between addresses of one.
func TestExternalPathsAreMultipath(t *testing.T) {
	const net = 58
	families := []inet.Family{inet.IPv4, inet.IPv6}
	config := testConfig(net, 1)
	config.Families = families
	node := start(t, config)
	var peers []Peer
	for n := byte(2); n <= 4; n++ {
		c := testConfig(net, n)
		c.ASN, c.Families = 65001, families
		router := start(t, c)
		set(t, router, peering(net, n, 1, 64512, External))
		hop := netip.AddrFrom16([16]byte{0: 0xfd, 15: n})
		advertise(t, router,
			route(ToExternal, "198.51.100.0/24 via "+nodeAddr(net, n).String()),
			Route{Prefix: netip.MustParsePrefix("2001:db8::/32"), NextHop: hop, To: ToExternal})
		peers = append(peers, peering(net, 1, n, 65001, External))
	}
	set(t, node, peers...)
	learns(t, node,
		"198.51.100.0/24 via [127.0.58.2 127.0.58.3 127.0.58.4]",
		"2001:db8::/32 via [fd00::2 fd00::3 fd00::4]")
}

// The shorter hold time of both sides counts, and its third is between
// keepalives.
func TestHoldTime(t *testing.T) {
	const net = 59
	a, b := start(t, testConfig(net, 1)), start(t, testConfig(net, 2))
	fast := peering(net, 1, 2, 64512, Mesh)
	fast.HoldTime = 3 * time.Second
	set(t, a, fast)
	set(t, b, peering(net, 2, 1, 64512, Mesh))
	up(t, a, fast.Addr)
	if hold, keepalive := timers(t, b, nodeAddr(net, 1)); hold != 3 || keepalive != 1 {
		t.Errorf("the other side's hold time is %ds, keepalive %ds; want 3s, 1s", hold, keepalive)
	}
}
