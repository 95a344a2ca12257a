package routes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/reconcile"
)

const threeNodes = `
# ip link
lo device mtu 65536 up
eth0 device mtu 1450 up
kube-bridge bridge mtu 1450 up
# ip route show proto 17
10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17
10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17
# ipset save
create kube-router-node-ips hash:ip family inet maxelem 1048576
add kube-router-node-ips 192.168.66.11
add kube-router-node-ips 192.168.66.12
add kube-router-node-ips 192.168.66.13
create kube-router-pod-subnets hash:net family inet maxelem 1048576
add kube-router-pod-subnets 10.244.1.0/24
add kube-router-pod-subnets 10.244.2.0/24
add kube-router-pod-subnets 10.244.3.0/24
# iptables-save -t filter
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-ROUTER-PODS - [0:0]
-A FORWARD -j KUBE-ROUTER-PODS
-A KUBE-ROUTER-PODS -i kube-bridge -m comment --comment "traffic from pods" -j ACCEPT
-A KUBE-ROUTER-PODS -o kube-bridge -m comment --comment "traffic to pods" -j ACCEPT
COMMIT
# iptables-save -t nat
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-ROUTER-EGRESS - [0:0]
-A POSTROUTING -j KUBE-ROUTER-EGRESS
-A KUBE-ROUTER-EGRESS -m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst -m set ! --match-set kube-router-node-ips dst -m comment --comment "pods to outside the cluster" -j MASQUERADE --random-fully
COMMIT
# bgp
advertise 10.244.1.0/24 via 192.168.66.11
wait for 192.168.66.12 port 179 as 64512 from 192.168.66.11
wait for 192.168.66.13 port 179 as 64512 from 192.168.66.11
`

func TestThreeNodes(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	r.settled()
	<-r.Ready()
	r.wants(threeNodes)
	text, err := os.ReadFile(h.cniFile)
	if err != nil || !strings.Contains(string(text), `"subnet": "10.244.1.0/24"`) || !strings.Contains(string(text), `"mtu": 1450`) {
		t.Errorf("CNI configuration: %v\n%s", err, text)
	}
	if forward, _ := h.sysctl.Get("net/ipv4/ip_forward"); forward != "1" {
		t.Error("the kernel does not forward")
	}
	if s := r.Status(); !s.Swept || s.Desired != 2 || s.Learned != 2 || len(s.Peers) != 2 || s.NodeIP != addr("192.168.66.11") {
		t.Errorf("status: %+v", s)
	}
	if c := h.speaker().Config(); c.Restarting {
		t.Error("a fresh start said that it restarts")
	}
}

// The order of events decides nothing.
func TestAnyOrderOfEvents(t *testing.T) {
	for seed := range 20 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := newHost(t)
			r := h.start(nil, nil)
			events := []func(){
				func() { r.set(node(1)) },
				func() { r.set(nodeOf("n2", "192.168.66.99")) },
				func() { r.set(node(2)) },
				func() { r.set(node(3)) },
				func() { r.set(node(4)) },
				func() { h.links.AddLink("eth1", 1500, prefix("172.16.0.1/24")) },
			}
			rand.New(rand.NewPCG(uint64(seed), 0)).Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
			for _, event := range events {
				event()
			}
			r.set(node(2))
			r.feeds.Nodes.Delete(node(4).Key)
			r.until("peers are n2 and n3", func() bool {
				s := h.speaker()
				return s != nil && !strings.Contains(s.String(), "66.14") && !strings.Contains(s.String(), "66.99") && strings.Count(s.String(), " as ") == 2
			})
			r.answers(2, 3)
			h.links.DelLink("eth1")
			r.settled()
			r.wants(threeNodes)
		})
	}
}

