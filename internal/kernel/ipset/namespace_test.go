//go:build kernel || guest

package ipset

import (
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// runOnKernel runs the suite against the kernel that this runs on, read back
// with the command ipset.
func runOnKernel(t *testing.T) {
	runSuite(t, func(t *testing.T) bench {
		nstest.New(t)
		k, err := Open()
		if err != nil {
			t.Fatalf("this test needs root and a kernel with ip_set: %v", err)
		}
		t.Cleanup(func() { _ = k.Close() })
		return bench{driver: k, saved: ipsetSave, use: useInRule}
	})
}

// ipsetSave is "ipset save" in the form of Save: ordered, and of the options
// only those that Spec has.
func ipsetSave(t *testing.T) string {
	var lines []string
	for line := range strings.Lines(nstest.Run(t, "ipset", "save")) {
		f := strings.Fields(line)
		if f[0] == "create" {
			line = strings.Join(f[:3], " ") + option(f, "family") + option(f, "maxelem")
			if slices.Contains(f, "skbinfo") {
				line += " skbinfo"
			}
			line += "\n"
		}
		// "create x" sorts before "add x" and both by the name of the set.
		lines = append(lines, f[1]+"\x00"+map[string]string{"create": "0", "add": "1"}[f[0]]+"\x00"+line)
	}
	sort.Strings(lines)
	for i, line := range lines {
		lines[i] = line[strings.LastIndexByte(line, 0)+1:]
	}
	return strings.Join(lines, "")
}

func option(fields []string, name string) string {
	for i := range len(fields) - 1 {
		if fields[i] == name {
			return " " + name + " " + fields[i+1]
		}
	}
	return ""
}

func useInRule(t *testing.T, set string) func() {
	rule := []string{"FORWARD", "-m", "set", "--match-set", set, "src", "-j", "DROP"}
	nstest.Run(t, "iptables-legacy", append([]string{"-A"}, rule...)...)
	return func() { nstest.Run(t, "iptables-legacy", append([]string{"-D"}, rule...)...) }
}
