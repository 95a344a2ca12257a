package ipset

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
)

// Sets makes the kernel hold the sets that its owner wants. It owns all sets
// whose names begin with one of its prefixes, and touches no other.
//
// It remembers what the kernel holds, so that a change costs what it changes.
// A set of which a change failed is read back before the next one. The kernel
// is read when the first method is called; a set that is already there as
// wanted is adopted without a change. It is safe for concurrent use.
type Sets struct {
	driver   Interface
	prefixes []string
	room     uint32 // for entries, where a Spec names none

	mu       sync.Mutex
	items    map[string]*item // nil until the kernel was read
	keep     map[string]bool  // of the last Retain; nil before the first
	counters Counters
}

// item is a set that is wanted or was found in the kernel.
type item struct {
	// set is what the kernel holds; where known is false, what it shall hold.
	set    Set
	known  bool
	wanted bool
}

// Counters are what Sets has asked of the kernel so far.
type Counters struct {
	Lists   uint64 // reads
	Applies uint64 // batches of changes
	Changes uint64 // changes in them
	Failed  uint64 // changes that failed
}

// Stats are what Sets holds now.
type Stats struct {
	Sets    int
	Entries int
}

// A SetError is why one set is not as wanted. The errors of several sets are
// joined; errors.As finds one, SetErrors all.
type SetError struct {
	Name string
	Err  error
}

func (e *SetError) Error() string { return fmt.Sprintf("set %s: %v", e.Name, e.Err) }

func (e *SetError) Unwrap() error { return e.Err }

// SetErrors returns the failed sets of an error of Sets by name.
func SetErrors(err error) map[string]error {
	failed := map[string]error{}
	if one := (*SetError)(nil); errors.As(err, &one) {
		failed[one.Name] = one
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			maps.Copy(failed, SetErrors(e))
		}
	}
	return failed
}

// NewSets returns the owner of the sets with one of the prefixes. A prefix may
// be a whole name. Temporary sets are named PREFIX-tmp-HASH, so prefixes
// longer than 17 bytes are cut for them.
func NewSets(driver Interface, prefixes ...string) *Sets {
	return &Sets{driver: driver, prefixes: prefixes, room: DefaultMaxElem}
}

// Load reads the owned sets from the kernel, unless that was done. All other
// methods do so on their own.
func (s *Sets) Load() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load()
}

func (s *Sets) load() error {
	if s.items != nil {
		return nil
	}
	found, err := s.list(s.prefixes...)
	if err != nil {
		return err
	}
	s.items = make(map[string]*item, len(found))
	for name, set := range found {
		s.items[name] = &item{set: set, known: true}
	}
	return nil
}

func (s *Sets) list(prefixes ...string) (map[string]Set, error) {
	s.counters.Lists++
	found, err := s.driver.List(prefixes...)
	if err != nil {
		return nil, fmt.Errorf("reading the IP sets of the kernel: %w", err)
	}
	return found, nil
}

// Put makes the kernel hold the set: PutAll for one.
func (s *Sets) Put(name string, set Set) error {
	return s.PutAll(map[string]Set{name: set})
}

// PutAll makes the kernel hold the sets, in one batch. Sets that are not named
// stay as they are. What already is as wanted is not touched; a set of another
// Spec, or most of whose entries change, is filled aside and swapped in, so
// that a packet meets the old or the new content. The entries are copied.
//
// On error the sets named by SetErrors are not yet as wanted, the others are.
func (s *Sets) PutAll(want map[string]Set) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return err
	}
	var refused []error
	tasks := make([]task, 0, len(want))
	for _, name := range sortedNames(want) {
		set, err := s.clone(name, want[name])
		if err != nil {
			refused = append(refused, err)
			continue
		}
		tasks = append(tasks, task{name: name, want: set})
	}
	return errors.Join(append(refused, s.run(tasks))...)
}

// clone checks that a set is ours to make and copies it in normal form. An
// entry that the set cannot hold is left out by the driver's answer, not here:
// the rest of the set is still wanted.
func (s *Sets) clone(name string, set Set) (Set, error) {
	err := checkName(name)
	if err == nil && !hasPrefix(name, s.prefixes) {
		err = fmt.Errorf("%w: the name begins with none of %q", ErrInvalid, s.prefixes)
	}
	if err == nil {
		err = set.Spec.check()
	}
	if err != nil {
		return Set{}, &SetError{name, err}
	}
	c := Set{Spec: s.sized(set.Spec, len(set.Entries)), Entries: make(map[Entry]struct{}, len(set.Entries))}
	for e := range set.Entries {
		c.Entries[c.normal(e)] = struct{}{}
	}
	return c, nil
}

// sized is the Spec with room for a number of entries. A set that names no
// MaxElem, or one above the default, has the next power of two where a quarter
// of it would not stay free: the kernel gives each region of a table its share
// of MaxElem, and some fill earlier than others.
func (s *Sets) sized(spec Spec, entries int) Spec {
	if spec.MaxElem == 0 {
		spec.MaxElem = s.room
	}
	for spec.MaxElem >= s.room && uint64(spec.MaxElem)/4*3 < uint64(entries) && spec.MaxElem < 1<<31 {
		spec.MaxElem *= 2
	}
	return spec
}

