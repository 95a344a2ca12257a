package bgp

import (
	"errors"
	"maps"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// GoBGP tells a peer what it has when the session is coming up, and of changes
// when it is up. What changes between the two it tells nobody (v4.8.0 stores
// the new state after it has sent the table). So a moment later the peer is
// told again, if there was any change around that time.

// missTime is that moment, and how long before it a change may have been to
// matter.
const missTime = time.Second

// missed holds what changed lately. It belongs to Speaker.mu.
type missed struct {
	last      time.Time
	withdrawn map[netip.Prefix]withdrawal
	forgetAt  int // how many there are when old ones are forgotten
}

// withdrawal is when a prefix was withdrawn, and when that was told again.
type withdrawal struct{ at, again time.Time }

// changed takes note of a change of what peers are told. What is remembered is
// bounded by its age alone: one of many that is forgotten too early stays with a
// peer until its session ends.
func (m *missed) changed(prefix netip.Prefix, gone bool, now time.Time) {
	m.last = now
	if !gone {
		delete(m.withdrawn, prefix)
		return
	}
	if m.withdrawn == nil {
		m.withdrawn, m.forgetAt = map[netip.Prefix]withdrawal{}, minForget
	}
	if len(m.withdrawn) >= m.forgetAt { // seldom, so that each costs little
		maps.DeleteFunc(m.withdrawn, func(_ netip.Prefix, w withdrawal) bool { return now.Sub(w.at) > 3*missTime })
		m.forgetAt = max(minForget, 2*len(m.withdrawn))
	}
	m.withdrawn[prefix] = withdrawal{at: now}
}

// minForget is how many withdrawals are kept at least until old ones go.
const minForget = 1000

// around returns what was withdrawn when a session came up, but for what was
// told again when it had been up for long enough.
func (m *missed) around(since time.Time) []netip.Prefix {
	var gone []netip.Prefix
	for prefix, w := range m.withdrawn {
		if since.Sub(w.at) < missTime && w.again.Before(since.Add(missTime)) {
			gone = append(gone, prefix)
		}
	}
	return gone
}

func (m *missed) toldAgain(prefix netip.Prefix, now time.Time) {
	if w, ok := m.withdrawn[prefix]; ok {
		m.withdrawn[prefix] = withdrawal{w.at, now}
	}
}

// tellAgain sends a peer what it may have missed when its session came up.
func (s *Speaker) tellAgain(addr netip.Addr, since time.Time) {
	unlock, err := s.changing()
	if err != nil {
		return
	}
	defer unlock()
	s.mu.Lock()
	session := s.sessions[addr]
	same := session != nil && session.since.Equal(since) && session.state == bgp.BGP_FSM_ESTABLISHED
	quiet := since.Sub(s.missed.last) > missTime
	told := s.holdTells(since)
	var gone []netip.Prefix
	for _, prefix := range s.missed.around(since) {
		if _, ours := s.advertised[prefix]; !ours && len(s.learned[prefix]) == 0 {
			gone = append(gone, prefix)
		}
	}
	s.mu.Unlock()
	if !same || quiet {
		return
	}
	var errs []error
	if !told {
		errs = append(errs, s.refresh(addr.String(), api.ResetPeerRequest_DIRECTION_OUT))
	}
	for _, prefix := range gone {
		errs = append(errs, s.withdrawAgain(prefix))
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("BGP peer may have missed a change", "peer", addr, "err", err)
	}
}

// withdrawAgain makes GoBGP tell everybody that a prefix is gone: of a route
// for nobody they hear only its end.
func (s *Speaker) withdrawAgain(prefix netip.Prefix) error {
	path, err := localPath(Route{Prefix: prefix, NextHop: s.anyHop(prefix)})
	if err != nil {
		return err
	}
	if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}}); err != nil {
		return err
	}
	if err := s.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed.toldAgain(prefix, time.Now())
	return nil
}

// anyHop is a next hop that nobody gets to see.
func (s *Speaker) anyHop(prefix netip.Prefix) netip.Addr {
	if prefix.Addr().Is6() {
		return netip.IPv6Loopback()
	}
	return s.config.RouterID
}
