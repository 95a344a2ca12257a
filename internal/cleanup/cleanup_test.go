package cleanup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cni"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// world is an imaginary node with state of ours and of others.
type world struct {
	t      *testing.T
	file   string
	record *record.File
	routes *route.Fake
	ipvs   *ipvs.Fake
	rules  *iptables.Fake
	sets   *ipset.Fake
	links  *link.Fake
	sysctl *sysctl.Fake
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	w := &world{
		t: t, file: filepath.Join(dir, "10-kuberouter.conflist"),
		record: record.Open(filepath.Join(dir, "run", "before.json"), slog.New(slog.DiscardHandler)),
		routes: route.NewFake(), ipvs: ipvs.NewFake(), rules: iptables.NewFake(), sets: ipset.NewFake(), links: link.NewFake(),
		sysctl: sysctl.NewFake(map[string]string{"net/ipv4/ip_forward": "0", "net/ipv4/vs/conntrack": "0"}),
	}
	w.rules.SetExists, w.sets.InUse = w.sets.Exists, w.rules.UsesSet
	w.links.Record = w.record
	w.others()
	w.ours()
	return w
}

func (w *world) must(errs ...error) {
	w.t.Helper()
	if err := errors.Join(errs...); err != nil {
		w.t.Fatal(err)
	}
}

// server adds a virtual server.
func (w *world) server(id ipvs.ID) {
	w.must(w.ipvs.Apply([]ipvs.Change{{Op: ipvs.AddServer, ID: id, Config: ipvs.Config{Scheduler: "rr"}}})...)
}

func tcp(addr string) ipvs.ID {
	return ipvs.ID{Protocol: inet.TCP, Addr: netip.MustParseAddrPort(addr)}
}

// set makes a set with an entry.
func (w *world) set(name string, spec ipset.Spec, e ipset.Entry) {
	w.must(w.sets.Apply([]ipset.Change{{Op: ipset.Create, Name: name, Spec: spec}, {Op: ipset.Add, Name: name, Entry: e}})...)
}

func (w *world) others() {
	for _, id := range []ipvs.ID{tcp("192.0.2.1:80"), tcp("10.96.9.9:80"), ipvs.MarkID(17, inet.IPv4)} {
		w.server(id)
	}
	w.set("foreign", ipset.Spec{Type: ipset.HashIP, Family: inet.IPv4}, ipset.IP(netip.MustParseAddr("10.1.1.1")))
	w.must(w.rules.Foreign("*filter\n:MINE - [0:0]\n-A FORWARD -j MINE\n-A MINE -m set --match-set foreign src -j DROP\nCOMMIT\n"))
	w.routes.AddForeign(route.Key{Table: route.Main, Dst: prefix("10.9.0.0/16")}, "10.9.0.0/16 via 192.168.66.1")
	w.links.AddLink("eth0", 1500, prefix("192.168.66.11/24"))
}

func (w *world) ours() {
	w.t.Helper()
	_, err := cni.NewFile(w.file).Ensure(cni.Network{Bridge: "kube-bridge", PodCIDRs: []netip.Prefix{prefix("10.244.1.0/24")}})
	w.must(err)
	_, err = w.links.EnsureBridge(w.t.Context(), "kube-bridge", 1500)
	w.must(err)
	_, err = w.links.EnsureFallbackTunnel(inet.IPv4)
	w.must(err)
	settings := sysctl.Recording{Interface: w.sysctl, Record: w.record}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv4/vs/conntrack"} {
		_, err := settings.Set(name, "1")
		w.must(err)
	}
	w.must(ipvs.Recording{Interface: w.ipvs, Record: w.record}.SetTimeouts(ipvs.Timeouts{UDP: 30e9}))
	w.set("kube-router-svip-prt", ipset.Spec{Type: ipset.HashIPPort, Family: inet.IPv4},
		ipset.IPPort(inet.TCP, netip.MustParseAddrPort("192.168.66.11:30080")))
	marked := ipset.IPPort(inet.TCP, netip.MustParseAddrPort("10.96.0.1:443"))
	marked.Mark, marked.Mask = 1<<18, ^uint32(0)
	w.set("kube-router-svip-in", ipset.Spec{Type: ipset.HashIPPort, Family: inet.IPv4, SkbInfo: true}, marked)
	for _, id := range []ipvs.ID{tcp("192.168.66.11:30080"), tcp("10.96.0.1:443"), ipvs.MarkID(1<<18, inet.IPv4)} {
		w.server(id)
	}
	vip := route.Route{Key: route.Key{Table: route.Local, Dst: prefix("10.96.0.1/32")}, Type: route.LocalType, NextHops: []route.NextHop{{Link: "lo"}}}
	w.must(w.routes.Apply([]route.Change{{Key: vip.Key, Route: &vip}})...)
	w.must(w.rules.Restore(w.t.Context(), "*filter\n:KUBE-ROUTER-SERVICES - [0:0]\n-I INPUT 1 -j KUBE-ROUTER-SERVICES\n"+
		"-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -j ACCEPT\nCOMMIT\n"))
}

