package route

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// removeRounds bounds how often Remove looks again: a destination may have
// several routes, which differ in their priority.
const removeRounds = 8

// Remove removes our routes from all tables and returns them.
func Remove(driver Interface) (removed []Route, err error) {
	for range removeRounds {
		found, err := driver.ListAll()
		if err != nil {
			return removed, err
		}
		if len(found) == 0 {
			return removed, nil
		}
		keys := slices.SortedFunc(maps.Keys(found), compareKeys)
		changes := make([]Change, len(keys))
		for i, key := range keys {
			changes[i].Key = key
		}
		errs := driver.Apply(changes)
		for i, err := range errs {
			if err == nil {
				removed = append(removed, found[keys[i]])
			}
		}
		if err := errors.Join(errs...); err != nil {
			return removed, err
		}
	}
	return removed, fmt.Errorf("routes with protocol %d come back: another program makes them", Protocol)
}
