package bgp

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// A reflector that starts hears of all its clients within seconds. If it passed
// on each route as it came, each client would be told of each other by itself,
// and of all of them once more, because routes change while its session comes
// up (see missed.go). So it reflects nothing until all is quiet, and then tells
// each client the table, once. Its own routes do not wait. FRR has the same as
// "bgp update-delay".
const (
	// holdQuiet is for how long no session may have come up, and no route have
	// changed, when all peers are there; holdAbsent is that when some are not: a
	// thousand that come at once make pauses.
	holdQuiet  = 500 * time.Millisecond
	holdAbsent = 3 * time.Second
	// holdMost bounds the wait, from the first session on.
	holdMost = 10 * time.Second
)

// hold is that wait. It belongs to Speaker.mu.
type hold struct {
	on bool
	// since is when the first session came up, last when something came last.
	since, last time.Time
	over        time.Time // when it ended
	look        timer
}

// startsOnHold says whether a speaker begins so. After a graceful restart GoBGP
// waits for the peers' End-of-RIB itself, and peers still have what was told.
func (c *Config) startsOnHold() bool {
	return c.ClusterID.IsValid() && !(c.GracefulRestart && c.Restarting)
}

func (s *Speaker) holding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hold.on
}

// heard takes note of a session or a route. The caller holds Speaker.mu.
func (s *Speaker) heard() {
	h := &s.hold
	if !h.on {
		return
	}
	h.last = time.Now()
	if h.since.IsZero() {
		h.since = h.last
		h.look = timer{time.AfterFunc(holdQuiet, s.lookAtHold)}
	}
}

// lookAtHold ends the wait, or looks again when it may be over.
func (s *Speaker) lookAtHold() {
	s.mu.Lock()
	h := &s.hold
	quiet := holdQuiet
	for _, session := range s.sessions {
		if session.since.IsZero() {
			quiet = holdAbsent
		}
	}
	wait := min(time.Until(h.last.Add(quiet)), time.Until(h.since.Add(holdMost)))
	if s.stopped || wait > 0 {
		if !s.stopped {
			h.look.Reset(min(wait, holdQuiet)) // peers that are missed may come, or go
		}
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if err := s.reflect(); err != nil && !errors.Is(err, errStopped) {
		s.log.Error("BGP reflector does not pass on all that it has learned", "err", err, "retries", s.holding())
		s.retryReflect()
	}
}

// retryReflect looks again where nothing is passed on yet.
func (s *Speaker) retryReflect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold.on && !s.stopped {
		s.hold.look.Reset(holdAbsent)
	}
}

// reflect passes on what was learned, from now on. Peers are told one by one, so
// that other changes come in between.
func (s *Speaker) reflect() error {
	unlock, err := s.changing()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.hold.on = false
	s.mu.Unlock()
	if err := s.applyPolicies(s.external); err != nil {
		s.mu.Lock()
		s.hold.on = true
		s.mu.Unlock()
		unlock()
		return err
	}
	s.mu.Lock()
	s.hold.over = time.Now()
	addrs := slices.SortedFunc(maps.Keys(s.sessions), netip.Addr.Compare)
	s.mu.Unlock()
	unlock()
	var errs []error
	for _, addr := range addrs {
		errs = append(errs, s.tellAll(addr))
	}
	return errors.Join(errs...)
}

// tellAll tells a peer the table, where it is still one.
func (s *Speaker) tellAll(addr netip.Addr) error {
	unlock, err := s.changing()
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	_, there := s.sessions[addr]
	s.mu.Unlock()
	if !there {
		return nil
	}
	return s.refresh(addr.String(), api.ResetPeerRequest_DIRECTION_OUT)
}

// holdTells says whether a session that came up at a time is told the table
// when the wait ends, or was. The caller holds Speaker.mu.
func (s *Speaker) holdTells(since time.Time) bool {
	// GoBGP reports a session a moment before it counts as up.
	return s.hold.on || since.Before(s.hold.over.Add(-holdQuiet/2))
}
