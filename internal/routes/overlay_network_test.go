//go:build kernel || guest

package routes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/overlay"
)

// overlayOf is the Config that words such as "full ipip" ask for.
func overlayOf(words string) overlay.Config {
	c := overlay.Config{Enabled: words != "", Full: strings.HasPrefix(words, "full "), Port: 5555}
	c.Encap = overlay.Encap(strings.TrimPrefix(words, "full "))
	return c
}

// routed are two subnets with a router between, which forwards nothing of Pods:
//
//	pod1 ─ n1 ─┐
//	pod2 ─ n2 ─┴─ 66 ─ sw ─ 70 ── n3 ─ pod3
//
// All check source addresses strictly, as many distributions do.
type routed struct {
	network
	dir  string
	ipv6 bool
}

func subnetOf(n int) int {
	if n == 3 {
		return 70
	}
	return 66
}

func (lan *routed) ip(n int) string  { return fmt.Sprintf("192.168.%d.%d", subnetOf(n), 10+n) }
func (lan *routed) ip6(n int) string { return fmt.Sprintf("fd00:%d::%d", subnetOf(n), 10+n) }

func newRouted(t *testing.T, ipv6 bool) *routed {
	lan := &routed{network: network{t: t, prefix: fmt.Sprintf("kr%d-", os.Getpid()%100000)}, dir: t.TempDir(), ipv6: ipv6}
	lan.namespace("sw")
	lan.in("sw", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	for _, subnet := range []int{66, 70} {
		bridge := fmt.Sprintf("br%d", subnet)
		lan.in("sw", "ip", "link", "add", bridge, "type", "bridge")
		lan.in("sw", "ip", "address", "add", fmt.Sprintf("192.168.%d.1/24", subnet), "dev", bridge)
		lan.in("sw", "ip", "address", "add", fmt.Sprintf("fd00:%d::1/64", subnet), "dev", bridge, "nodad")
		lan.in("sw", "ip", "link", "set", bridge, "up")
	}
	lan.in("sw", "iptables", "-A", "FORWARD", "-s", "10.244.0.0/16", "-j", "DROP")
	lan.in("sw", "iptables", "-A", "FORWARD", "-d", "10.244.0.0/16", "-j", "DROP")
	lan.in("sw", "ip6tables", "-A", "FORWARD", "-s", "fd00:244::/32", "-j", "DROP")
	for n := 1; n <= 3; n++ {
		name, port, bridge := fmt.Sprintf("n%d", n), fmt.Sprintf("p%d", n), fmt.Sprintf("br%d", subnetOf(n))
		lan.namespace(name)
		lan.in(name, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
		lan.in("sw", "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", lan.prefix+name)
		lan.in("sw", "ip", "link", "set", port, "master", bridge, "up")
		lan.in(name, "ip", "address", "add", lan.ip(n)+"/24", "dev", "eth0")
		lan.in(name, "ip", "address", "add", lan.ip6(n)+"/64", "dev", "eth0", "nodad")
		lan.in(name, "ip", "link", "set", "eth0", "up")
		lan.in(name, "ip", "route", "add", "default", "via", fmt.Sprintf("192.168.%d.1", subnetOf(n)))
		lan.in(name, "ip", "route", "add", "default", "via", fmt.Sprintf("fd00:%d::1", subnetOf(n)))
	}
	return lan
}

// start starts the agent of node n with an overlay, or none.
func (lan *routed) start(n int, words string) *process {
	lan.t.Helper()
	self, err := os.Executable()
	if err != nil {
		lan.t.Fatal(err)
	}
	env := []string{fmt.Sprintf("ROUTES_TEST_NODE=n%d", n), "CNI_FILE=" + cniFile(lan.t, lan.dir, n), "GRACEFUL=1", "OVERLAY=" + words}
	if lan.ipv6 {
		env = append(env, "IPV6=1")
	}
	p := lan.spawn(fmt.Sprintf("n%d", n), env, self)
	for i := 1; i <= 3; i++ {
		fmt.Fprintln(p.stdin, lan.nodeLine(i))
	}
	fmt.Fprintln(p.stdin, "synced")
	return p
}

func (lan *routed) nodeLine(n int) string {
	ips, cidrs := lan.ip(n), fmt.Sprintf("10.244.%d.0/24", n)
	if lan.ipv6 {
		ips, cidrs = ips+","+lan.ip6(n), fmt.Sprintf("%s,fd00:244:%d::/64", cidrs, n)
	}
	return fmt.Sprintf("set n%d %s %s", n, ips, cidrs)
}

// pod adds a Pod to a node, with the MTU of the CNI configuration.
func (lan *routed) pod(n int) {
	lan.network.pod(n)
	pod, mtu := fmt.Sprintf("pod%d", n), fmt.Sprint(lan.mtu(n))
	lan.in(pod, "ip", "link", "set", "eth0", "mtu", mtu)
	lan.in(fmt.Sprintf("n%d", n), "ip", "link", "set", "veth0", "mtu", mtu)
	if lan.ipv6 {
		lan.in(fmt.Sprintf("n%d", n), "ip", "address", "add", fmt.Sprintf("fd00:244:%d::1/64", n), "dev", Bridge, "nodad")
		lan.in(pod, "ip", "address", "add", fmt.Sprintf("fd00:244:%d::2/64", n), "dev", "eth0", "nodad")
		lan.in(pod, "ip", "route", "add", "default", "via", fmt.Sprintf("fd00:244:%d::1", n))
	}
}

// mtu is that of the CNI configuration of a node.
func (lan *routed) mtu(n int) (mtu int) {
	lan.t.Helper()
	text, err := os.ReadFile(filepath.Join(lan.dir, fmt.Sprintf("n%d", n), "10-kuberouter.conflist"))
	if err == nil {
		_, value, _ := strings.Cut(string(text), `"mtu": `)
		_, err = fmt.Sscan(value, &mtu)
	}
	if err != nil {
		lan.t.Fatal(err)
	}
	return mtu
}

// pings says whether a ping of the size gets through without fragmentation.
// size counts the whole packet.
func (lan *routed) pings(from, to string, size int) bool {
	headers := 28
	if strings.Contains(to, ":") {
		headers = 48
	}
	args := []string{"netns", "exec", lan.prefix + from, "ping", "-M", "do", "-c", "1", "-W", "2", "-s", fmt.Sprint(size - headers), to}
	return exec.Command("ip", args...).Run() == nil
}

// links are the tunnels of a node.
func (lan *routed) links(n int) (names []string) {
	for line := range strings.Lines(lan.in(fmt.Sprintf("n%d", n), "ip", "-brief", "link")) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
		if strings.HasPrefix(name, "kube-tun-") || strings.HasPrefix(name, "tun-") {
			names = append(names, name)
		}
	}
	return names
}

// testOverlay is the life of an overlay on the kernel: it carries full packets
// of Pods and nodes, nothing else needs the router, and nobody else gets in; a
// restart changes nothing; it follows the nodes; and off, nothing is left.
func testOverlay(t *testing.T, words, name string, mtu int, ipv6 bool) {
	lan := newRouted(t, ipv6)
	agents := map[int]*process{}
	for n := 1; n <= 3; n++ {
		agents[n] = lan.start(n, words)
	}
	near := "10.244.2.0/24 via 192.168.66.12 dev eth0"
	if strings.HasPrefix(words, "full ") {
		near = fmt.Sprintf("10.244.2.0/24 via 192.168.66.12 dev %s src 192.168.66.11 onlink", name)
	}
	far := fmt.Sprintf("10.244.3.0/24 via 192.168.70.13 dev %s src 192.168.66.11 onlink", name)
	lan.routesAre(1, 20*time.Second, near, far)
	for _, a := range agents {
		lan.printed(a, "ready")
		lan.printed(a, "swept")
	}
	for n := 1; n <= 3; n++ {
		lan.pod(n)
	}
	if got := lan.mtu(1); got != mtu {
		t.Errorf("the CNI configuration has the MTU %d, want %d", got, mtu)
	}
	lan.carries(mtu)
	lan.refusesOthers()

	// A restart is seen by nobody.
	monitor := lan.monitor("n1")
	agents[1].stop()
	agents[1] = lan.start(1, words)
	lan.printed(agents[1], "swept")
	for _, line := range monitor.printed() {
		t.Errorf("during the restart: %s", line)
	}
	monitor.kill()

	// What was removed behind the agent's back comes back.
	lan.in("n1", "ip", "link", "delete", name)
	lan.routesAre(1, 10*time.Second, near, far)
	lan.eventually(10*time.Second, "pod1 reaches pod3 again", func() (bool, string) { return lan.pings("pod1", "10.244.3.2", mtu), "" })

	// Off, nothing is left.
	agents[1].stop()
	agents[1] = lan.start(1, "")
	lan.printed(agents[1], "swept")
	lan.eventually(10*time.Second, "no tunnel", func() (bool, string) {
		links := lan.links(1)
		return len(links) == 0, strings.Join(links, " ")
	})
	lan.routesAre(1, 10*time.Second, "10.244.2.0/24 via 192.168.66.12 dev eth0")
	if left := lan.in("n1", "ip", "rule", "show", "table", "77") + lan.in("n1", "sh", "-c", "ip route show table 77 2>/dev/null || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	if filter := lan.in("n1", "iptables-save"); strings.Contains(filter, "TUNNELS") {
		t.Errorf("left behind:\n%s", filter)
	}
}

// carries checks what goes through the tunnels.
func (lan *routed) carries(mtu int) {
	t := lan.t
	t.Helper()
	for _, s := range [][2]string{{"pod1", "10.244.1.2"}, {"pod3", "10.244.3.2"}, {"n3", "192.168.70.13"}} {
		lan.serve(s[0], s[1])
	}
	lan.sees("pod1", "10.244.3.2", "10.244.1.2")
	lan.sees("pod2", "10.244.3.2", "10.244.2.2")
	lan.sees("pod3", "10.244.1.2", "10.244.3.2")
	lan.sees("n1", "10.244.3.2", "192.168.66.11")
	lan.sees("pod1", "192.168.70.13", "10.244.1.2") // the router lets nothing of Pods pass
	targets := []string{"10.244.3.2"}
	if lan.ipv6 {
		targets = append(targets, "fd00:244:3::2")
	}
	for _, to := range targets {
		if !lan.pings("pod1", to, mtu) {
			t.Errorf("%s: a packet of %d bytes does not get through", to, mtu)
		}
		lan.in("pod1", "ip", "link", "set", "eth0", "mtu", "1500")
		lan.in("n1", "ip", "link", "set", "veth0", "mtu", "1500")
		if lan.pings("pod1", to, mtu+1) {
			t.Errorf("%s: a packet of %d bytes gets through: there was room left", to, mtu+1)
		}
		lan.in("pod1", "ip", "link", "set", "eth0", "mtu", fmt.Sprint(mtu))
		lan.in("n1", "ip", "link", "set", "veth0", "mtu", fmt.Sprint(mtu))
	}
}

// refusesOthers: what is wrapped by someone who is no node is dropped.
func (lan *routed) refusesOthers() {
	t := lan.t
	t.Helper()
	counters := lan.in("n3", "iptables", "-nvxL", "KUBE-ROUTER-TUNNELS")
	if strings.Count(counters, "DROP") == 0 {
		t.Errorf("no guard:\n%s", counters)
	}
	lan.in("n3", "ipset", "del", "kube-router-node-ips", "192.168.66.11") // n1 is a stranger now
	if lan.pings("pod1", "10.244.3.2", 100) {
		t.Error("a tunnel takes packets from strangers")
	}
	lan.in("n3", "ipset", "add", "kube-router-node-ips", "192.168.66.11")
	if !lan.pings("pod1", "10.244.3.2", 100) {
		t.Error("a tunnel does not take packets from a node")
	}
}
