package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"

	"github.com/kube-router/kube-router/internal/reconcile"
)

// SetPeers makes peers the configured ones. Sessions of unchanged peers are
// not touched, those of removed and changed ones end with a Cease. Its error
// joins one for each peer that could not be configured; the others were, and
// calling again tries those that failed.
func (s *Speaker) SetPeers(peers []Peer) error {
	unlock, err := s.changing()
	if err != nil {
		return err
	}
	defer unlock()
	want, unusable := s.config.usable(peers)
	clients := s.clients()
	d := reconcile.Diff(s.configured(), want, func(is, want Peer) bool {
		return sameSession(is, want) && clients[want.Addr] == s.reflectsTo(want)
	})
	errs := []error{unusable}
	for _, addr := range slices.Concat(d.Remove, d.Change) {
		errs = append(errs, s.removePeer(addr))
	}
	// Before the first session with an external peer the policies know it as
	// one, so that it is never told what is for nodes.
	if external := externalOf(want); !slices.Equal(external, s.external) {
		if err := s.applyPolicies(external); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	for _, addr := range slices.Concat(d.Change, d.Add) {
		errs = append(errs, s.addPeer(want[addr]))
	}
	s.nameRoles(want)
	return errors.Join(errs...)
}

// nameRoles takes note of the roles that changed.
func (s *Speaker) nameRoles(peers map[netip.Addr]Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, session := range s.sessions {
		if p, ok := peers[addr]; ok {
			session.peer.Role = p.Role
		}
	}
}

// externalOf returns the addresses of the external peers, in order.
func externalOf(peers map[netip.Addr]Peer) []netip.Addr {
	var external []netip.Addr
	for addr, p := range peers {
		if p.Role == External {
			external = append(external, addr)
		}
	}
	slices.SortFunc(external, netip.Addr.Compare)
	return external
}

func (s *Speaker) configured() map[netip.Addr]Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers := make(map[netip.Addr]Peer, len(s.sessions))
	for addr, session := range s.sessions {
		peers[addr] = session.peer
	}
	return peers
}

// clients are the peers that GoBGP reflects to.
func (s *Speaker) clients() map[netip.Addr]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	clients := map[netip.Addr]bool{}
	for addr, session := range s.sessions {
		clients[addr] = session.client
	}
	return clients
}

func (s *Speaker) removePeer(addr netip.Addr) error {
	s.mu.Lock()
	peer := s.sessions[addr].peer
	s.mu.Unlock()
	var err error
	if peer.Password != "" {
		err = s.forgetPassword(peer)
	}
	if err == nil {
		err = s.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: addr.String()})
	}
	if err == nil {
		err = s.unwatchLink(peer)
	}
	if err != nil {
		return fmt.Errorf("BGP peer %s: remove: %w", addr, err)
	}
	s.mu.Lock()
	s.sessions[addr].rest.stop()
	s.sessions[addr].again.stop()
	delete(s.sessions, addr)
	s.mu.Unlock()
	return nil
}

// forgetPassword takes the peer's password from the listeners. GoBGP does that
// where a peer is changed, not where one is deleted; it would stay, and keep
// out the same peer without one.
func (s *Speaker) forgetPassword(p Peer) error {
	p.Password = ""
	_, err := s.server.UpdatePeer(context.Background(), &api.UpdatePeerRequest{Peer: s.peerConfig(p, p.keptByGoBGP())})
	return err
}

func (s *Speaker) addPeer(p Peer) error {
	s.mu.Lock()
	s.sessions[p.Addr] = &session{peer: p, client: s.reflectsTo(p)}
	s.mu.Unlock()
	request := &api.AddPeerRequest{Peer: s.peerConfig(p, p.keptByGoBGP())}
	err := s.server.AddPeer(context.Background(), request)
	if err == nil {
		if err = errors.Join(s.signed(p.Addr), s.watchLink(p)); err != nil { // else it would stay, and be in the way of the next try
			_ = s.unwatchLink(p)
			if p.Password != "" {
				_ = s.forgetPassword(p)
			}
			_ = s.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: p.Addr.String()})
		}
	}
	if err != nil {
		s.mu.Lock()
		delete(s.sessions, p.Addr)
		s.mu.Unlock()
		return fmt.Errorf("BGP peer %s: add: %w", p.Addr, err)
	}
	return nil
}

// listenersRefuse takes note that the listeners did not take a peer's password.
// GoBGP goes on then, and anybody who takes the peer's address would be let in
// without it.
func (s *Speaker) listenersRefuse(peer netip.Addr, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsigned[peer] = why
}

// signed says whether the listeners have the password of a peer that was added.
func (s *Speaker) signed(peer netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	why, refused := s.unsigned[peer]
	delete(s.unsigned, peer)
	if !refused {
		return nil
	}
	return fmt.Errorf("its password is not in force (TCP MD5, RFC 2385): %s", why)
}

// Peers returns the state of every configured peer, by address.
func (s *Speaker) Peers() []PeerState {
	counts := s.prefixCounts()
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.toldOf()
	states := make([]PeerState, 0, len(s.sessions))
	for addr, session := range s.sessions {
		bfdState, bfdError := s.bfdOf(session.peer)
		states = append(states, PeerState{
			Peer:       session.peer,
			State:      stateName(session.state),
			Since:      session.since,
			Received:   counts[addr].received,
			Accepted:   counts[addr].accepted,
			Advertised: told.to(session),
			Settled:    session.settled(),
			LastError:  session.lastError(),
			BFDState:   bfdState,
			BFDError:   bfdError,
		})
	}
	slices.SortFunc(states, func(a, b PeerState) int { return a.Addr.Compare(b.Addr) })
	return states
}

// Unsettled returns the configured peers that have not delivered their whole
// table yet, by address.
func (s *Speaker) Unsettled() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var waiting []netip.Addr
	for addr, session := range s.sessions {
		if !session.settled() {
			waiting = append(waiting, addr)
		}
	}
	slices.SortFunc(waiting, netip.Addr.Compare)
	return waiting
}
