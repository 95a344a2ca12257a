package ipset

import "testing"

func TestFake(t *testing.T) {
	runSuite(t, func(*testing.T) bench {
		f, used := NewFake(), map[string]bool{}
		f.InUse = func(name string) bool { return used[name] }
		return bench{
			driver: f,
			saved:  func(*testing.T) string { return f.Save() },
			use: func(_ *testing.T, set string) func() {
				used[set] = true
				return func() { delete(used, set) }
			},
		}
	})
}