func TestRestartOfAConvergedNodeChangesNothing(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	r.settled()
	r.end()
	before, file := h.changes(), modified(t, h.cniFile)
	if !h.speaker().Stopped() {
		t.Error("the speaker still runs")
	}

	r = h.start(nil, nodes(1, 2, 3))
	r.settled("sweep") // peers are not back yet, and nothing goes
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17", "10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	<-r.Ready()
	r.answers(2, 3)
	r.settled()
	r.wants(threeNodes)
	if after := h.changes(); after != before {
		t.Errorf("kernel changes before the restart: %s; after: %s", before, after)
	}
	if modified(t, h.cniFile) != file {
		t.Error("the CNI configuration was written again")
	}
	if c := h.speaker().Config(); !c.Restarting {
		t.Error("the peers were not told of the restart")
	}
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

func staleRoute(dst, via string) route.Route {
	return route.Route{
		Key: route.Key{Table: route.Main, Dst: prefix(dst)}, Type: route.Unicast,
		NextHops: []route.NextHop{{Via: addr(via), Link: "eth0"}},
	}
}

func TestStaleRoutesGoWhenAllPeersHaveSentTheirs(t *testing.T) {
	h := newHost(t)
	if err := h.routes.Replace(staleRoute("10.244.9.0/24", "192.168.66.19")); err != nil {
		t.Fatal(err)
	}
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	s := h.speaker()
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17", "10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	r.settled()
	s.Break(addr("192.168.66.13"), "hold timer expired")
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17")

	h2 := newHost(t)
	if err := h2.routes.Replace(staleRoute("10.244.9.0/24", "192.168.66.19")); err != nil {
		t.Fatal(err)
	}
	r2 := h2.start(func(c *Config) { c.GracefulRestart, c.RestartTime = false, 50*time.Millisecond }, nodes(1, 2, 3))
	r2.answers(2)
	r2.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17") // n3 had its time
}

func TestWaitsForWhatIsMissing(t *testing.T) {
	h := newHost(t)
	dir := filepath.Dir(h.cniFile)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	r := h.start(nil, nil)
	pending := func(part string) {
		t.Helper()
		r.until("pending: "+part, func() bool {
			return slices.ContainsFunc(r.Status().Pending, func(p reconcile.Work) bool { return p.Err != nil && strings.Contains(p.Err.Error(), part) })
		})
		select {
		case <-r.Ready():
			t.Fatal("ready too early")
		default:
		}
	}
	pending("waiting for the Node object n1")
	r.set(nodeOf("n1", ""))
	pending("has no address")
	r.set(nodeOf("n1", "10.0.0.1"))
	pending("no link of this host has the address 10.0.0.1")
	r.set(nodeOf("n1", "192.168.66.11"))
	pending("has no Pod CIDR: run the controller manager with --allocate-node-cidrs")
	r.set(node(1))
	pending("the directory is not there yet")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	<-r.Ready()
	r.settled()
}

func TestPodCIDRFromTheCNIConfiguration(t *testing.T) {
	h := newHost(t)
	config := `{"type":"bridge","bridge":"kube-bridge","ipam":{"type":"host-local","subnet":"10.5.0.0/24"}}`
	if err := os.WriteFile(h.cniFile, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	r := h.start(nil, func(f *cluster.Feeds) { f.Nodes.Set(cluster.Key{Name: "n1"}, nodeOf("n1", "192.168.66.11")) })
	<-r.Ready()
	if got := h.speaker().String(); got != "advertise 10.5.0.0/24 via 192.168.66.11\n" {
		t.Errorf("bgp: %s", got)
	}
	if !strings.Contains(h.sets.Save(), "add kube-router-pod-subnets 10.5.0.0/24") {
		t.Errorf("sets:\n%s", h.sets.Save())
	}
}

func TestLearnedRoutes(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	two, three := addr("192.168.66.12"), addr("192.168.66.13")
	base := []string{"10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17", "10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17"}
	r.routesAre(base...)
	s := h.speaker()

	s.Deliver(two, prefix("10.96.0.9/32"), two)
	s.Deliver(three, prefix("10.96.0.9/32"), three)
	r.routesAre(slices.Insert(slices.Clone(base), 2, "10.96.0.9 proto 17 nexthop via 192.168.66.12 dev eth0 nexthop via 192.168.66.13 dev eth0")...)
	s.Deliver(two, prefix("10.96.0.9/32"), netip.Addr{})
	r.routesAre(slices.Insert(slices.Clone(base), 2, "10.96.0.9 via 192.168.66.13 dev eth0 proto 17")...)
	s.Deliver(three, prefix("10.96.0.9/32"), netip.Addr{})

	for _, bad := range []string{"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.244.1.128/25", "192.168.66.0/25", "192.168.66.11/32", "127.0.0.0/8", "224.0.0.0/4", "169.254.0.0/16"} {
		s.Deliver(two, prefix(bad), two)
	}
	s.Deliver(two, prefix("10.9.0.0/24"), addr("192.168.77.12"))
	s.Deliver(two, prefix("10.8.0.0/24"), addr("192.168.66.11"))
	s.Deliver(two, prefix("10.7.0.0/24"), addr("fd00::12"))
	r.until("the bad ones are reported", func() bool { return len(r.Status().Unusable) == 12 })
	r.routesAre(base...)
	want := []Unusable{
		{prefix("0.0.0.0/0"), "a default route is never taken from a peer"},
		{prefix("0.0.0.0/1"), "a default route is never taken from a peer"},
		{prefix("10.7.0.0/24"), "next hop fd00::12 is of another address family"},
		{prefix("10.8.0.0/24"), "next hop 192.168.66.11 is this node itself"},
		{prefix("10.9.0.0/24"), "next hop 192.168.77.12 is not on a subnet of this node, and no tunnel leads there (--enable-overlay)"},
		{prefix("10.244.1.128/25"), "within this node's own Pod CIDR 10.244.1.0/24"},
		{prefix("127.0.0.0/8"), "not a destination that Pods or Services have"},
		{prefix("128.0.0.0/1"), "a default route is never taken from a peer"},
		{prefix("169.254.0.0/16"), "not a destination that Pods or Services have"},
		{prefix("192.168.66.0/25"), "within the network of link eth0, 192.168.66.0/24"},
		{prefix("192.168.66.11/32"), "within the network of link eth0, 192.168.66.0/24"},
		{prefix("224.0.0.0/4"), "not a destination that Pods or Services have"},
	}
	if d := cmp.Diff(want, r.Status().Unusable, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("unusable (-want +got):\n%s", d)
	}

	// A second network makes the far next hop near.
	h.links.AddLink("eth1", 1500, prefix("192.168.77.11/24"))
	h.routes.AddLink("eth1", prefix("192.168.77.11/24"))
	r.routesAre(append(base, "10.9.0.0/24 via 192.168.77.12 dev eth1 proto 17")...)
}

func TestOneNodesChangeTouchesNoOther(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	r.settled()
	routes, sessions := h.routes.Changes(), h.speaker().Sessions()
	r.set(nodeOf("n2", "192.168.66.22", "10.244.2.0/24"))
	r.routesAre("10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	s := h.speaker()
	s.Establish(addr("192.168.66.22"))
	s.Deliver(addr("192.168.66.22"), prefix("10.244.2.0/24"), addr("192.168.66.22"))
	r.routesAre("10.244.2.0/24 via 192.168.66.22 dev eth0 proto 17", "10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	if got := h.routes.Changes() - routes; got != 2 {
		t.Errorf("%d route operations for one moved node, want 2", got)
	}
	if got := h.speaker().Sessions() - sessions; got != 1 {
		t.Errorf("%d sessions were configured for one moved node, want 1", got)
	}
}

func TestTwoNodesWithOneAddressAreOnePeer(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2))
	r.set(nodeOf("n5", "192.168.66.12", "10.244.5.0/24"), nodeOf("n6", "192.168.66.11"), nodeOf("n7", ""))
	r.answers(2)
	r.settled()
	if got := h.speaker().String(); strings.Count(got, " as ") != 1 {
		t.Errorf("bgp:\n%s", got)
	}
}

func TestThisNodesAddressChanges(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	r.settled()
	first := h.speaker()
	h.links.AddLink("eth0", 1450, prefix("192.168.66.50/24"))
	r.set(nodeOf("n1", "192.168.66.50", "10.244.1.0/24"))
	r.until("another speaker", func() bool { return h.speaker() != first && first.Stopped() })
	r.answers(2, 3)
	r.settled()
	want := "advertise 10.244.1.0/24 via 192.168.66.50\ndial 192.168.66.12 port 179 as 64512 from 192.168.66.50\ndial 192.168.66.13 port 179 as 64512 from 192.168.66.50\n"
	if got := h.speaker().String(); got != want {
		t.Errorf("bgp:\n%s", got)
	}
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17", "10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	if !r.warns.warned("Node n1 AddressChanged", "from 192.168.66.11 to 192.168.66.50") {
		t.Error("the move was not reported")
	}
}

// The new Pod CIDR is told in place of the former one, and no session ends.
func TestThisNodesPodCIDRChanges(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	r.settled()
	sessions := h.speaker().Sessions()
	r.set(nodeOf("n1", "192.168.66.11", "10.244.9.0/24"))
	r.told("10.244.9.0/24 via 192.168.66.11 to 3")
	r.settled()
	r.wants(strings.NewReplacer("add kube-router-pod-subnets 10.244.1.0/24\n", "",
		"pod-subnets 10.244.3.0/24\n", "pod-subnets 10.244.3.0/24\nadd kube-router-pod-subnets 10.244.9.0/24\n",
		"advertise 10.244.1.0/24", "advertise 10.244.9.0/24").Replace(threeNodes))
	if text, err := os.ReadFile(h.cniFile); err != nil || !strings.Contains(string(text), `"subnet": "10.244.9.0/24"`) {
		t.Errorf("CNI configuration: %v\n%s", err, text)
	}
	if got := h.speaker().Sessions() - sessions; got != 0 {
		t.Errorf("%d sessions were configured anew", got)
	}
	if !r.warns.warned("Node n1 PodCIDRChanged", "from [10.244.1.0/24] to [10.244.9.0/24]") {
		t.Error("the change was not reported")
	}
}

func TestRoutesComeBackWhenSomethingRemovesThem(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	r.settled()
	h.routes.Flush(route.Main)
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17", "10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	r.until("the repair is counted", func() bool { return r.Status().Repairs == 2 })
}

func TestAFailedRouteDoesNotKeepOthersOut(t *testing.T) {
	h := newHost(t)
	var mu sync.Mutex
	broken := true
	h.routes.FailWith(func(k route.Key) error {
		mu.Lock()
		defer mu.Unlock()
		if broken && k.Dst == prefix("10.244.2.0/24") {
			return syscall.ENOBUFS
		}
		return nil
	})
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	r.settled("route 10.244.2.0/24")
	r.routesAre("10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	mu.Lock()
	broken = false
	mu.Unlock()
	r.settled()
	r.wants(threeNodes)
}

func TestPeriodicSyncRepairsDrift(t *testing.T) {
	h := newHost(t)
	r := h.start(func(c *Config) { c.SyncPeriod = 20 * time.Millisecond }, nodes(1, 2, 3))
	r.answers(2, 3)
	r.until("settled", func() bool { return r.Status().Swept && r.Status().Desired == 2 })
	if err := h.rules.Foreign("*filter\n-F KUBE-ROUTER-PODS\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	for _, err := range h.sets.Apply([]ipset.Change{{Op: ipset.Delete, Name: podSubnets, Entry: ipset.Entry{Prefix: prefix("10.244.3.0/24")}}}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(h.cniFile); err != nil {
		t.Fatal(err)
	}
	h.links.DelLink(Bridge)
	r.until("all is back", func() bool {
		_, err := os.Stat(h.cniFile)
		return err == nil && strings.Count(h.rules.Text(iptables.Filter), "ACCEPT\n") == 2 &&
			strings.Contains(h.sets.Save(), "10.244.3.0/24") && strings.Contains(h.links.String(), Bridge)
	})
}

func TestAFailingPlatformKeepsTheNodeNotReady(t *testing.T) {
	h := newHost(t)
	h.modules = errors.New("missing kernel modules: br_netfilter")
	h.sysctl = sysctl.NewFake(map[string]string{"net/ipv4/ip_forward": "0"})
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	r.settled("platform")
	if _, err := os.Stat(h.cniFile); err == nil {
		t.Error("the CNI configuration is there although Pods would not work")
	}
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17", "10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
}
