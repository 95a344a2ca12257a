package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// session is a configured peer and what the events said about it.
type session struct {
	peer  Peer
	state bgp.FSMState
	since time.Time
	// waiting holds the families whose End-of-RIB the peer has promised (it
	// has the graceful restart capability) and not sent yet.
	waiting   map[bgp.Family]bool
	promised  bool
	lastError string
}

// settled says whether the peer has delivered its table.
func (s *session) settled() bool {
	if s.state != bgp.BGP_FSM_ESTABLISHED {
		return false
	}
	if s.promised {
		return len(s.waiting) == 0
	}
	return time.Since(s.since) >= settleTime
}

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
	want := map[netip.Addr]Peer{}
	for _, p := range peers {
		want[p.Addr] = p
	}
	d := reconcile.Diff(s.configured(), want, Peer.sameSession)
	s.relabel(want)
	var errs []error
	for _, addr := range slices.Concat(d.Remove, d.Change) {
		errs = append(errs, s.removePeer(addr))
	}
	for _, addr := range slices.Concat(d.Change, d.Add) {
		errs = append(errs, s.addPeer(want[addr]))
	}
	return errors.Join(errs...)
}

// relabel takes the roles over of peers whose sessions go on.
func (s *Speaker) relabel(want map[netip.Addr]Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, session := range s.sessions {
		if p, ok := want[addr]; ok && p.sameSession(session.peer) {
			session.peer = p
		}
	}
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

func (s *Speaker) removePeer(addr netip.Addr) error {
	request := &api.DeletePeerRequest{Address: addr.String()}
	if err := s.server.DeletePeer(context.Background(), request); err != nil {
		return fmt.Errorf("BGP peer %s: remove: %w", addr, err)
	}
	s.mu.Lock()
	delete(s.sessions, addr)
	s.mu.Unlock()
	return nil
}

func (s *Speaker) addPeer(p Peer) error {
	if !p.Addr.IsValid() || p.ASN == 0 {
		return fmt.Errorf("BGP peer %s: needs an address and an autonomous system number", p.Addr)
	}
	s.mu.Lock()
	s.sessions[p.Addr] = &session{peer: p}
	s.mu.Unlock()
	request := &api.AddPeerRequest{Peer: s.peerConfig(p)}
	if err := s.server.AddPeer(context.Background(), request); err != nil {
		s.mu.Lock()
		delete(s.sessions, p.Addr)
		s.mu.Unlock()
		return fmt.Errorf("BGP peer %s: add: %w", p.Addr, err)
	}
	return nil
}

func (s *Speaker) peerConfig(p Peer) *api.Peer {
	config := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: p.Addr.String(), PeerAsn: p.ASN, LocalAsn: s.config.ASN},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry:           uint64(connectRetry.Seconds()),
			HoldTime:               uint64(HoldTime.Seconds()),
			KeepaliveInterval:      uint64(HoldTime.Seconds() / 3),
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{RemotePort: uint32(p.Port), PassiveMode: p.Passive},
	}
	if p.ASN != s.config.ASN {
		config.Conf.Type = api.PeerType_PEER_TYPE_EXTERNAL
	}
	if p.Local.IsValid() {
		config.Transport.LocalAddress = p.Local.String()
	}
	for _, f := range s.config.Families {
		config.AfiSafis = append(config.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: apiFamily(f), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: s.config.GracefulRestart}},
		})
	}
	if s.config.GracefulRestart {
		config.GracefulRestart = s.gracefulRestart()
	}
	return config
}

// gracefulRestart says that we restart only while a restart can still be under
// way: a peer that is configured later never knew the former run.
func (s *Speaker) gracefulRestart() *api.GracefulRestart {
	deferral := max(s.config.DeferralTime, time.Second)
	return &api.GracefulRestart{
		Enabled:         true,
		RestartTime:     uint32(s.config.RestartTime.Seconds()),
		DeferralTime:    uint32(deferral.Seconds()),
		LocalRestarting: s.config.Restarting && time.Since(s.started) < s.config.RestartTime,
	}
}

