package ipvs

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Servers keeps virtual servers as they are desired. It remembers what the
// kernel holds, so that only differences become operations, and what failed,
// so that it is read back before it is tried again. It is safe for concurrent
// use.
type Servers struct {
	// Grace is for how long a real server that is no longer desired in a
	// virtual server that stays may finish its connections: it has weight 0
	// until Reap removes it. 0 removes at once. It is set before first use.
	Grace time.Duration

	driver Interface
	owns   func(ID) bool

	mu   sync.Mutex
	want map[ID]*Server
	// have is what the kernel holds: every ID after Load, not only ours,
	// since a desired ID may exist already, whoever made it.
	have map[ID]Server
	// unknown are IDs with a failed change: have does not tell about them.
	unknown map[ID]struct{}
	// draining are the real servers that Grace keeps, and since when.
	draining map[ID]map[netip.AddrPort]time.Time
	loaded   time.Time // when have was last read
	// swept is set once everything that is desired has been said, by Retain.
	swept    bool
	counters Counters
}

// Counters count the kernel operations of one Servers or since its start.
type Counters struct {
	Changes uint64 // that took effect
	Failed  uint64 // changes that the kernel refused
	Reads   uint64 // whole dumps and single virtual servers
	Repairs uint64 // virtual servers that Resync repaired
}

// NewServers returns a Servers without knowledge of the kernel: call Load
// before Set. owns says which virtual servers may be deleted though nobody
// asked for it by Set: those of a former run. Others are never touched, unless
// they are desired themselves.
func NewServers(driver Interface, owns func(ID) bool) *Servers {
	return &Servers{
		driver: driver, owns: owns,
		want: map[ID]*Server{}, have: map[ID]Server{}, unknown: map[ID]struct{}{},
		draining: map[ID]map[netip.AddrPort]time.Time{},
	}
}

// Load reads the kernel back. What is there already and is desired later is
// adopted without an operation.
func (s *Servers) Load() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load()
}

func (s *Servers) load() error {
	s.counters.Reads++
	have, err := s.driver.List()
	if err != nil {
		return fmt.Errorf("cannot read the virtual servers back: %w", err)
	}
	s.have, s.loaded = have, time.Now()
	clear(s.unknown)
	return nil
}

// Set makes each ID's virtual server as given, or removes it where that is
// nil, with the fewest operations and in one batch: what is new comes before
// what is removed, so that a virtual server never loses its last real server
// in between. It returns the first error of each ID that failed. The caller
// must not change a Server afterwards.
func (s *Servers) Set(servers map[ID]*Server) map[ID]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]ID, 0, len(servers))
	for id, server := range servers {
		switch {
		case server != nil:
			s.want[id] = server
		case !s.mayRemove(id):
			continue
		default:
			delete(s.want, id)
		}
		ids = append(ids, id)
	}
	return s.sync(ids)
}

// mayRemove says that an ID is ours, was desired until now, or is left from a
// removal that failed.
func (s *Servers) mayRemove(id ID) bool {
	_, failed := s.unknown[id]
	return failed || s.want[id] != nil || s.owns(id)
}

// Retain removes the virtual servers that owns claims and keep does not. It is
// the sweep after the first full Set; from then on Resync removes such ones,
// too.
func (s *Servers) Retain(keep func(ID) bool) map[ID]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept = true
	var gone []ID
	for id := range s.have {
		if s.owns(id) && !keep(id) {
			delete(s.want, id)
			gone = append(gone, id)
		}
	}
	return s.sync(gone)
}

// Resync reads the kernel back and repairs what is not as desired. It returns
// the number of virtual servers that were repaired.
func (s *Servers) Resync() (repaired int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return 0, err
	}
	drifted := s.drifted()
	failed := s.sync(drifted)
	repaired = len(drifted) - len(failed)
	s.counters.Repairs += uint64(repaired)
	if len(failed) > 0 {
		first := slices.MinFunc(slices.Collect(maps.Keys(failed)), compareIDs)
		return repaired, fmt.Errorf("%d of %d virtual servers cannot be repaired, the first: %w",
			len(failed), len(drifted), failed[first])
	}
	return repaired, nil
}

