package bgp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

// routerOf starts a node with an external router beside it: node 1 and 2 of
// the net.
func routerOf(t *testing.T, net byte, asn uint32) (node, router *Speaker) {
	t.Helper()
	families := []inet.Family{inet.IPv4, inet.IPv6}
	c := testConfig(net, 1)
	c.Families = families
	node = start(t, c)
	c = testConfig(net, 2)
	c.ASN, c.Families = asn, families
	router = start(t, c)
	set(t, node, peering(net, 1, 2, asn, External))
	set(t, router, peering(net, 2, 1, 64512, External))
	return node, router
}

func TestImportFilters(t *testing.T) {
	const net = 60
	node, router := routerOf(t, net, 65001)
	told := []string{
		"0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1", "0.0.0.0/2", "10.96.0.0/12", "10.96.0.1/32", "10.100.0.0/16", "10.64.0.0/10",
		"192.0.2.0/24", "2001:db8::/32", "fd00:96::/108", "fd00:96::1/128",
	}
	var routes []Route
	for _, prefix := range told {
		hop := "127.0.60.2"
		if strings.Contains(prefix, ":") {
			hop = "fd00::2"
		}
		routes = append(routes, route(ToExternal, prefix+" via "+hop))
	}
	defaults := []string{"0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"}
	// This speaker tells a default route only because no filter is for exports.
	advertise(t, router, routes...)
	without := func(rejected ...string) []string {
		var rest []string
		for _, r := range routes {
			left := !slices.Contains(defaults, r.Prefix.String())
			for _, prefix := range rejected {
				left = left && r.Prefix.String() != prefix
			}
			if left {
				rest = append(rest, r.Prefix.String()+" via ["+r.NextHop.String()+"]")
			}
		}
		return rest
	}
	learnsAll := func(lines []string) {
		t.Helper()
		eventually(t, waiting, "learned\n"+strings.Join(lines, "\n"), func() (bool, string) {
			got := table(node)
			return sameLines(got, lines), got
		})
	}
	learnsAll(without())
	since := up(t, node, nodeAddr(net, 2)).Since

	services := Policy{Reject: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:96::/108")}}
	apply(t, node, services)
	learnsAll(without("10.96.0.0/12", "10.96.0.1/32", "10.100.0.0/16", "fd00:96::/108", "fd00:96::1/128"))

	apply(t, node, Policy{Reject: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	learnsAll(without("192.0.2.0/24"))

	apply(t, node, Policy{})
	learnsAll(without())
	if state := up(t, node, nodeAddr(net, 2)); state.Since != since || state.LastError != "" {
		t.Errorf("the session was touched: %+v", state)
	}

	err := node.SetPolicy(Policy{Reject: []netip.Prefix{{}, netip.MustParsePrefix("192.0.2.0/24")}})
	if err == nil || !strings.Contains(err.Error(), "not a prefix") {
		t.Errorf("error of an invalid prefix: %v", err)
	}
	learnsAll(without("192.0.2.0/24"))
}

// A peer that has a prefix of ours is not followed, whatever preference it
// claims, and its path is there when ours goes.
func TestOwnRoutesAreNotTaken(t *testing.T) {
	const net = 61
	node, other := start(t, testConfig(net, 1)), start(t, testConfig(net, 2))
	set(t, node, peering(net, 1, 2, 64512, Mesh))
	set(t, other, peering(net, 2, 1, 64512, Mesh))
	// The other side sends the highest preference there is: without its
	// policies, its own paths' preference goes out.
	if err := other.server.SetPolicies(t.Context(), nothingFiltered()); err != nil {
		t.Fatal(err)
	}
	advertise(t, node, route(ToNodes, "10.96.0.1/32 via 127.0.61.1"))
	advertise(t, other, route(both, "10.96.0.1/32 via 127.0.61.2"), route(both, "10.96.0.2/32 via 127.0.61.2"))
	has(t, node, "10.96.0.1/32 via 127.0.61.2 pref 100", "10.96.0.2/32 via 127.0.61.2 pref 100")
	learns(t, node, "10.96.0.2/32 via [127.0.61.2]")
	advertise(t, node)
	learns(t, node, "10.96.0.1/32 via [127.0.61.2]", "10.96.0.2/32 via [127.0.61.2]")
	advertise(t, node, route(ToNodes, "10.96.0.1/32 via 127.0.61.1"))
	learns(t, node, "10.96.0.2/32 via [127.0.61.2]")
}

func TestExportAttributes(t *testing.T) {
	const net = 62
	node, router := routerOf(t, net, 65001)
	advertise(t, node,
		route(ToExternal, "10.96.0.1/32 via 127.0.62.9"), route(both, "10.244.1.0/24 via 127.0.62.1"),
		route(ToExternal, "fd00:96::1/128 via fd00::1"))
	since := up(t, router, nodeAddr(net, 1)).Since
	med, low := uint32(50), uint32(0)
	for _, c := range []struct {
		name   string
		policy Policy
		want   []string
	}{{
		"nothing", Policy{}, []string{
			"10.244.1.0/24 via 127.0.62.1 path 64512",
			"10.96.0.1/32 via 127.0.62.9 path 64512",
			"fd00:96::1/128 via fd00::1 path 64512",
		},
	}, {
		"communities", Policy{Communities: []uint32{64512<<16 | 100, 0xffffff01}}, []string{
			"10.244.1.0/24 via 127.0.62.1 path 64512 community 64512:100 community 65535:65281",
			"10.96.0.1/32 via 127.0.62.9 path 64512 community 64512:100 community 65535:65281",
			"fd00:96::1/128 via fd00::1 path 64512 community 64512:100 community 65535:65281",
		},
	}, {
		"prepend and metric", Policy{PrependASN: 64512, PrependCount: 2, MED: &med}, []string{
			"10.244.1.0/24 via 127.0.62.1 path 64512 64512 64512 med 50",
			"10.96.0.1/32 via 127.0.62.9 path 64512 64512 64512 med 50",
			"fd00:96::1/128 via fd00::1 path 64512 64512 64512 med 50",
		},
	}, {
		"a metric of 0, a prepend of no times, and the session's address", Policy{PrependASN: 64999, MED: &low, NextHopSelf: true}, []string{
			"10.244.1.0/24 via 127.0.62.1 path 64512 med 0",
			"10.96.0.1/32 via 127.0.62.1 path 64512 med 0",
			"fd00:96::1/128 via fd00::1 path 64512 med 0", // not of the session's family
		},
	}, {
		"nothing again", Policy{}, []string{
			"10.244.1.0/24 via 127.0.62.1 path 64512",
			"10.96.0.1/32 via 127.0.62.9 path 64512",
			"fd00:96::1/128 via fd00::1 path 64512",
		},
	}} {
		apply(t, node, c.policy)
		t.Log(c.name)
		has(t, router, c.want...)
	}
	if state := up(t, router, nodeAddr(net, 1)); state.Since != since || state.LastError != "" {
		t.Errorf("the session was touched: %+v", state)
	}
}

// What external peers are told beside a prefix is not for nodes.
func TestNodesAreToldNoAttributes(t *testing.T) {
	const net = 63
	a, b := start(t, testConfig(net, 1)), start(t, testConfig(net, 2))
	med := uint32(50)
	apply(t, a, Policy{Communities: []uint32{1}, PrependASN: 64512, PrependCount: 3, MED: &med, NextHopSelf: true})
	set(t, a, peering(net, 1, 2, 64512, Mesh))
	set(t, b, peering(net, 2, 1, 64512, Mesh))
	advertise(t, a, route(both, "10.244.1.0/24 via 127.0.63.9"))
	has(t, b, "10.244.1.0/24 via 127.0.63.9 pref 100")
}

// FuzzPolicy: whatever a policy holds, GoBGP takes all of what we make of it.
func FuzzPolicy(f *testing.F) {
	f.Add("10.0.0.0/8", "fd00::/8", uint32(1), uint32(0), uint8(0), uint32(0), true, "192.0.2.1")
	f.Add("0.0.0.0/0", "::/0", uint32(0xffffffff), uint32(64512), uint8(255), uint32(0xffffffff), false, "fe80::1%eth0")
	s, err := Start(testConfig(64, 1), quietLog())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Stop)
	f.Fuzz(func(t *testing.T, a, b string, community, asn uint32, count uint8, med uint32, self bool, peer string) {
		p := Policy{Communities: []uint32{community}, PrependASN: asn, PrependCount: count, MED: &med, NextHopSelf: self}
		for _, text := range []string{a, b} {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				p.Reject = append(p.Reject, prefix)
			}
		}
		valid, err := p.valid()
		if err != nil {
			t.Fatalf("parsed prefixes are not valid: %v", err)
		}
		var external []netip.Addr
		if addr, err := netip.ParseAddr(peer); err == nil {
			external = append(external, addr)
		}
		if err := s.server.SetPolicies(t.Context(), policies(valid, external, netip.AddrFrom4([4]byte{count}), self)); err != nil {
			t.Fatalf("%+v of %v: %v", valid, external, err)
		}
	})
}
