package bgp

import (
	"context"
	"math"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// GoBGP (v4.8.0) counts all that a peer has sent anew with each message of it:
// of thousands of prefixes, that is most of the time that they take. So it is
// told of a high limit only when the peer is over it, and ends the session then.
// Until then two others count: what is accepted is counted as it comes, and
// what a peer outside of the cluster has sent in all is asked for from time to
// time, since what import rejects takes memory, too.

// exactLimit is the highest limit that GoBGP may keep by itself.
const exactLimit = 1000

// What a peer outside of the cluster has sent is looked at that often at first,
// and that seldom where it has not changed for a while.
const looksOften, looksSeldom = time.Second, 16 * time.Second

// keptByGoBGP is the limit that GoBGP is told of from the start, 0 for none.
func (p Peer) keptByGoBGP() uint32 {
	if most := p.maxPrefixes(); most <= exactLimit {
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
	peer := session.peer
	go s.enforce(peer)
}

// enforce tells GoBGP of a peer's limit. From then on it keeps it by itself.
func (s *Speaker) enforce(p Peer) {
	unlock, err := s.changing()
	if err != nil {
		return
	}
	defer unlock()
	s.mu.Lock()
	session := s.sessions[p.Addr]
	same := session != nil && session.over && session.peer == p
	s.mu.Unlock()
	if !same {
		return
	}
	if _, err := s.server.UpdatePeer(context.Background(), &api.UpdatePeerRequest{Peer: s.peerConfig(p, p.maxPrefixes())}); err != nil {
		s.log.Warn("the limit of a BGP peer's prefixes is not in force; it is tried again", "peer", p.Addr, "err", err)
		s.mu.Lock()
		session.over = false
		s.mu.Unlock()
	}
}

// looks say when a peer's prefixes are counted again.
type looks struct {
	next  time.Time
	after time.Duration
	seen  uint64
}

// due says whether it is time for a look, and when the next is.
func (l *looks) due(now time.Time) bool {
	if now.Before(l.next) {
		return false
	}
	l.after = min(max(2*l.after, looksOften), looksSeldom)
	l.next = now.Add(l.after)
	return true
}

// saw takes note of what a look showed.
func (l *looks) saw(now time.Time, prefixes uint64) {
	if prefixes != l.seen {
		*l = looks{seen: prefixes, next: now.Add(looksOften), after: looksOften}
	}
}

// keepLimits looks at what peers outside of the cluster have sent, until ctx
// ends.
func (s *Speaker) keepLimits(ctx context.Context) {
	tick := time.NewTicker(looksOften)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, addr := range s.dueForLook(now) {
				s.lookAt(addr, now)
			}
		}
	}
}

// dueForLook are the peers to be looked at.
func (s *Speaker) dueForLook(now time.Time) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []netip.Addr
	for addr, session := range s.sessions {
		bounded := session.over || session.peer.keptByGoBGP() != 0
		if session.peer.Role == External && session.state == bgp.BGP_FSM_ESTABLISHED && !bounded && session.looks.due(now) {
			list = append(list, addr)
		}
	}
	return list
}

func (s *Speaker) lookAt(addr netip.Addr, now time.Time) {
	var most uint64
	_ = s.server.ListPeer(context.Background(), &api.ListPeerRequest{Address: addr.String()}, func(p *api.Peer) {
		for _, f := range p.GetAfiSafis() {
			most = max(most, f.GetState().GetReceived())
		}
	}) // an error means that the speaker has stopped
	s.mu.Lock()
	defer s.mu.Unlock()
	if session := s.sessions[addr]; session != nil {
		session.looks.saw(now, most)
	}
	s.within(addr, uint32(min(most, math.MaxUint32)))
}
