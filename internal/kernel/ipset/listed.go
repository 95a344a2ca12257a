package ipset

import (
	"slices"
	"strings"
)

// Listed is a set that is wanted, without its entries.
type Listed struct {
	Name string
	Spec
	Entries int
	// Programmed says that the kernel is known to hold it as wanted.
	Programmed bool
}

// List returns the sets that are wanted, by name.
func (s *Sets) List() []Listed {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Listed
	for name, it := range s.items {
		if it.wanted {
			list = append(list, Listed{name, it.set.Spec, len(it.set.Entries), it.known})
		}
	}
	slices.SortFunc(list, func(a, b Listed) int { return strings.Compare(a.Name, b.Name) })
	return list
}
