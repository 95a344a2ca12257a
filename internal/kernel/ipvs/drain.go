package ipvs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
)

// target is what an ID's virtual server shall be now: what is desired, and
// with weight 0 the real servers that may finish their connections. It notes
// which those are. nil means none at all. Datagrams know no end of a connection:
// their clients are to move on at once. The hash of dh names a real server whatever
// its weight is, and would go on to send it new connections.
func (s *Servers) target(id ID) *Server {
	want := s.want[id]
	if want == nil || s.Grace == 0 || id.Protocol == inet.UDP || want.Datagrams || want.Scheduler == "dh" {
		delete(s.draining, id)
		return want
	}
	leaving := s.leaving(id, want)
	if len(leaving) == 0 {
		delete(s.draining, id)
		return want
	}
	s.draining[id] = leaving
	have, target := s.have[id].Real, want.clone()
	for addr := range leaving {
		target.Real[addr] = Real{Weight: 0, Method: have[addr].Method}
	}
	return &target
}

// leaving are the real servers that the kernel has and nobody desires, and
// since when they have weight 0: one that was found so, since it was found.
func (s *Servers) leaving(id ID, want *Server) map[netip.AddrPort]time.Time {
	var leaving map[netip.AddrPort]time.Time
	for addr, real := range s.have[id].Real {
		if _, ok := want.Real[addr]; ok {
			continue
		}
		since, ok := s.draining[id][addr]
		switch {
		case ok:
		case real.Weight == 0:
			since = s.loaded
		default:
			since = time.Now()
		}
		if leaving == nil {
			leaving = map[netip.AddrPort]time.Time{}
		}
		leaving[addr] = since
	}
	return leaving
}

// Reap removes the real servers that drain and have no connection left, or
// have had their Grace, and returns how many drain on. It asks the kernel
// about virtual servers with such real servers only.
func (s *Servers) Reap(now time.Time) (left int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var changes []Change
	for _, id := range slices.SortedFunc(maps.Keys(s.draining), compareIDs) {
		due, dueErr := s.due(id, now)
		if dueErr != nil && err == nil {
			err = fmt.Errorf("cannot ask for the connections of %s: %w", id, dueErr)
		}
		for _, addr := range due {
			changes = append(changes, Change{Op: DeleteReal, ID: id, RealAddr: addr})
		}
	}
	if reapErr := s.reap(changes); err == nil {
		err = reapErr
	}
	for _, leaving := range s.draining {
		left += len(leaving)
	}
	return left, err
}

// due are the real servers of an ID that can go.
func (s *Servers) due(id ID, now time.Time) (due []netip.AddrPort, err error) {
	if err := s.learn(id); err != nil {
		return nil, err
	}
	s.target(id) // which forgets those that went without us
	if len(s.draining[id]) == 0 {
		return nil, nil
	}
	s.counters.Reads++
	connections, err := s.driver.Connections(id)
	for addr, since := range s.draining[id] {
		idle := err == nil && connections[addr] == 0
		if idle || now.Sub(since) >= s.Grace {
			due = append(due, addr)
		}
	}
	slices.SortFunc(due, netip.AddrPort.Compare)
	return due, err
}

// reap deletes real servers that drained.
func (s *Servers) reap(changes []Change) error {
	failed := map[ID]error{}
	s.apply(changes, failed)
	for _, c := range changes {
		if failed[c.ID] != nil {
			s.unknown[c.ID] = struct{}{}
			continue
		}
		delete(s.have[c.ID].Real, c.RealAddr)
		if delete(s.draining[c.ID], c.RealAddr); len(s.draining[c.ID]) == 0 {
			delete(s.draining, c.ID)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	first := slices.MinFunc(slices.Collect(maps.Keys(failed)), compareIDs)
	return fmt.Errorf("real servers of %d virtual servers drained and cannot be removed, the first: %w", len(failed), failed[first])
}
