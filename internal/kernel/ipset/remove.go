package ipset

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Remove destroys the sets whose names begin with one of the prefixes, and the
// temporary ones of a Sets with these prefixes. It returns those that are gone,
// and the error of each that is not: see SetErrors.
func Remove(driver Interface, prefixes ...string) (removed []string, err error) {
	found, err := driver.List(withTemporary(prefixes)...)
	if err != nil {
		return nil, fmt.Errorf("reading the IP sets of the kernel: %w", err)
	}
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(found)) {
		changes = append(changes, Change{Op: Destroy, Name: name})
	}
	var failed []error
	for i, err := range driver.Apply(changes) {
		if err != nil {
			failed = append(failed, &SetError{changes[i].Name, err})
			continue
		}
		removed = append(removed, changes[i].Name)
	}
	return removed, errors.Join(failed...)
}

// withTemporary adds what the names of temporary sets begin with, where that is
// shorter than the prefix: see Sets.temporary.
func withTemporary(prefixes []string) []string {
	all := slices.Clone(prefixes)
	for _, p := range prefixes {
		if len(p) > mostTemporary {
			all = append(all, p[:mostTemporary]+temporaryInfix)
		}
	}
	return all
}
