package bgp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// A limit that GoBGP does not keep by itself ends the session all the same,
// also where nothing of what the peer sends is taken.
func TestTooManyOfThousands(t *testing.T) {
	for name, test := range map[string]struct {
		net    byte
		role   Role
		reject []netip.Prefix
	}{
		"accepted, of a node":       {net: 92, role: Mesh},
		"not accepted, of a router": {net: 93, role: External, reject: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig(test.net, 1)
			told := make(chan string, 10)
			config.OnLimit = func(_ netip.Addr, message string) { told <- message }
			a, b := start(t, config), start(t, testConfig(test.net, 2))
			a.limitRetry = time.Second
			apply(t, a, Policy{Reject: test.reject})
			limited := peering(test.net, 1, 2, 64512, test.role)
			limited.MaxPrefixes = exactLimit + 1
			set(t, a, limited)
			set(t, b, peering(test.net, 2, 1, 64512, test.role))
			var routes []Route
			for i := range exactLimit + 2 {
				prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
				routes = append(routes, Route{Prefix: prefix, NextHop: nodeAddr(test.net, 2), To: ToExternal | ToNodes})
			}
			advertise(t, b, routes[:exactLimit+1]...)
			knows(t, a, nodeAddr(test.net, 2), "has sent all that it may", func(p PeerState) bool {
				return p.Established() && p.Received == exactLimit+1
			})
			advertise(t, b, routes...)
			failing(t, b, nodeAddr(test.net, 1), "maximum number of prefixes reached")
			if message := <-told; !strings.Contains(message, "the peer sent more than 1001 prefixes") {
				t.Errorf("told is %q", message)
			}
			advertise(t, b, routes[:1]...)
			knows(t, a, nodeAddr(test.net, 2), "is back", func(p PeerState) bool { return p.Established() && p.Received == 1 })
		})
	}
}

// Looks are seldom where nothing changes, and soon where something does.
func TestLooks(t *testing.T) {
	var l looks
	begin := time.Unix(1000, 0)
	var at []int
	for second := range 60 {
		now := begin.Add(time.Duration(second) * time.Second)
		if !l.due(now) {
			continue
		}
		at = append(at, second)
		prefixes := uint64(10)
		if second > 30 {
			prefixes = 20
		}
		l.saw(now, prefixes)
	}
	if want := []int{0, 1, 3, 7, 15, 31, 32, 34, 38, 46}; !slices.Equal(at, want) {
		t.Errorf("looks at %v, want %v", at, want)
	}
}

func TestAcceptedPathsAreCounted(t *testing.T) {
	counts, peer := accepted{}, netip.MustParseAddr("127.0.0.2")
	for i, step := range []struct {
		more bool
		want uint32
	}{{false, 0}, {true, 1}, {true, 2}, {false, 1}, {false, 0}, {false, 0}, {true, 1}, {false, 0}} {
		if got := counts.add(peer, bgp.RF_IPv4_UC, step.more); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
	if len(counts) != 0 {
		t.Errorf("%v is left", counts)
	}
}
