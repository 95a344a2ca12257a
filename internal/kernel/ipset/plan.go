package ipset

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// swapCost is how many changes more a swap may cost than a delta and still be
// preferred: it creates, swaps and destroys.
const swapCost = 16

// task is one set and what it shall hold.
type task struct {
	name string
	want Set
}

// run carries tasks out against what is known of the kernel. Where a set was
// known and its changes failed, somebody else has touched it: it is read back
// and tried once more.
func (s *Sets) run(tasks []task) error {
	have, read, err := s.known(tasks)
	if err != nil {
		return s.postpone(tasks, err)
	}
	_, err = s.attempt(tasks, have)
	failed := SetErrors(err)
	if len(failed) == 0 || read {
		return err
	}
	var retry []task
	for _, t := range tasks {
		if failed[t.name] != nil {
			retry = append(retry, t)
		}
	}
	have, listErr := s.readBack(retry)
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	_, err = s.attempt(retry, have)
	return err
}

// postpone notes what the tasks want and that it was not done.
func (s *Sets) postpone(tasks []task, why error) error {
	failed := make([]error, 0, len(tasks))
	for _, t := range tasks {
		s.items[t.name] = &item{set: t.want, wanted: true}
		failed = append(failed, &SetError{t.name, why})
	}
	return errors.Join(failed...)
}

// known returns what the kernel holds of the sets of the tasks, and whether it
// had to be read for that.
func (s *Sets) known(tasks []task) (have map[string]Set, read bool, err error) {
	have = map[string]Set{}
	var unknown []task
	for _, t := range tasks {
		it := s.items[t.name]
		switch {
		case it == nil:
		case it.known:
			have[t.name] = it.set
		default:
			unknown = append(unknown, t)
		}
	}
	if len(unknown) == 0 {
		return have, false, nil
	}
	found, err := s.readBack(unknown)
	maps.Copy(have, found)
	return have, true, err
}

// readBack reads the sets of the tasks from the kernel.
func (s *Sets) readBack(tasks []task) (map[string]Set, error) {
	names := make(map[string]bool, len(tasks))
	prefixes := make([]string, 0, len(tasks))
	for _, t := range tasks {
		names[t.name] = true
		prefixes = append(prefixes, t.name)
	}
	if len(prefixes) > len(s.prefixes) {
		prefixes = s.prefixes
	}
	found, err := s.list(prefixes...)
	if err != nil {
		return nil, err
	}
	for name := range found {
		if !names[name] {
			delete(found, name)
		}
	}
	return found, nil
}

// attempt turns what the kernel holds into what the tasks want, in one batch,
// and records the outcome. It returns how many sets it changed.
func (s *Sets) attempt(tasks []task, have map[string]Set) (changed int, err error) {
	var batch []Change
	ends := make([]int, len(tasks))
	for i, t := range tasks {
		old, exists := have[t.name]
		batch = append(batch, s.plan(t.name, old, exists, t.want)...)
		ends[i] = len(batch)
	}
	errs := s.apply(batch)
	var failed []error
	start := 0
	for i, t := range tasks {
		err := firstOf(errs[start:ends[i]])
		if err != nil {
			failed = append(failed, &SetError{t.name, err})
		} else if ends[i] > start {
			changed++
		}
		s.items[t.name] = &item{set: t.want, known: err == nil, wanted: true}
		start = ends[i]
	}
	return changed, errors.Join(failed...)
}

// firstOf is the first error and how many there are.
func firstOf(errs []error) error {
	var first error
	n := 0
	for _, err := range errs {
		if err != nil {
			if n++; n == 1 {
				first = err
			}
		}
	}
	if n > 1 {
		return fmt.Errorf("%w (and %d more failed changes)", first, n-1)
	}
	return first
}

func (s *Sets) apply(changes []Change) []error {
	if len(changes) == 0 {
		return nil
	}
	errs := s.driver.Apply(changes)
	s.counters.Applies++
	s.counters.Changes += uint64(len(changes))
	for _, err := range errs {
		if err != nil {
			s.counters.Failed++
		}
	}
	return errs
}

// plan is how to get from old (where exists) to want.
func (s *Sets) plan(name string, old Set, exists bool, want Set) []Change {
	switch {
	case !exists:
		return append([]Change{{Op: Create, Name: name, Spec: want.Spec}}, fill(name, want)...)
	case !old.sameKind(want.Spec):
		// Rules that name the set keep it from being destroyed: the error
		// says so, and goes when they do.
		remake := []Change{{Op: Destroy, Name: name}, {Op: Create, Name: name, Spec: want.Spec}}
		return append(remake, fill(name, want)...)
	case old.withDefaults() != want.withDefaults():
		return s.swapIn(name, want)
	}
	add, del := difference(old, want)
	if len(add)+len(del) > len(want.Entries)+swapCost {
		return s.swapIn(name, want)
	}
	return delta(name, old, add, del)
}