// Edit adds entries to a set that was Put before and deletes others from it.
// Entries that are there already, or not there, cost nothing. An entry that is
// in both lists is added.
func (s *Sets) Edit(name string, add, del []Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return err
	}
	it := s.items[name]
	if it == nil || !it.wanted {
		return &SetError{name, fmt.Errorf("edited before it was put: %w", ErrNotExist)}
	}
	add, del = it.set.effective(add, del)
	if spec := s.sized(it.set.Spec, len(it.set.Entries)+len(add)); !it.known || spec != it.set.Spec {
		it.set.edit(add, del)
		return s.run([]task{{name: name, want: Set{Spec: spec, Entries: it.set.Entries}}})
	}
	changes := delta(name, it.set, add, del)
	if len(changes) == 0 {
		return nil
	}
	errs := s.apply(changes)
	it.set.edit(add, del)
	if errors.Join(errs...) == nil {
		return nil
	}
	it.known = false
	return s.run([]task{{name: name, want: it.set}})
}

// Retain destroys the owned sets that are not named. Call it when the rules
// that matched them are gone: a set in use is an error (ErrInUse) and is tried
// again by the next Retain or Resync.
func (s *Sets) Retain(names map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return err
	}
	for name, it := range s.items {
		it.wanted = names[name] && it.wanted
	}
	s.keep = make(map[string]bool, len(names))
	maps.Copy(s.keep, names)
	_, err := s.sweep()
	return err
}

// sweep destroys what is not wanted and says how many sets that were.
func (s *Sets) sweep() (int, error) {
	var changes []Change
	for name, it := range s.items {
		if !it.wanted && !s.keep[name] {
			changes = append(changes, Change{Op: Destroy, Name: name})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	var failed []error
	for i, err := range s.apply(changes) {
		name := changes[i].Name
		if err != nil {
			failed = append(failed, &SetError{name, err})
			continue
		}
		delete(s.items, name)
	}
	return len(changes) - len(failed), errors.Join(failed...)
}

// Resync reads the kernel back and repairs what differs from what is wanted.
// It returns how many sets it repaired. Owned sets that nobody wants go once
// Retain was called.
func (s *Sets) Resync() (repaired int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return 0, err
	}
	found, err := s.list(s.prefixes...)
	if err != nil {
		return 0, err
	}
	for name, set := range found {
		if it := s.items[name]; it == nil || !it.wanted {
			s.items[name] = &item{set: set, known: true}
		}
	}
	var tasks []task
	for name, it := range s.items {
		if _, there := found[name]; !there && !it.wanted {
			delete(s.items, name)
		}
		if it.wanted {
			tasks = append(tasks, task{name: name, want: it.set})
		}
	}
	sort.Slice(tasks, func(i, j int) bool { return tasks[i].name < tasks[j].name })
	repaired, err = s.attempt(tasks, found)
	if s.keep == nil {
		return repaired, err
	}
	destroyed, sweepErr := s.sweep()
	return repaired + destroyed, errors.Join(err, sweepErr)
}

// Counters returns what was asked of the kernel so far.
func (s *Sets) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters
}

// Stats returns how many sets are wanted and how many entries they have.
func (s *Sets) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st Stats
	for _, it := range s.items {
		if it.wanted {
			st.Sets++
			st.Entries += len(it.set.Entries)
		}
	}
	return st
}

// Names are the owned sets that the kernel holds or shall hold, whoever wants
// them; none where that is not known.
func (s *Sets) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.load() != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(s.items))
}

// Empty says that the kernel holds no entries of a set, as far as is known.
func (s *Sets) Empty(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.items[name]
	return it == nil || it.known && len(it.set.Entries) == 0
}

// Held returns a copy of an owned set as the kernel holds it, whoever wants it,
// and false where there is none or it is not known.
func (s *Sets) Held(name string) (Set, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.load() != nil {
		return Set{}, false
	}
	it := s.items[name]
	if it == nil || !it.known {
		return Set{}, false
	}
	return Set{Spec: it.set.Spec, Entries: maps.Clone(it.set.Entries)}, true
}

// Holds says whether the kernel is known to hold a set with all entries of
// present and none of absent.
func (s *Sets) Holds(name string, present, absent []Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.items[name]
	if it == nil || !it.known {
		return false
	}
	in := func(e Entry) bool {
		_, ok := it.set.Entries[it.set.normal(e)]
		return ok
	}
	return !slices.ContainsFunc(absent, in) && !slices.ContainsFunc(present, func(e Entry) bool { return !in(e) })
}

// Get returns a copy of a set that is wanted, as the kernel shall hold it.
func (s *Sets) Get(name string) (Set, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.items[name]
	if it == nil || !it.wanted {
		return Set{}, false
	}
	return Set{Spec: it.set.Spec, Entries: maps.Clone(it.set.Entries)}, true
}
