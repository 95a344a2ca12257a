package reconcile

// Difference is what turns one state into another.
type Difference[K comparable] struct {
	Add, Change, Remove []K
}

// Diff compares what there is with what there should be. equal decides whether
// a value that both have must change. The order of the keys is not defined:
// callers for whom it matters sort them.
func Diff[K comparable, V any](have, want map[K]V, equal func(a, b V) bool) Difference[K] {
	var d Difference[K]
	for key, w := range want {
		if h, ok := have[key]; !ok {
			d.Add = append(d.Add, key)
		} else if !equal(h, w) {
			d.Change = append(d.Change, key)
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			d.Remove = append(d.Remove, key)
		}
	}
	return d
}

// Empty says that there is nothing to do.
func (d Difference[K]) Empty() bool {
	return len(d.Add) == 0 && len(d.Change) == 0 && len(d.Remove) == 0
}
