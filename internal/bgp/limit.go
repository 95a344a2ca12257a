package bgp

import (
	"context"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// GoBGP (v4.8.0) counts all that a peer has sent anew with each message of it:
// of thousands of prefixes, that is most of the time that they take. What a
// stranger can send has to be bounded at once, and where the limit is low it
// costs little. Of a node that may send thousands GoBGP is told only when the
// node is over its limit, and ends the session then. Until then what is accepted
// is counted as it comes, a moment later.

// exactLimit is the highest limit of a node that GoBGP keeps by itself.
const exactLimit = 1000

// keptByGoBGP is the limit that GoBGP is told of from the start, 0 for none.
func (p Peer) keptByGoBGP() uint32 {
	if most := p.maxPrefixes(); p.Role == External || most <= exactLimit {
		return most
	}
	return 0
}

// accepted counts the paths that each peer has in learned.
type accepted map[netip.Addr]map[bgp.Family]uint32

// add notes one more, or one less, and returns how many there are.
func (a accepted) add(peer netip.Addr, f bgp.Family, more bool) uint32 {
	switch {
	case more && a[peer] == nil:
		a[peer] = map[bgp.Family]uint32{f: 1}
	case more:
		a[peer][f]++
	case a[peer][f] > 1:
		a[peer][f]--
	default:
		if delete(a[peer], f); len(a[peer]) == 0 {
			delete(a, peer)
		}
	}
	return a[peer][f]
}

// within ends the session of a peer that has more paths than it may. The
// caller holds mu.
func (s *Speaker) within(addr netip.Addr, paths uint32) {
	session := s.sessions[addr]
	if session == nil || session.over || session.peer.keptByGoBGP() != 0 || paths <= session.peer.maxPrefixes() {
		return
	}
	session.over = true
	go s.enforce(addr)
}

// enforce tells GoBGP of a peer's limit. From then on it keeps it by itself.
func (s *Speaker) enforce(addr netip.Addr) {
	unlock, err := s.changing()
	if err != nil {
		return
	}
	defer unlock()
	s.mu.Lock()
	session := s.sessions[addr]
	if session == nil || !session.over { // another session since
		s.mu.Unlock()
		return
	}
	p := session.peer
	s.mu.Unlock()
	if _, err := s.server.UpdatePeer(context.Background(), &api.UpdatePeerRequest{Peer: s.peerConfig(p, p.maxPrefixes())}); err != nil {
		s.log.Warn("the limit of a BGP peer's prefixes is not in force; it is tried again with the next prefix", "peer", addr, "err", err)
		s.mu.Lock()
		session.over = false
		s.mu.Unlock()
	}
}