func (s *Servers) drifted() []ID {
	var ids []ID
	for id := range s.want {
		if have, ok := s.have[id]; !ok || !have.Equal(*s.target(id)) {
			ids = append(ids, id)
		}
	}
	for id := range s.have {
		if s.want[id] == nil && s.swept && s.owns(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Len is the number of virtual servers that are desired.
func (s *Servers) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.want)
}

// Counters returns the operations so far.
func (s *Servers) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters
}

// changesEach is how many changes a virtual server needs, most often: itself and
// two real servers.
const changesEach = 3

// sync brings the IDs from what the kernel holds to what is desired.
func (s *Servers) sync(ids []ID) map[ID]error {
	slices.SortFunc(ids, compareIDs)
	failed := map[ID]error{}
	b := batch{make: make([]Change, 0, changesEach*len(ids))}
	for _, id := range ids {
		if err := s.learn(id); err != nil {
			failed[id] = err
			continue
		}
		have, exists := s.have[id]
		b.transform(id, have, exists, s.target(id))
	}
	s.apply(b.changes(), failed)
	for _, id := range ids {
		s.settle(id, failed[id])
	}
	return failed
}

// learn reads an ID back whose last change failed.
func (s *Servers) learn(id ID) error {
	if _, ok := s.unknown[id]; !ok {
		return nil
	}
	s.counters.Reads++
	server, ok, err := s.driver.Get(id)
	if err != nil {
		return fmt.Errorf("cannot read the virtual server %s back: %w", id, err)
	}
	delete(s.unknown, id)
	delete(s.have, id)
	if ok {
		s.have[id] = server
	}
	return nil
}

func (s *Servers) apply(changes []Change, failed map[ID]error) {
	if len(changes) == 0 {
		return
	}
	for i, err := range s.driver.Apply(changes) {
		if err == nil {
			s.counters.Changes++
			continue
		}
		s.counters.Failed++
		if id := changes[i].ID; failed[id] == nil {
			failed[id] = err
		}
	}
}

func (s *Servers) settle(id ID, err error) {
	target := s.target(id)
	switch {
	case err != nil:
		s.unknown[id] = struct{}{}
	case target == nil:
		delete(s.have, id)
	default:
		s.have[id] = *target
	}
}

// batch collects changes in the order in which they must reach the kernel.
type batch struct {
	make, trim, remove []Change
}

func (b *batch) changes() []Change { return append(append(b.make, b.trim...), b.remove...) }

// transform adds what turns an ID's virtual server into the desired one.
func (b *batch) transform(id ID, have Server, exists bool, want *Server) {
	switch {
	case want == nil && exists:
		b.remove = append(b.remove, Change{Op: DeleteServer, ID: id})
		return
	case want == nil:
		return
	case !exists:
		b.make = append(b.make, Change{Op: AddServer, ID: id, Config: want.Config})
	case have.Config != want.Config:
		b.make = append(b.make, Change{Op: SetServer, ID: id, Config: want.Config})
	}
	b.addReals(id, have.Real, want.Real)
	for _, addr := range sortedAddrs(have.Real) {
		if _, ok := want.Real[addr]; !ok {
			b.trim = append(b.trim, Change{Op: DeleteReal, ID: id, RealAddr: addr})
		}
	}
}

// addReals adds new real servers before it changes those that stay, since the
// change may be the one to weight 0.
func (b *batch) addReals(id ID, have, want map[netip.AddrPort]Real) {
	var changed []Change
	for _, addr := range sortedAddrs(want) {
		old, ok := have[addr]
		switch {
		case !ok:
			b.make = append(b.make, Change{Op: AddReal, ID: id, RealAddr: addr, Real: want[addr]})
		case old != want[addr]:
			changed = append(changed, Change{Op: SetReal, ID: id, RealAddr: addr, Real: want[addr]})
		}
	}
	b.make = append(b.make, changed...)
}

func sortedAddrs(reals map[netip.AddrPort]Real) []netip.AddrPort {
	if len(reals) == 0 {
		return nil
	}
	return slices.SortedFunc(maps.Keys(reals), netip.AddrPort.Compare)
}

func compareIDs(a, b ID) int {
	return cmp.Or(
		cmp.Compare(a.Protocol, b.Protocol),
		a.Addr.Compare(b.Addr),
		cmp.Compare(a.Mark, b.Mark),
		cmp.Compare(a.Family, b.Family),
	)
}

// Failed counts the desired virtual servers of which a change failed last.
func (s *Servers) Failed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for id := range s.unknown {
		if s.want[id] != nil {
			count++
		}
	}
	return count
}
