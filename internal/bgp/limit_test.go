package bgp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// A node's limit that GoBGP does not keep by itself ends the session all the
// same.
func TestTooManyOfThousands(t *testing.T) {
	const net = 92
	config := testConfig(net, 1)
	told := make(chan string, 10)
	config.OnLimit = func(_ netip.Addr, message string) { told <- message }
	a, b := start(t, config), start(t, testConfig(net, 2))
	a.limitRetry = time.Second
	limited := peering(net, 1, 2, 64512, Mesh)
	limited.MaxPrefixes = exactLimit + 1
	set(t, a, limited)
	set(t, b, peering(net, 2, 1, 64512, Mesh))
	var routes []Route
	for i := range exactLimit + 2 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		routes = append(routes, Route{Prefix: prefix, NextHop: nodeAddr(net, 2), To: ToNodes})
	}
	advertise(t, b, routes[:exactLimit+1]...)
	knows(t, a, nodeAddr(net, 2), "has sent all that it may", func(p PeerState) bool {
		return p.Established() && p.Received == exactLimit+1
	})
	advertise(t, b, routes...)
	failing(t, b, nodeAddr(net, 1), "maximum number of prefixes reached")
	if message := <-told; !strings.Contains(message, "the peer sent more than 1001 prefixes") {
		t.Errorf("told is %q", message)
	}
	advertise(t, b, routes[:1]...)
	knows(t, a, nodeAddr(net, 2), "is back", func(p PeerState) bool { return p.Established() && p.Received == 1 })
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

// GoBGP keeps the limit of a stranger from the start, and a low one.
func TestWhoseLimitGoBGPKeeps(t *testing.T) {
	for _, test := range []struct {
		peer Peer
		want uint32
	}{
		{Peer{Role: External}, MaxPrefixes},
		{Peer{Role: External, MaxPrefixes: 1 << 20}, 1 << 20},
		{Peer{Role: Mesh}, 0},
		{Peer{Role: Client, MaxPrefixes: exactLimit + 1}, 0},
		{Peer{Role: Client, MaxPrefixes: exactLimit}, exactLimit},
	} {
		if got := test.peer.keptByGoBGP(); got != test.want {
			t.Errorf("%+v: %d, want %d", test.peer, got, test.want)
		}
	}
}
