//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// All that the agent listens on, with the flags of the manifest and metrics: BGP
// at the node's own address, everything else on loopback.
func TestListeners(t *testing.T) {
	for node := 1; node <= 3; node++ {
		want := []string{
			"tcp " + nodeIP(t, node) + ":179", // BGP
			"tcp 127.0.0.1:20244",             // health
			"tcp 127.0.0.1:50051",             // gobgp
			"tcp 127.0.0.1:" + metricsPort,
		}
		slices.Sort(want)
		eventually(t, func(out string, err error) bool { return err == nil && slices.Equal(listeners(out), want) },
			"%s exec --node %d 'ss -Hltnup'", lab, node)
		// Of status and show, and the sign that an agent runs, which takes nothing.
		const local = "/run/kube-router/kube-router.sock\n@kube-router/presence"
		if out := onNode(t, node, "ss -Hlxp | grep kube-router | awk '{print $5}' | LC_ALL=C sort"); out != local {
			t.Errorf("node%d: local sockets %q", node, out)
		}
	}
}

// listeners are kube-router's of those that ss prints.
func listeners(out string) []string {
	var found []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 6 && strings.Contains(line, `"kube-router"`) {
			found = append(found, f[0]+" "+f[4])
		}
	}
	slices.Sort(found)
	return found
}
