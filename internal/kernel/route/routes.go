package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Routes keeps our routes of one table as they are desired. It remembers what
// the kernel holds, so that only differences become operations, and what
// failed, so that it is tried again. It is safe for concurrent use.
type Routes struct {
	driver Interface
	table  int

	mu   sync.Mutex
	want map[Key]*Route
	have map[Key]*Route
	// unknown are keys with a failed change: have does not tell about them.
	unknown map[Key]struct{}
	// swept is set once everything that is desired has been said, by Retain.
	swept    bool
	counters Counters
}

// Counters count the kernel operations of one Routes since its start.
type Counters struct {
	Changes uint64 // that took effect
	Failed  uint64 // changes that the kernel refused
	Reads   uint64 // dumps of the table
	Repairs uint64 // routes that Resync repaired
}

// NewRoutes returns a Routes without knowledge of the kernel: call Load before
// Set.
func NewRoutes(driver Interface, table int) *Routes {
	return &Routes{
		driver: driver, table: table,
		want: map[Key]*Route{}, have: map[Key]*Route{}, unknown: map[Key]struct{}{},
	}
}

// Load reads the kernel back. What is there already and is desired later is
// adopted without an operation.
func (s *Routes) Load() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load()
}

func (s *Routes) load() error {
	s.counters.Reads++
	have, err := s.driver.List(s.table)
	if err != nil {
		return fmt.Errorf("cannot read the routes of table %d back: %w", s.table, err)
	}
	s.have = make(map[Key]*Route, len(have))
	for key, r := range have {
		s.have[key] = &r
	}
	clear(s.unknown)
	return nil
}

// Set makes each Key's route as given, or removes it where that is nil; what
// is so already costs nothing. It returns the error of each Key that failed.
// The caller must not change a Route afterwards.
func (s *Routes) Set(routes map[Key]*Route) map[Key]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := map[Key]error{}
	keys := make([]Key, 0, len(routes))
	for key, r := range routes {
		switch {
		case key.Table != s.table || r != nil && r.Key != key:
			failed[key] = fmt.Errorf("the route to %s does not belong to table %d under its own key", key.Dst, s.table)
			continue
		case r == nil:
			delete(s.want, key)
		default:
			s.want[key] = r
		}
		keys = append(keys, key)
	}
	s.sync(keys, failed)
	return failed
}

// Retain removes our routes that keep does not claim. It is the sweep after
// the first full Set; from then on Resync removes such ones, too.
func (s *Routes) Retain(keep func(Key) bool) map[Key]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept = true
	failed := map[Key]error{}
	var gone []Key
	for key := range s.have {
		if !keep(key) {
			delete(s.want, key)
			gone = append(gone, key)
		}
	}
	s.sync(gone, failed)
	return failed
}

// Resync reads the kernel back and repairs what is not as desired. It returns
// the number of routes that were repaired.
func (s *Routes) Resync() (repaired int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return 0, err
	}
	drifted := s.drifted()
	failed := map[Key]error{}
	s.sync(drifted, failed)
	repaired = len(drifted) - len(failed)
	s.counters.Repairs += uint64(repaired)
	if len(failed) > 0 {
		first := slices.MinFunc(slices.Collect(maps.Keys(failed)), compareKeys)
		return repaired, fmt.Errorf("%d of %d routes cannot be repaired, the first: %w",
			len(failed), len(drifted), failed[first])
	}
	return repaired, nil
}

func (s *Routes) drifted() []Key {
	var keys []Key
	for key, want := range s.want {
		if have, ok := s.have[key]; !ok || !have.Satisfies(*want) {
			keys = append(keys, key)
		}
	}
	for key := range s.have {
		if _, ok := s.want[key]; !ok && s.swept {
			keys = append(keys, key)
		}
	}
	return keys
}

// Len is the number of routes that are desired.
func (s *Routes) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.want)
}

// Counters returns the operations so far.
func (s *Routes) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters
}

// sync brings the keys from what the kernel holds to what is desired, in one
// batch.
func (s *Routes) sync(keys []Key, failed map[Key]error) {
	slices.SortFunc(keys, compareKeys)
	var changes []Change
	for _, key := range keys {
		if c, ok := s.change(key); ok {
			changes = append(changes, c)
		}
	}
	if len(changes) == 0 {
		return
	}
	for i, err := range s.driver.Apply(changes) {
		s.settle(changes[i].Key, err)
		if err != nil {
			failed[changes[i].Key] = err
		}
	}
}

// change is what a key needs, and false where that is nothing.
func (s *Routes) change(key Key) (Change, bool) {
	want, wanted := s.want[key]
	have, exists := s.have[key]
	_, unknown := s.unknown[key]
	switch {
	case wanted && exists && !unknown && have.Satisfies(*want), !wanted && !exists && !unknown:
		return Change{}, false
	case wanted:
		return Change{key, want}, true
	}
	return Change{Key: key}, true
}

func (s *Routes) settle(key Key, err error) {
	if err != nil {
		s.counters.Failed++
		s.unknown[key] = struct{}{}
		return
	}
	s.counters.Changes++
	delete(s.unknown, key)
	if want, ok := s.want[key]; ok {
		s.have[key] = want
	} else {
		delete(s.have, key)
	}
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()))
}

// Failed counts the desired routes whose last change failed.
func (s *Routes) Failed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for key := range s.unknown {
		if s.want[key] != nil {
			count++
		}
	}
	return count
}
