package ipset

import (
	"fmt"
	"maps"
	"sort"
	"strings"
	"sync"
)

// Fake is the IP sets of an imaginary network namespace. It refuses what the
// kernel refuses. It is safe for concurrent use.
type Fake struct {
	// InUse says whether a rule refers to a set, which then cannot be
	// destroyed. nil means that no set is in use.
	InUse func(name string) bool
	// Fail, when not nil, is asked before each change and its error returned
	// in place of carrying the change out.
	Fail func(Change) error

	mu      sync.Mutex
	sets    map[string]Set
	lists   int
	applies int
	changes int
}

// NewFake returns a Fake without sets.
func NewFake() *Fake { return &Fake{sets: map[string]Set{}} }

// List implements Interface.
func (f *Fake) List(prefixes ...string) (map[string]Set, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists++
	found := map[string]Set{}
	for name, set := range f.sets {
		if hasPrefix(name, prefixes) {
			found[name] = Set{Spec: set.Spec, Entries: maps.Clone(set.Entries)}
		}
	}
	return found, nil
}

// Apply implements Interface.
func (f *Fake) Apply(changes []Change) []error {
	inUse := f.usage(changes)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applies++
	f.changes += len(changes)
	errs := make([]error, len(changes))
	for i, c := range changes {
		if f.Fail != nil {
			if errs[i] = f.Fail(c); errs[i] != nil {
				continue
			}
		}
		errs[i] = c.wrap(f.apply(c, inUse))
	}
	return errs
}

// usage asks which sets that are to be destroyed are in use. It is called
// without the lock, since the answer may come from a fake that asks this one
// whether a set exists.
func (f *Fake) usage(changes []Change) map[string]bool {
	inUse := map[string]bool{}
	for _, c := range changes {
		if c.Op == Destroy && f.InUse != nil && f.InUse(c.Name) {
			inUse[c.Name] = true
		}
	}
	return inUse
}

func (f *Fake) apply(c Change, inUse map[string]bool) error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	if c.Op == Create {
		return f.create(c)
	}
	set, ok := f.sets[c.Name]
	if !ok && c.Op != Destroy {
		return ErrNotExist
	}
	switch c.Op {
	case Destroy:
		if inUse[c.Name] {
			return ErrInUse
		}
		delete(f.sets, c.Name)
		return nil
	case Add:
		return add(set, c.Entry)
	case Delete:
		e, err := set.normalize(c.Entry)
		if held, ok := set.holders()(e); ok {
			delete(set.Entries, held)
		}
		return err
	case Swap:
		return f.swap(c)
	}
	return fmt.Errorf("%w: operation %d", ErrInvalid, c.Op)
}

func (f *Fake) create(c Change) error {
	if err := c.Spec.check(); err != nil {
		return err
	}
	spec := c.Spec.withDefaults()
	if have, ok := f.sets[c.Name]; ok {
		if have.Spec != spec {
			return ErrExist
		}
		return nil
	}
	f.sets[c.Name] = Set{Spec: spec, Entries: map[Entry]struct{}{}}
	return nil
}

func add(set Set, entry Entry) error {
	e, err := set.normalize(entry)
	if err != nil {
		return err
	}
	held, there := set.holders()(e)
	if !there && uint64(len(set.Entries)) >= uint64(set.MaxElem) {
		return ErrFull
	}
	delete(set.Entries, held)
	set.Entries[e] = struct{}{}
	return nil
}

func (f *Fake) swap(c Change) error {
	if err := checkName(c.Other); err != nil {
		return err
	}
	a, b := f.sets[c.Name], f.sets[c.Other]
	if b.Entries == nil {
		return fmt.Errorf("%w: %s", ErrNotExist, c.Other)
	}
	if !a.sameKind(b.Spec) {
		return ErrTypeMismatch
	}
	f.sets[c.Name], f.sets[c.Other] = b, a
	return nil
}

// Exists says whether there is a set of that name: what a rule that matches
// it asks the kernel.
func (f *Fake) Exists(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.sets[name]
	return ok
}

// Calls returns how often List and Apply were called and how many changes
// Apply was given.
func (f *Fake) Calls() (lists, applies, changes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lists, f.applies, f.changes
}

// Save returns all sets in the form of Set.Save, ordered by name.
func (f *Fake) Save() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Save(f.sets)
}

// Save writes sets as "ipset save" does, less the options of create that are
// not part of a Spec, and in order: sets by name, entries as text.
func Save(sets map[string]Set) string {
	names := make([]string, 0, len(sets))
	for name := range sets {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		set := sets[name]
		fmt.Fprintf(&b, "create %s %s\n", name, set.Spec)
		entries := make([]string, 0, len(set.Entries))
		for e := range set.Entries {
			entries = append(entries, e.String())
		}
		sort.Strings(entries)
		for _, e := range entries {
			fmt.Fprintf(&b, "add %s %s\n", name, e)
		}
	}
	return b.String()
}

// String is the form of "ipset save": "hash:ip family inet maxelem 1048576".
func (s Spec) String() string {
	s = s.withDefaults()
	family := "inet"
	if s.Family.Bits() == 128 {
		family = "inet6"
	}
	extensions := map[bool]string{true: " skbinfo"}[s.SkbInfo]
	return fmt.Sprintf("%s family %s maxelem %d%s", s.Type, family, s.MaxElem, extensions)
}

func hasPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// String is what the ipset command calls the change: "add kube-router-svip
// 10.96.0.1".
func (c Change) String() string {
	switch c.Op {
	case Create:
		return fmt.Sprintf("create %s %s", c.Name, c.Spec)
	case Destroy:
		return "destroy " + c.Name
	case Add:
		return fmt.Sprintf("add %s %s", c.Name, c.Entry)
	case Delete:
		return fmt.Sprintf("del %s %s", c.Name, c.Entry)
	case Swap:
		return fmt.Sprintf("swap %s %s", c.Name, c.Other)
	}
	return fmt.Sprintf("operation %d on %s", c.Op, c.Name)
}

// wrap names the change in an error.
func (c Change) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ipset %s: %w", c, err)
}
