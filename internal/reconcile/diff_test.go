package reconcile

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func equalInts(a, b int) bool { return a == b }

func TestDiff(t *testing.T) {
	d := Diff(map[string]int{"same": 1, "changed": 1, "gone": 1}, map[string]int{"same": 1, "changed": 2, "new": 1}, equalInts)
	if !slices.Equal(d.Add, []string{"new"}) || !slices.Equal(d.Change, []string{"changed"}) || !slices.Equal(d.Remove, []string{"gone"}) {
		t.Errorf("got %+v", d)
	}
	if d.Empty() || !(Difference[string]{}).Empty() {
		t.Error("Empty is wrong")
	}
}

// Applying the difference turns one state into the other and touches nothing
// that is right already.
func TestDiffTurnsOneStateIntoTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state := rapid.MapOf(rapid.IntRange(0, 9), rapid.IntRange(0, 2))
		have, want := state.Draw(t, "have"), state.Draw(t, "want")
		d := Diff(have, want, equalInts)
		got := maps.Clone(have)
		for _, key := range d.Remove {
			delete(got, key)
		}
		for _, key := range slices.Concat(d.Add, d.Change) {
			if old, ok := got[key]; ok && old == want[key] {
				t.Fatalf("key %d is right already", key)
			}
			got[key] = want[key]
		}
		if !maps.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		if d.Empty() != maps.Equal(have, want) {
			t.Fatalf("Empty is %v for %v and %v", d.Empty(), have, want)
		}
	})
}