func (w *world) node() *Node {
	return &Node{
		CNI: cni.NewFile(w.file), Routes: w.routes, Servers: w.ipvs, Sets: w.sets, Links: w.links, Sysctl: w.sysctl, Record: w.record,
		Rules:    []Rules{{iptables.NFT, inet.IPv4, w.rules}},
		Excluded: []netip.Prefix{prefix("10.96.9.0/24")},
	}
}

// state is what is on the node, but for routes of others.
func (w *world) state() string {
	text, _ := os.ReadFile(w.file)
	return fmt.Sprint(string(text), w.ipvs, w.rules.Text(iptables.Filter), w.sets.Save(), w.links, w.routes.Text(route.Main), w.routes.Text(route.Local))
}

func (w *world) clean(want, wantErr string) {
	w.t.Helper()
	var out strings.Builder
	err := w.node().Remove(w.t.Context(), &out)
	if diff := cmp.Diff(want, strings.ReplaceAll(out.String(), w.file, "FILE")); diff != "" {
		w.t.Errorf("clean-up says (-want +got):\n%s", diff)
	}
	if wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
		w.t.Errorf("error %v, want %q", err, wantErr)
	}
}

const allOfIt = `removed CNI configuration FILE
removed route local 10.96.0.1 dev lo proto 17 table local
removed virtual server -f 262144
removed virtual server -t 10.96.0.1:443
removed virtual server -t 192.168.66.11:30080
removed iptables (nf_tables, IPv4, filter) rule -A INPUT -j KUBE-ROUTER-SERVICES
removed iptables (nf_tables, IPv4, filter) chain KUBE-ROUTER-SERVICES
removed IP set kube-router-svip-in
removed IP set kube-router-svip-prt
removed bridge kube-bridge
restored IPVS timeout udp = 5m0s
restored link tunl0 down
restored sysctl net/ipv4/ip_forward = 0 (it was 1)
restored sysctl net/ipv4/vs/conntrack = 0 (it was 1)
`

func TestRemove(t *testing.T) {
	w := newWorld(t)
	w.clean(allOfIt, "")
	want := `-A -f 17 -s rr
-A -t 10.96.9.9:80 -s rr
-A -t 192.0.2.1:80 -s rr
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:MINE - [0:0]
-A FORWARD -j MINE
-A MINE -m set --match-set foreign src -j DROP
COMMIT
create foreign hash:ip family inet maxelem 1048576
add foreign 10.1.1.1
1: lo device mtu 65536 up
2: eth0 device mtu 1500 up
4: tunl0 ipip mtu 1480 down
`
	if diff := cmp.Diff(want, w.state()); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	w.clean("nothing to remove\n", "")
	if entries, err := w.record.Entries(""); len(entries) > 0 || err != nil {
		t.Errorf("the record has %v, %v", entries, err)
	}
}

