//go:build kernel

package routes

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bird starts BIRD at the switch, which peers with n1 and tells it nothing but
// a default route.
func (lan *network) bird() {
	lan.t.Helper()
	dir, err := os.MkdirTemp("", "bird") // a socket's path may not be long
	if err != nil {
		lan.t.Fatal(err)
	}
	lan.t.Cleanup(func() { os.RemoveAll(dir) })
	file, socket := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "ctl")
	config := `router id 192.168.66.1;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol static { ipv4; route 0.0.0.0/0 blackhole; }
protocol bgp n1 {
  local 192.168.66.1 as 65001; neighbor 192.168.66.11 as 64512;
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; next hop self; };
}
`
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		lan.t.Fatal(err)
	}
	lan.spawn("sw", nil, "/usr/sbin/bird", "-f", "-c", file, "-s", socket)
	lan.eventually(10*time.Second, "BIRD answers", func() (bool, string) {
		out, _ := exec.Command("birdc", "-s", socket, "show", "status").CombinedOutput()
		return strings.Contains(string(out), "up and running"), string(out)
	})
}

// A node that speaks with routers only, and that they tell of nothing but a
// default route, has no route in its kernel. When it restarts, the routers keep
// its own all the same.
func TestANodeThatLearnsNothingRestartsOnTheKernel(t *testing.T) {
	for how, end := range map[string]func(*process){"stopped": func(p *process) { p.stop() }, "killed": (*process).kill} {
		t.Run(how, func(t *testing.T) {
			lan := newNetwork(t)
			file := cniFile(t, t.TempDir(), 1)
			lan.bird()
			first := lan.agent(1, true, file, "ROUTER=192.168.66.1")
			const ours = "10.244.1.0/24 via 192.168.66.11 dev br0 metric 32"
			known := func() (bool, string) {
				got := strings.TrimSpace(lan.in("sw", "ip", "route", "show", "proto", "bird"))
				return got == ours, got
			}
			lan.eventually(15*time.Second, "the router knows the node's Pods", known)
			lan.printed(first, "swept")
			lan.routesAre(1, 0)
			seen := lan.monitor("sw")
			end(first)
			again := lan.agent(1, true, file, "ROUTER=192.168.66.1")
			lan.printed(again, "swept")
			lan.printed(again, "sessions 192.168.66.1:1")
			if ok, got := known(); !ok {
				t.Errorf("after the restart the router has: %s", got)
			}
			for _, line := range seen.printed() {
				t.Errorf("the router, during the restart: %s", line)
			}
		})
	}
}
