package bgp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// rib is what peers told the speaker, with what they said about it, one path
// a line. Rejected routes are not in it.
func rib(t *testing.T, s *Speaker) string {
	t.Helper()
	var lines []string
	for _, f := range s.families() {
		request := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: f}
		err := s.server.ListPath(request, func(nlri bgp.NLRI, paths []*apiutil.Path) {
			for _, p := range paths {
				if p.PeerAddress.IsValid() {
					lines = append(lines, nlri.String()+describe(p.Attrs))
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func describe(attrs []bgp.PathAttributeInterface) string {
	text := " via " + nextHopOf(attrs).String()
	for _, a := range attrs {
		switch a := a.(type) {
		case *bgp.PathAttributeAsPath:
			if path := bgp.AsPathString(a); path != "" {
				text += " path " + path
			}
		case *bgp.PathAttributeMultiExitDisc:
			text += fmt.Sprintf(" med %d", a.Value)
		case *bgp.PathAttributeLocalPref:
			text += fmt.Sprintf(" pref %d", a.Value)
		case *bgp.PathAttributeCommunities:
			for _, c := range a.Value {
				text += fmt.Sprintf(" community %d:%d", c>>16, c&0xffff)
			}
		case *bgp.PathAttributeClusterList:
			text += fmt.Sprintf(" clusters %v", a.Value)
		}
	}
	return text
}

func has(t *testing.T, s *Speaker, lines ...string) {
	t.Helper()
	want := strings.Join(lines, "\n")
	eventually(t, 20*time.Second, "has\n"+want, func() (bool, string) {
		got := rib(t, s)
		return got == want, got
	})
}

// knows waits for a peer's state.
func knows(t *testing.T, s *Speaker, peer netip.Addr, what string, ok func(PeerState) bool) PeerState {
	t.Helper()
	var state PeerState
	eventually(t, 20*time.Second, fmt.Sprintf("peer %s %s", peer, what), func() (bool, string) {
		states := s.Peers()
		i := slices.IndexFunc(states, func(p PeerState) bool { return p.Addr == peer })
		if i < 0 {
			return false, "not configured"
		}
		state = states[i]
		return ok(state), fmt.Sprintf("%+v", state)
	})
	return state
}

func up(t *testing.T, s *Speaker, peer netip.Addr) PeerState {
	t.Helper()
	return knows(t, s, peer, "is up", PeerState.Established)
}

// failing waits until the peer's last error has a text in it.
func failing(t *testing.T, s *Speaker, peer netip.Addr, text string) PeerState {
	t.Helper()
	return knows(t, s, peer, "says "+text, func(p PeerState) bool { return strings.Contains(p.LastError, text) })
}

func set(t *testing.T, s *Speaker, peers ...Peer) {
	t.Helper()
	if err := s.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
}

func advertise(t *testing.T, s *Speaker, routes ...Route) {
	t.Helper()
	if err := s.Advertise(routes); err != nil {
		t.Fatal(err)
	}
}

func apply(t *testing.T, s *Speaker, p Policy) {
	t.Helper()
	if err := s.SetPolicy(p); err != nil {
		t.Fatal(err)
	}
}

// route reads "10.0.0.0/24 via 127.0.0.1".
func route(to Audience, text string) Route {
	prefix, hop, _ := strings.Cut(text, " via ")
	return Route{Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(hop), To: to}
}

// peering is how node n sees another one. Of each pair the one with the lower
// number waits.
func peering(net, n, other byte, asn uint32, role Role) Peer {
	return Peer{Addr: nodeAddr(net, other), ASN: asn, Port: testPort, Local: nodeAddr(net, n), Passive: n < other, Role: role}
}

const both = ToNodes | ToExternal

// timers are the negotiated hold time and keepalive interval, in seconds.
func timers(t *testing.T, s *Speaker, peer netip.Addr) (hold, keepalive uint64) {
	t.Helper()
	request := &api.ListPeerRequest{Address: peer.String()}
	if err := s.server.ListPeer(t.Context(), request, func(p *api.Peer) {
		hold, keepalive = p.GetTimers().GetState().GetNegotiatedHoldTime(), p.GetTimers().GetState().GetKeepaliveInterval()
	}); err != nil {
		t.Fatal(err)
	}
	return hold, keepalive
}

func sameLines(text string, lines []string) bool {
	got := slices.Sorted(strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' }))
	want := slices.Sorted(slices.Values(lines))
	return slices.Equal(got, want)
}

// nothingFiltered are policies that let all through as it is.
func nothingFiltered() *api.SetPoliciesRequest {
	return &api.SetPoliciesRequest{Policies: []*api.Policy{{Name: importPolicy}, {Name: exportPolicy}}}
}

const waiting = 20 * time.Second

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