// What cannot be removed is told of, with what to do, and does not stop the
// rest. The next run removes it.
func TestRemoveGoesOn(t *testing.T) {
	line := func(start string) string { // of allOfIt
		_, rest, _ := strings.Cut(allOfIt, start)
		rest, _, _ = strings.Cut(rest, "\n")
		return start + rest + "\n"
	}
	broken := errors.New("broken")
	for _, c := range []struct {
		name      string
		fail      func(*world)
		mend      func(*world)
		instead   *strings.Replacer // of lines of allOfIt
		left      string            // of the second run
		wantError string
	}{
		{
			name: "a route",
			fail: func(w *world) { w.routes.FailWith(func(route.Key) error { return broken }) },
			mend: func(w *world) { w.routes.FailWith(nil) },
			instead: strings.NewReplacer(line("removed route"),
				"not removed: routes: ip route delete 10.96.0.1 proto 17 table local: broken\n"),
			left: line("removed route"),
		},
		{
			name: "a virtual server, by whose sets it is known",
			fail: func(w *world) {
				w.ipvs.FailWith(func(c ipvs.Change) error {
					if c.ID.Mark != 0 {
						return broken
					}
					return nil
				})
			},
			mend: func(w *world) { w.ipvs.FailWith(nil) },
			instead: strings.NewReplacer(
				line("removed virtual server -f"), "",
				line("removed virtual server -t 192"), line("removed virtual server -t 192")+"not removed: virtual servers: ipvsadm -D -f 262144: broken\n",
				line("removed IP set kube-router-svip-in"), "",
				line("removed IP set kube-router-svip-prt"),
				"kept IP sets of Services: they tell which virtual servers are kube-router's; they go once those have gone\n",
			),
			left: line("removed virtual server -f") + line("removed IP set kube-router-svip-in") + line("removed IP set kube-router-svip-prt"),
		},
		{
			name: "rules, and with them the set that they match",
			fail: func(w *world) { w.rules.Fail = func(string) error { return broken } },
			mend: func(w *world) { w.rules.Fail = nil },
			instead: strings.NewReplacer(
				line("removed iptables (nf_tables, IPv4, filter) rule"), "",
				line("removed iptables (nf_tables, IPv4, filter) chain"), "not removed: iptables (nf_tables, IPv4, filter): broken\n",
				line("removed IP set kube-router-svip-prt"), "not removed: IP set: set kube-router-svip-prt: ipset destroy kube-router-svip-prt: "+
					"the set is in use by a rule of somebody else: remove that rule (iptables-save and nft list ruleset show it)\n",
			),
			left: line("removed iptables (nf_tables, IPv4, filter) rule") + line("removed iptables (nf_tables, IPv4, filter) chain") +
				line("removed IP set kube-router-svip-prt"),
		},
		{
			name: "sysctls",
			fail: func(w *world) { w.sysctl.SetReadOnly(true) },
			mend: func(w *world) { w.sysctl.SetReadOnly(false) },
			instead: strings.NewReplacer(
				line("restored sysctl net/ipv4/ip"), `not removed: sysctls: sysctl net/ipv4/ip_forward is "1" and must be "0": /proc/sys is read-only here; mount the host's /proc/sys/net at /host/proc/sys/net, set it on the host, or run the container privileged: read-only file system`+"\n",
				line("restored sysctl net/ipv4/vs"), `not removed: sysctls: sysctl net/ipv4/vs/conntrack is "1" and must be "0": /proc/sys is read-only here; mount the host's /proc/sys/net at /host/proc/sys/net, set it on the host, or run the container privileged: read-only file system`+"\n",
			),
			left: line("restored sysctl net/ipv4/ip") + line("restored sysctl net/ipv4/vs"),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.fail(w)
			w.clean(c.instead.Replace(allOfIt), "run it again")
			c.mend(w)
			w.clean(c.left, "")
		})
	}
}

// The bridge stays with the Pods that use it.
func TestPodsKeepTheBridge(t *testing.T) {
	w := newWorld(t)
	w.links.AddLink("veth0", 1500)
	w.links.AddPort("kube-bridge", "veth0")
	w.clean(strings.Replace(allOfIt, "removed bridge kube-bridge",
		"kept bridge kube-bridge: Pods are connected to it; drain the node and run this again, or end them with: ip link delete kube-bridge", 1), "")
	w.clean("kept bridge kube-bridge: Pods are connected to it; drain the node and run this again, or end them with: ip link delete kube-bridge\n", "")
	w.links.DelLink("veth0")
	w.clean("removed bridge kube-bridge\n", "")
}

// A clean-up that was told to end ends, and says how to go on.
func TestRemoveEnds(t *testing.T) {
	w := newWorld(t)
	before := w.state()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.node().Remove(ctx, &strings.Builder{}); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "run it again") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, w.state()); diff != "" {
		t.Errorf("it did something all the same:\n%s", diff)
	}
}

// A kernel without the facilities has nothing of ours in them.
func TestRemoveFromABareKernel(t *testing.T) {
	n := &Node{CNI: cni.NewFile(filepath.Join(t.TempDir(), "x.conflist")), Sysctl: sysctl.NewFake(nil)}
	var out strings.Builder
	if err := n.Remove(t.Context(), &out); err != nil || out.String() != "nothing to remove\n" {
		t.Errorf("%v, %s", err, out.String())
	}
}

// socketName is a name of the test's own.
func socketName(t *testing.T) string {
	return fmt.Sprintf("@kube-router/test/%d/%s", os.Getpid(), t.Name())
}

func TestRefusesBesideAnAgent(t *testing.T) {
	name := socketName(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); announce(ctx, name) }()
	deadline := time.Now().Add(20 * time.Second)
	for { // until it is announced
		held, err := exclude(t.Context(), name, "")
		if errors.Is(err, ErrRunning) {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the agent is not noticed: %v", err)
		}
		held.Close()
		runtime.Gosched()
	}
	stop()
	<-ended
	held, err := exclude(t.Context(), name, "")
	if err != nil {
		t.Fatalf("after the agent has ended: %v", err)
	}
	if _, err := exclude(t.Context(), name, ""); !errors.Is(err, ErrRunning) {
		t.Errorf("two clean-ups at a time: %v", err)
	}
	held.Close()
}

// An agent that does not announce itself answers at its health port.
func TestRefusesBesideAHealthServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })}
	go server.Serve(l)
	address := l.Addr().String()
	if _, err := exclude(t.Context(), socketName(t), address); !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), address) {
		t.Errorf("error %v", err)
	}
	server.Close()
	held, err := exclude(t.Context(), socketName(t), address)
	if err != nil {
		t.Fatal(err)
	}
	held.Close()
}
