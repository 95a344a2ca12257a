//go:build kernel || guest

package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// ipRoute is our routes in a table as ip route shows them, a line each, sorted,
// without what it says of every route of its kind.
func ipRoute(t *testing.T, table int) string {
	t.Helper()
	always := strings.NewReplacer("\\", "", " scope host", "", " scope link", "", " weight 1", "",
		" metric 1024", "", " pref medium", "", " dev lo metric", " metric")
	var lines []string
	for _, family := range []string{"-4", "-6"} {
		out := nstest.Run(t, "sh", "-c", fmt.Sprintf("ip %s -o route show table %d 2>/dev/null || true", family, table))
		for line := range strings.Lines(out) {
			if !strings.Contains(line, "proto 17") {
				continue
			}
			if strings.HasPrefix(line, "unreachable") {
				line = strings.Replace(line, " dev lo", "", 1)
			}
			lines = append(lines, strings.Join(strings.Fields(always.Replace(line)), " ")+"\n")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
