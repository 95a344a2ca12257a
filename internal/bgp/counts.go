package bgp

import (
	"context"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/kube-router/kube-router/internal/inet"
)

type prefixCount struct{ received, accepted uint64 }

func (s *Speaker) prefixCounts() map[netip.Addr]prefixCount {
	counts := map[netip.Addr]prefixCount{}
	_ = s.server.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
		addr, err := netip.ParseAddr(p.GetConf().GetNeighborAddress())
		if err != nil {
			return
		}
		var count prefixCount
		for _, family := range p.GetAfiSafis() {
			count.received += family.GetState().GetReceived()
			count.accepted += family.GetState().GetAccepted()
		}
		counts[addr] = count
	}) // an error means that the speaker has stopped: then there are no counts
	return counts
}

// told says how many prefixes peers are told. GoBGP counts them by judging
// every route for every peer, with all of BGP waiting: seconds, on a reflector
// of a large cluster.
type told struct {
	external, nodes map[bgp.Family]uint64 // our own, by audience
	// learned are those that nodes told us, and from is who told them.
	learned map[bgp.Family]uint64
	from    map[netip.Addr]map[bgp.Family]uint64
}

// toldOf counts what there is to tell. The caller holds mu.
func (s *Speaker) toldOf() told {
	t := told{
		external: map[bgp.Family]uint64{}, nodes: map[bgp.Family]uint64{},
		learned: map[bgp.Family]uint64{}, from: map[netip.Addr]map[bgp.Family]uint64{},
	}
	for prefix, r := range s.advertised {
		f := family(inet.FamilyOf(prefix.Addr()))
		if r.To&ToExternal != 0 {
			t.external[f]++
		}
		if r.To&ToNodes != 0 {
			t.nodes[f]++
		}
	}
	if !s.config.ClusterID.IsValid() || s.hold.on {
		return t // nothing that was learned is told
	}
	for prefix, paths := range s.learned {
		if _, ours := s.advertised[prefix]; !ours {
			s.countLearned(&t, family(inet.FamilyOf(prefix.Addr())), paths)
		}
	}
	return t
}

// countLearned counts a prefix for the one of its paths that is told.
func (s *Speaker) countLearned(t *told, f bgp.Family, paths map[source]netip.Addr) {
	var from *session
	for source := range paths {
		session := s.sessions[source.peer]
		if session != nil && session.peer.Role != External && (from == nil || source.peer.Less(from.peer.Addr)) {
			from = session
		}
	}
	if from == nil {
		return
	}
	t.learned[f]++
	if t.from[from.peer.Addr] == nil {
		t.from[from.peer.Addr] = map[bgp.Family]uint64{}
	}
	t.from[from.peer.Addr][f]++
}

// to is how many prefixes a peer is told, in the families of its session.
func (t told) to(s *session) uint64 {
	if s.state != bgp.BGP_FSM_ESTABLISHED {
		return 0
	}
	var n uint64
	for _, f := range s.families {
		if s.peer.Role == External {
			n += t.external[f]
		} else {
			n += t.nodes[f] + t.learned[f] - t.from[s.peer.Addr][f]
		}
	}
	return n
}
