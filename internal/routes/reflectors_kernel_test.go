//go:build kernel

package routes

import (
	"fmt"
	"testing"
	"time"
)

// Without a mesh the nodes' routes come through reflectors. These come and go
// while the agents run, and no route of the kernel is touched for that.
func TestReflectorsOnTheKernel(t *testing.T) {
	lan := newNetwork(t)
	dir := t.TempDir()
	agents := map[int]*process{}
	for n := 1; n <= 3; n++ {
		agents[n] = lan.agent(n, true, cniFile(t, dir, n), "NO_MESH=1")
	}
	annotate := func(node int, notes string) {
		for _, a := range agents {
			fmt.Fprintf(a.stdin, "set n%d 192.168.66.%d 10.244.%d.0/24 %s\n", node, 10+node, node, notes)
		}
	}
	reflects := reflectorOf + "=1.0.0.1"
	annotate(1, reflects)
	lan.routesAre(1, 15*time.Second, via(2), via(3))
	lan.routesAre(2, 15*time.Second, via(1), via(3))
	lan.routesAre(3, 15*time.Second, via(1), via(2))
	for n := 1; n <= 3; n++ {
		lan.printed(agents[n], "ready")
		lan.printed(agents[n], "swept")
	}
	one, two, three := lan.pod(1), lan.pod(2), lan.pod(3)
	for name, addr := range map[string]string{"pod1": one, "pod2": two, "pod3": three} {
		lan.serve(name, addr)
	}
	lan.sees("pod2", three, two)

	var monitors []*process
	for n := 1; n <= 3; n++ {
		monitors = append(monitors, lan.monitor(fmt.Sprintf("n%d", n)))
	}
	sessions := func(n int, want string) {
		t.Helper()
		lan.eventually(30*time.Second, fmt.Sprintf("sessions of n%d: %s", n, want), func() (bool, string) {
			lines := agents[n].printed()
			return len(lines) > 0 && lines[len(lines)-1] == "sessions "+want, fmt.Sprint(lines)
		})
	}
	// n2 becomes a reflector as well, and then n1 ceases to be one. What n3 says
	// both hear at first hand, which they prefer, and reflect to each other.
	annotate(2, reflects)
	sessions(3, "192.168.66.11:2 192.168.66.12:2")
	sessions(1, "192.168.66.12:2 192.168.66.13:1")
	sessions(2, "192.168.66.11:2 192.168.66.13:1")
	annotate(1, "")
	sessions(1, "192.168.66.12:2")
	sessions(3, "192.168.66.12:2")
	sessions(2, "192.168.66.11:1 192.168.66.13:1")
	lan.sees("pod3", one, three)
	lan.sees("pod1", two, one)
	lan.sees("pod2", three, two)
	for n, m := range monitors {
		for _, line := range m.printed() {
			t.Errorf("n%d while reflectors changed: %s", n+1, line)
		}
		m.kill()
	}
}
