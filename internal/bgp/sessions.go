package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/kube-router/kube-router/internal/inet"
)

// session is a configured peer and what the events said about it.
type session struct {
	peer Peer
	// client says that GoBGP takes it for a client of this reflector.
	client bool
	state  bgp.FSMState
	since  time.Time
	// families are those that both sides speak.
	families []bgp.Family
	// waiting holds the families whose End-of-RIB the peer has promised (it
	// has the graceful restart capability) and not sent yet.
	waiting  map[bgp.Family]bool
	promised bool
	// ended is why the last session ended, failed why the last of so many
	// tries to have one failed.
	ended, failed string
	tries         int
	// over says that the peer has sent too many prefixes, and that GoBGP keeps
	// its limit since.
	over bool
	// linkDown says that BFD is ending the session.
	linkDown bool
	// rest ends the time for which a peer that sent too much is left alone,
	// again is when the peer is told what it may have missed.
	rest, again timer
}

// timer is one that may not be there.
type timer struct{ *time.Timer }

func (t timer) stop() {
	if t.Timer != nil {
		t.Stop()
	}
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

func (s *session) lastError() string {
	if s.failed != "" {
		return s.failed
	}
	return s.ended
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
	up, down := now == bgp.BGP_FSM_ESTABLISHED, before == bgp.BGP_FSM_ESTABLISHED
	switch {
	case up && !down:
		s.sessionUp(session, &event.Peer.State)
	case down && !up:
		s.sessionDown(session, &event.Peer.State)
	case now == bgp.BGP_FSM_IDLE && before > bgp.BGP_FSM_ACTIVE:
		s.tryFailed(session, s.reason(session.peer, before, &event.Peer.State))
	}
	why := session.ended
	s.mu.Unlock()
	if down && !up && tooMany(&event.Peer.State) && s.config.OnLimit != nil {
		s.config.OnLimit(addr, fmt.Sprintf("BGP peer %s: %s. Find out why it sends so many; if it is meant to, allow more (--peer-router-max-prefixes, or maxprefixes of its annotation)", addr, why))
	}
	if up != down && s.config.OnPeer != nil {
		s.config.OnPeer(addr)
	}
}

// tooMany says whether a session ended for the prefixes that the peer sent.
func tooMany(state *apiutil.PeerState) bool {
	return state.AdminState == api.PeerState_ADMIN_STATE_PFX_CT
}

func (s *Speaker) sessionUp(session *session, state *apiutil.PeerState) {
	session.since, session.failed, session.tries = time.Now(), "", 0
	session.families = spoken(state.RemoteCap, s.families())
	session.promised, session.waiting = promisedEOR(state.RemoteCap, s.families())
	s.heard()
	addr, since := session.peer.Addr, session.since
	session.again.stop()
	session.again = timer{time.AfterFunc(missTime, func() { s.tellAgain(addr, since) })}
	s.log.Info("BGP session up", "peer", session.peer.Addr, "asn", state.PeerASN, "role", session.peer.Role)
}

func (s *Speaker) sessionDown(session *session, state *apiutil.PeerState) {
	session.since = time.Time{}
	session.ended = s.reason(session.peer, bgp.BGP_FSM_ESTABLISHED, state)
	if session.linkDown {
		session.ended, session.linkDown = fmt.Sprintf("BFD: no packet from the peer in %v, or it said that it is down", session.peer.BFD.detectionTime()), false
	}
	level := slog.LevelInfo
	if tooMany(state) {
		level = slog.LevelWarn
	}
	s.log.Log(context.Background(), level, "BGP session down", "peer", session.peer.Addr, "asn", session.peer.ASN, "reason", session.ended)
	if !tooMany(state) {
		return
	}
	addr := session.peer.Addr
	session.rest.stop()
	session.rest = timer{time.AfterFunc(s.limitRetry, func() {
		// An error means that the speaker has stopped.
		_ = s.server.EnablePeer(context.Background(), &api.EnablePeerRequest{Address: addr.String()})
	})}
}

// loggedTry is the try at which a peer that cannot be reached is logged: the
// first ones fail where nodes start at once.
const loggedTry = 3

func (s *Speaker) tryFailed(session *session, why string) {
	session.failed = why
	session.tries++
	if session.tries == loggedTry {
		s.log.Warn("BGP peer cannot be reached", "peer", session.peer.Addr, "asn", session.peer.ASN,
			"role", session.peer.Role, "reason", why)
	}
}

// dialFailed takes note of why a connection that GoBGP opened came to nothing.
func (s *Speaker) dialFailed(addr netip.Addr, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.sessions[addr]
	if session == nil || s.stopped || session.state == bgp.BGP_FSM_ESTABLISHED {
		return
	}
	if session.peer.Password != "" && unanswered(why) {
		why += " (a password that is not the same on both sides has that effect, too)"
	}
	s.tryFailed(session, why)
}

// reason is why a session or a try ended, in an operator's words.
func (s *Speaker) reason(p Peer, before bgp.FSMState, state *apiutil.PeerState) string {
	switch {
	case tooMany(state):
		return fmt.Sprintf("the peer sent more than %d prefixes of a family; the next try is in %v", p.maxPrefixes(), s.limitRetry)
	case state.DisconnectReason == api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:
		return badPeerAS
	case state.DisconnectReason == api.PeerState_DISCONNECT_REASON_INVALID_MSG && before == bgp.BGP_FSM_OPENCONFIRM:
		return fmt.Sprintf("the peer refused the session: does it expect AS %d and router ID %s?", s.config.ASN, s.config.RouterID)
	case state.DisconnectMessage == "":
		return "its configuration changed here"
	}
	return state.DisconnectMessage
}

const badPeerAS = "the peer's autonomous system is not the configured one"

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

// spoken returns the families of ours that the peer speaks, too: without a
// word about them that is IPv4 (RFC 4760 section 8).
func spoken(caps []bgp.ParameterCapabilityInterface, ours []bgp.Family) []bgp.Family {
	var families []bgp.Family
	said := false
	for _, c := range caps {
		multi, ok := c.(*bgp.CapMultiProtocol)
		if !ok {
			continue
		}
		said = true
		if slices.Contains(ours, multi.CapValue) {
			families = append(families, multi.CapValue)
		}
	}
	if !said && slices.Contains(ours, bgp.RF_IPv4_UC) {
		return []bgp.Family{bgp.RF_IPv4_UC}
	}
	return families
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