// swapIn fills a temporary set and exchanges it with the one in use. One that
// a run left which ended in between is in the way, and not to be added to.
func (s *Sets) swapIn(name string, want Set) []Change {
	tmp := s.temporary(name)
	delete(s.items, tmp)
	changes := []Change{{Op: Destroy, Name: tmp}, {Op: Create, Name: tmp, Spec: want.Spec}}
	changes = append(changes, fill(tmp, want)...)
	return append(changes, Change{Op: Swap, Name: tmp, Other: name}, Change{Op: Destroy, Name: tmp})
}

// temporary is the name of the set that name is filled in: under the same
// prefix, so that it is ours to clean up, and the same each time.
func (s *Sets) temporary(name string) string {
	sum := sha256.Sum256([]byte(name))
	suffix := temporaryInfix + base32.StdEncoding.EncodeToString(sum[:5])
	prefix := ""
	for _, p := range s.prefixes {
		if strings.HasPrefix(name, p) && (prefix == "" || len(p) < len(prefix)) {
			prefix = p
		}
	}
	return prefix[:min(len(prefix), mostTemporary)] + suffix
}

// The names of temporary sets: the first bytes of a prefix, the infix, and a
// hash of eight letters.
const (
	temporaryInfix = "-tmp-"
	mostTemporary  = MaxNameLen - len(temporaryInfix) - 8
)

func fill(name string, set Set) []Change {
	changes := make([]Change, 0, len(set.Entries))
	for e := range set.Entries {
		changes = append(changes, Change{Op: Add, Name: name, Entry: e})
	}
	sortChanges(changes)
	return changes
}

// difference is what to add to old and to delete from it. An entry whose place
// another takes is not deleted: adding the other replaces it.
func difference(old, want Set) (add, del []Entry) {
	for e := range want.Entries {
		if _, ok := old.Entries[e]; !ok {
			add = append(add, e)
		}
	}
	holder := want.holders()
	for e := range old.Entries {
		if _, ok := holder(e); !ok {
			del = append(del, e)
		}
	}
	return add, del
}

// effective is what of an edit changes the set.
func (s Set) effective(add, del []Entry) (realAdd, realDel []Entry) {
	realAdd, realDel = s.pick(add, false), s.pick(del, true)
	if len(realDel) == 0 || len(add) == 0 {
		return realAdd, realDel
	}
	adding := make(map[Entry]bool, len(add))
	for _, e := range add {
		adding[s.normal(e)] = true
	}
	return realAdd, slices.DeleteFunc(realDel, func(e Entry) bool { return adding[e] })
}

// pick returns those of list that the set has, or has not, each once.
func (s Set) pick(list []Entry, there bool) []Entry {
	var picked []Entry
	for _, e := range list {
		e = s.normal(e)
		if _, ok := s.Entries[e]; ok == there {
			picked = append(picked, e)
		}
	}
	slices.SortFunc(picked, Entry.compare)
	return slices.Compact(picked)
}

// normal is the normal form of an entry, or the entry where it has none.
func (s Set) normal(e Entry) Entry {
	if n, err := s.normalize(e); err == nil {
		return n
	}
	return e
}

// edit carries out what effective returned.
func (s Set) edit(add, del []Entry) {
	for _, e := range del {
		delete(s.Entries, e)
	}
	if len(add) == 0 {
		return
	}
	holder := s.holders()
	for _, e := range add {
		if held, ok := holder(e); ok {
			delete(s.Entries, held)
		}
		s.Entries[e] = struct{}{}
	}
}

// delta adds before it deletes, so that what stays reachable under another
// entry is so all the time; where there is no room for that, after.
func delta(name string, old Set, add, del []Entry) []Change {
	adding := map[Entry]bool{}
	adds := make([]Change, 0, len(add)+len(del))
	for _, e := range add {
		if len(del) > 0 {
			adding[e.place()] = true
		}
		adds = append(adds, Change{Op: Add, Name: name, Entry: e})
	}
	dels := make([]Change, 0, len(del))
	for _, e := range del {
		if !adding[e.place()] {
			dels = append(dels, Change{Op: Delete, Name: name, Entry: e})
		}
	}
	sortChanges(adds)
	sortChanges(dels)
	if uint64(len(old.Entries)+len(adds)) > uint64(old.withDefaults().MaxElem) {
		return append(dels, adds...)
	}
	return append(adds, dels...)
}

// sortChanges orders changes by entry, so that what is done does not depend on
// the order of a map.
func sortChanges(changes []Change) {
	slices.SortFunc(changes, func(a, b Change) int { return a.Entry.compare(b.Entry) })
}

func (e Entry) compare(o Entry) int {
	if c := e.Prefix.Compare(o.Prefix); c != 0 {
		return c
	}
	if c := int(e.Protocol) - int(o.Protocol); c != 0 {
		return c
	}
	if c := int(e.Port) - int(o.Port); c != 0 {
		return c
	}
	if c := e.Second.Compare(o.Second); c != 0 {
		return c
	}
	return int(e.SecondBits) - int(o.SecondBits)
}

func sortedNames(sets map[string]Set) []string {
	names := make([]string, 0, len(sets))
	for name := range sets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
