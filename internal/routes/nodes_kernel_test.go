//go:build kernel || guest

package routes

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/peering"
)

// Each node of these tests is a network namespace in which this test binary
// runs once more, as the node's agent.
func TestMain(m *testing.M) {
	if name := os.Getenv("ROUTES_TEST_NODE"); name != "" {
		if err := agent(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if addr := os.Getenv("ROUTES_TEST_SERVE"); addr != "" {
		serve(addr)
		return
	}
	if addr := os.Getenv("ROUTES_TEST_ASK"); addr != "" {
		ask(addr)
		return
	}
	os.Exit(m.Run())
}

// serve tells each client its address, and ends with its input.
func serve(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, host)
			c.Close()
		}
	}()
	fmt.Println("serving")
	_, _ = io.ReadAll(os.Stdin)
}

// ask prints what a server says.
func ask(addr string) {
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	answer, err := io.ReadAll(c)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(answer))
}

// agent runs a controller on the kernel. It reads Nodes from its input,
// "set NAME IPS CIDRS KEY=VALUE..." or "delete NAME", ends with it, and prints "ready" and
// "swept" when it is so.
func agent(name string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", name)
	families := []inet.Family{inet.IPv4}
	if os.Getenv("IPV6") != "" {
		families = append(families, inet.IPv6)
	}
	drivers, err := realDrivers(families, log)
	if err != nil {
		return err
	}
	feeds := cluster.NewFeeds()
	whom := fullMesh()
	whom.FullMesh = os.Getenv("NO_MESH") == ""
	if router := os.Getenv("ROUTER"); router != "" {
		whom.Between, whom.Routers = false, []peering.Router{{Addr: addr(router), ASN: 65001}}
	}
	c := New(Config{
		NodeName: name, Families: families, PodCIDRs: true, Overlay: overlayOf(os.Getenv("OVERLAY")), Peering: whom, Linger: 8 * time.Second, SettleTime: 3 * time.Second,
		GracefulRestart: os.Getenv("GRACEFUL") != "", RestartTime: time.Minute, PodEgress: true, AutoMTU: true,
		EgressExcluded: []netip.Prefix{prefix("198.51.100.0/24")},
		EnableCNI:      true, CNIFile: os.Getenv("CNI_FILE"), SyncPeriod: time.Minute,
	}, feeds, drivers, &warnings{}, log)
	ctx, cancel := context.WithCancel(context.Background())
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() && input.Text() != "synced" {
		feed(feeds, input.Text())
	}
	go func() {
		for input.Scan() {
			feed(feeds, input.Text())
		}
		cancel()
	}()
	go func() {
		<-c.Ready()
		fmt.Println("ready")
		for !c.Status().Swept {
			time.Sleep(20 * time.Millisecond)
		}
		fmt.Println("swept")
		tellSessions(ctx, c)
	}()
	return c.Run(ctx)
}