// Peers returns the state of every configured peer, by address.
func (s *Speaker) Peers() []PeerState {
	counts := s.prefixCounts()
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]PeerState, 0, len(s.sessions))
	for addr, session := range s.sessions {
		state := PeerState{
			Peer:      session.peer,
			State:     stateName(session.state),
			Since:     session.since,
			Received:  counts[addr].received,
			Accepted:  counts[addr].accepted,
			Settled:   session.settled(),
			LastError: session.lastError,
		}
		states = append(states, state)
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

// peerChanged takes note of a session's step.
func (s *Speaker) peerChanged(event *apiutil.WatchEventMessage_PeerEvent) {
	if event.Type != apiutil.PEER_EVENT_STATE {
		return
	}
	addr, now := event.Peer.State.NeighborAddress, event.Peer.State.SessionState
	s.mu.Lock()
	session := s.sessions[addr]
	if session == nil || s.stopped {
		s.mu.Unlock()
		return
	}
	before := session.state
	session.state = now
	if reason := event.Peer.State.DisconnectMessage; reason != "" && now == bgp.BGP_FSM_IDLE {
		session.lastError = reason
	}
	up, down := now == bgp.BGP_FSM_ESTABLISHED, before == bgp.BGP_FSM_ESTABLISHED
	switch {
	case up && !down:
		session.since = time.Now()
		session.promised, session.waiting = promisedEOR(event.Peer.State.RemoteCap, s.families())
		s.log.Info("BGP session up", "peer", addr, "asn", event.Peer.State.PeerASN)
	case down && !up:
		session.since = time.Time{}
		s.log.Info("BGP session down", "peer", addr, "asn", session.peer.ASN, "reason", session.lastError)
	}
	s.mu.Unlock()
	if up != down && s.config.OnPeer != nil {
		s.config.OnPeer(addr)
	}
}

// endOfRIB takes note that a peer has sent all it has of a family.
func (s *Speaker) endOfRIB(addr netip.Addr, family bgp.Family) {
	s.mu.Lock()
	session := s.sessions[addr]
	if session == nil || s.stopped {
		s.mu.Unlock()
		return
	}
	delete(session.waiting, family)
	s.mu.Unlock()
	if s.config.OnPeer != nil {
		s.config.OnPeer(addr)
	}
}

// promisedEOR returns the families of ours that the peer will send End-of-RIB
// for: those of its graceful restart capability.
func promisedEOR(caps []bgp.ParameterCapabilityInterface, ours []bgp.Family) (bool, map[bgp.Family]bool) {
	families, promised := map[bgp.Family]bool{}, false
	for _, c := range caps {
		gr, ok := c.(*bgp.CapGracefulRestart)
		if !ok {
			continue
		}
		promised = true
		for _, tuple := range gr.Tuples {
			if f := bgp.NewFamily(tuple.AFI, tuple.SAFI); slices.Contains(ours, f) {
				families[f] = true
			}
		}
	}
	return promised && len(families) > 0, families
}

func (s *Speaker) families() []bgp.Family {
	var families []bgp.Family
	for _, f := range s.config.Families {
		families = append(families, family(f))
	}
	return families
}

func family(f inet.Family) bgp.Family {
	if f == inet.IPv4 {
		return bgp.RF_IPv4_UC
	}
	return bgp.RF_IPv6_UC
}

func apiFamily(f inet.Family) *api.Family {
	afi := api.Family_AFI_IP
	if f == inet.IPv6 {
		afi = api.Family_AFI_IP6
	}
	return &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}
}

func stateName(s bgp.FSMState) string {
	switch s {
	case bgp.BGP_FSM_CONNECT:
		return "Connect"
	case bgp.BGP_FSM_ACTIVE:
		return "Active"
	case bgp.BGP_FSM_OPENSENT:
		return "OpenSent"
	case bgp.BGP_FSM_OPENCONFIRM:
		return "OpenConfirm"
	case bgp.BGP_FSM_ESTABLISHED:
		return established
	}
	return "Idle"
}
