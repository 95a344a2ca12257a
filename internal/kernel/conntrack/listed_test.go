//go:build kernel || guest

package conntrack

import (
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// listed is the output of conntrack -L of both families, without what an Entry
// does not have.
func listed(t testing.TB) string {
	t.Helper()
	var lines []string
	for _, family := range []string{"ipv4", "ipv6"} {
		for line := range strings.Lines(nstest.Run(t, "conntrack", "-L", "-f", family)) {
			fields := strings.Fields(line)
			kept := fields[:1]
			for _, field := range fields {
				if name, _, _ := strings.Cut(field, "="); slices.Contains([]string{"src", "dst", "sport", "dport", "mark"}, name) && field != "mark=0" {
					kept = append(kept, field)
				}
			}
			if len(kept) > 1 {
				lines = append(lines, strings.Join(kept, " ")+"\n")
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