// tellSessions prints the peers and how many prefixes each has sent, when that
// changes.
func tellSessions(ctx context.Context, c *Controller) {
	told := ""
	for ctx.Err() == nil {
		now := "sessions"
		for _, p := range c.Status().Peers {
			now += fmt.Sprintf(" %s:%d", p.Addr, p.Accepted)
		}
		if now != told {
			fmt.Println(now)
			told = now
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func feed(feeds *cluster.Feeds, line string) {
	words := strings.Fields(line)
	if words[0] == "set" {
		n := nodeOf(words[1], "", strings.Split(words[3], ",")...)
		for ip := range strings.SplitSeq(words[2], ",") {
			n.InternalIPs = append(n.InternalIPs, addr(ip))
		}
		n.Annotations = map[string]string{}
		for _, w := range words[4:] {
			key, value, _ := strings.Cut(w, "=")
			n.Annotations[key] = value
		}
		feeds.Nodes.Set(n.Key, n)
		return
	}
	feeds.Nodes.Delete(cluster.Key{Name: words[1]})
}

func realDrivers(families []inet.Family, log *slog.Logger) (Drivers, error) {
	ctx := context.Background()
	routes, err := route.Open()
	if err != nil {
		return Drivers{}, err
	}
	links, err := link.Open()
	if err != nil {
		return Drivers{}, err
	}
	sets, err := ipset.Open()
	if err != nil {
		return Drivers{}, err
	}
	variant, err := iptables.Detect(ctx)
	if err != nil {
		return Drivers{}, err
	}
	rules := map[inet.Family]*iptables.Ruleset{}
	for _, f := range families {
		tables, err := iptables.Open(ctx, f, variant)
		if err != nil {
			return Drivers{}, err
		}
		rules[f] = iptables.NewRuleset(tables, f, log)
	}
	return Drivers{
		Speak: SpeakBGP, Routes: routes, Links: links, Sysctl: sysctl.New(""), Modules: module.Load, Sets: sets, Rules: rules,
	}, nil
}

func TestThreeNodesOnTheKernel(t *testing.T) {
	lan := newNetwork(t)
	dir := t.TempDir()
	file := func(n int) string { return cniFile(t, dir, n) }
	agents := map[int]*process{}
	began := time.Now()
	for n := 1; n <= 3; n++ {
		agents[n] = lan.agent(n, true, file(n))
	}
	lan.routesAre(1, 15*time.Second, via(2), via(3))
	lan.routesAre(2, 15*time.Second, via(1), via(3))
	lan.routesAre(3, 15*time.Second, via(1), via(2))
	t.Logf("three nodes converged in %v", time.Since(began))
	for _, a := range agents {
		lan.printed(a, "ready")
		lan.printed(a, "swept")
	}

	// Pods reach Pods of other nodes, and the outside as their node.
	one, two := lan.pod(1), lan.pod(2)
	for name, addr := range map[string]string{"pod1": one, "pod2": two, "sw": "192.168.66.1"} {
		lan.serve(name, addr)
	}
	lan.sees("pod1", two, one)
	lan.sees("pod2", one, two)
	lan.sees("pod1", "192.168.66.1", "192.168.66.11")

	// An excluded network sees the Pod, and knows the way back.
	lan.in("sw", "ip", "address", "add", "198.51.100.1/32", "dev", "lo")
	lan.in("sw", "ip", "route", "add", "10.244.1.0/24", "via", "192.168.66.11")
	lan.in("n1", "ip", "route", "add", "198.51.100.1", "via", "192.168.66.1")
	lan.serve("sw", "198.51.100.1")
	lan.sees("pod1", "198.51.100.1", one)

	// A restart with graceful restart is seen by nobody, on any node.
	kernel := func() string {
		return lan.routes(1) + "\n" + lan.in("n1", "iptables-save") + lan.in("n1", "ipset", "save") + lan.in("n1", "ip", "-4", "address")
	}
	before := withoutComments(kernel())
	var monitors []*process
	for n := 1; n <= 3; n++ {
		monitors = append(monitors, lan.monitor(fmt.Sprintf("n%d", n)))
	}
	if took := agents[1].stop(); took > 3*time.Second {
		t.Errorf("the agent took %v to end", took)
	}
	agents[1] = lan.agent(1, true, file(1))
	lan.printed(agents[1], "swept")
	lan.sees("pod2", one, two)
	for n, m := range monitors {
		for _, line := range m.printed() {
			t.Errorf("n%d during the restart of n1: %s", n+1, line)
		}
		m.kill()
	}
	if after := withoutComments(kernel()); after != before {
		t.Errorf("before the restart:\n%s\nafter:\n%s", before, after)
	}

	// A node that leaves the cluster leaves the others' routes.
	agents[3].stop()
	for n := 1; n <= 2; n++ {
		fmt.Fprintln(agents[n].stdin, "delete n3")
	}
	lan.routesAre(1, 5*time.Second, via(2))
	lan.routesAre(2, 5*time.Second, via(1))

	// What was removed behind the agent's back comes back.
	lan.in("n1", "ip", "link", "set", "eth0", "down")
	lan.routesAre(1, 5*time.Second)
	lan.in("n1", "ip", "link", "set", "eth0", "up")
	lan.routesAre(1, 5*time.Second, via(2))
	lan.in("n1", "ip", "route", "delete", "10.244.2.0/24")
	lan.routesAre(1, 5*time.Second, via(2))
}

func TestWithoutGracefulRestartRoutesGoAtOnceOnTheKernel(t *testing.T) {
	lan := newNetwork(t)
	dir := t.TempDir()
	agents := map[int]*process{}
	for n := 1; n <= 3; n++ {
		agents[n] = lan.agent(n, false, cniFile(t, dir, n))
	}
	lan.routesAre(1, 15*time.Second, via(2), via(3))
	lan.routesAre(2, 15*time.Second, via(1), via(3))
	agents[1].stop()
	lan.routesAre(2, 2*time.Second, via(3))
	lan.routesAre(1, 0, via(2), via(3)) // what it programmed stays
}

// withoutComments drops the times that iptables-save prints.
func withoutComments(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}
