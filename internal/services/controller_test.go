package services

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

var (
	web      = service("web", "10.96.0.10", tcp(80, 30080))
	webSlice = slice("web", 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2"))
	dns      = service("dns", "10.96.0.53", udp(53, 0))
	dnsSlice = slice("dns", 53, ready("10.244.1.9", "n1"))
)

const webState = `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.244.2.2:8080 -m -w 1
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 1
-a -t 192.168.7.11:30080 -r 10.244.2.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
`

const emptyState = `
# ipvsadm -Sn
# ip route show table local proto 17
# ipset save
add kube-router-node-pods 10.244.1.0/24
`

func TestRules(t *testing.T) {
	config := config46()
	config.Hairpin = true
	bubble(t, func(t *testing.T, w *world) {
		defer w.start(config, set(n1)).stop()
		for table, want := range map[iptables.Table]string{
			iptables.Filter: `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-ROUTER-SERVICES - [0:0]
-A INPUT -j KUBE-ROUTER-SERVICES
-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-drop dst,dst -m comment --comment "services with endpoints on other nodes only" -j DROP
-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -m comment --comment "services" -j ACCEPT
-A KUBE-ROUTER-SERVICES -p tcp -m set --match-set kube-router-svip dst -m comment --comment "no such service" -j REJECT --reject-with tcp-reset
-A KUBE-ROUTER-SERVICES ! -p icmp -m set --match-set kube-router-svip dst -m comment --comment "no such service" -j REJECT --reject-with icmp-port-unreachable
COMMIT
`,
			iptables.NAT: `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-ROUTER-MASQUERADE - [0:0]
-A POSTROUTING -j KUBE-ROUTER-MASQUERADE
-A KUBE-ROUTER-MASQUERADE -m set --match-set kube-router-hairpin dst,dst,src -m comment --comment "pods to themselves" -j MASQUERADE --random-fully
-A KUBE-ROUTER-MASQUERADE -m ipvs --vdir ORIGINAL --vmethod MASQ -m set ! --match-set kube-router-node-pods src -m set ! --match-set kube-router-node-pods dst -m addrtype ! --src-type LOCAL -m comment --comment "neither end is here" -j MASQUERADE --random-fully
COMMIT
`,
		} {
			if d := cmp.Diff(want, w.rules[inet.IPv4].Text(table)); d != "" {
				t.Errorf("IPv4 %s (-want +got):\n%s", table, d)
			}
			want = strings.NewReplacer("kube-router-", "inet6:kube-router-", "! -p icmp", "! -p ipv6-icmp",
				"with icmp-port", "with icmp6-port").Replace(want)
			if d := cmp.Diff(want, w.rules[inet.IPv6].Text(table)); d != "" {
				t.Errorf("IPv6 %s (-want +got):\n%s", table, d)
			}
		}
	})
}

func TestMasqueradeAllRule(t *testing.T) {
	config := config4()
	config.MasqueradeAll = true
	got := masqueradeRules(inet.IPv4, config)
	want := []string{`-m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "all that is forwarded" -j MASQUERADE --random-fully`}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSysctls(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		defer w.start(config46(), set(n1)).stop()
		for name, want := range map[string]string{
			"net/ipv4/vs/conntrack": "1", "net/ipv4/vs/expire_nodest_conn": "1", "net/ipv4/vs/expire_quiescent_template": "1",
			"net/ipv4/vs/conn_reuse_mode": "1", "net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2",
			"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1",
			"net/ipv6/conf/all/forwarding": "1", "net/bridge/bridge-nf-call-ip6tables": "1",
		} {
			if got, _ := w.sysctl.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	})
	for release, want := range map[string]string{
		"4.19.0": "0", "5.8.18-100.fc31": "0", "5.9.0": "1", "5.10.0-8-amd64": "1", "6.1.0": "1", "": "1",
	} {
		if got := connReuseMode(release); got != want {
			t.Errorf("Linux %s: conn_reuse_mode %s, want %s", release, got, want)
		}
	}
}

// The check of the world looks after each change: nothing is let through that
// IPVS does not serve.
func TestChangeAndRemoval(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.start(config4(), set(n1))
		defer r.stop()
		r.happen(set(web), set(webSlice))
		w.wants(webState)
		r.happen(set(service("web", "10.96.0.11", tcp(81, 30081))))
		w.wants(strings.NewReplacer("10.96.0.10", "10.96.0.11", ":80 ", ":81 ", "tcp:80\n", "tcp:81\n", "30080", "30081").Replace(webState))
		r.happen(set(slice("web", 8080)))
		w.wants(strings.Replace(emptyState, "# ipset", "local 10.96.0.11 dev lo proto 17 src 192.168.7.11\n# ipset", 1) +
			"add kube-router-svip 10.96.0.11\n")
		r.happen(set(webSlice), gone(web))
		w.wants(emptyState)
		r.happen(gone(webSlice))
		w.wants(emptyState)
	})
}

// What changes is a few netlink messages, whatever else there is; no rule, and
// no reading of the kernel.
func TestCostOfOneService(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.lax = true
		events := []event{set(n1)}
		for i := range 200 {
			name := fmt.Sprintf("s%d", i)
			events = append(events, set(service(name, fmt.Sprintf("10.96.1.%d", i), tcp(80, 0)),
				slice(name, 8080, ready("10.244.1.2", "n1"))))
		}
		r := w.start(config4(), events...)
		defer r.stop()
		_, _, before := w.sets.Calls()
		lists, _, _ := w.sets.Calls()
		was := [3]int{w.ipvs.Changes(), w.routes.Changes(), before}
		rules := w.changes()[strings.Index(w.changes(), "rule"):]
		r.happen(set(dns, dnsSlice))
		_, _, after := w.sets.Calls()
		got := [3]int{w.ipvs.Changes() - was[0], w.routes.Changes() - was[1], after - was[2]}
		if want := [3]int{2, 1, 2}; got != want {
			t.Errorf("changes of ipvs, routes, set entries: %v, want %v", got, want)
		}
		if now := w.changes(); now[strings.Index(now, "rule"):] != rules {
			t.Errorf("was %s, is %s", rules, now)
		}
		if now, _, _ := w.sets.Calls(); now != lists {
			t.Errorf("%d more reads of sets", now-lists)
		}
		if reads := r.servers.Counters().Reads; reads != 1 {
			t.Errorf("%d reads of IPVS, want 1", reads)
		}
		r.happen(set(slice("dns", 53, ready("10.244.1.9", "n1"), ready("10.244.1.10", "n1"))))
		if n := w.ipvs.Changes() - was[0]; n != 3 {
			t.Errorf("one endpoint more is %d changes of IPVS, want 1", n-2)
		}
	})
}

func TestRestartChangesNothing(t *testing.T) {
	config := config46()
	config.Hairpin = true
	bubble(t, func(t *testing.T, w *world) {
		w.start(config, set(n1, web, webSlice, dns, dnsSlice)).stop()
		was, state := w.changes(), w.state()
		for range 2 {
			r := w.start(config, set(n1, web, webSlice, dns, dnsSlice))
			r.stop()
			if s := r.Status(); s.Changes != 0 {
				t.Errorf("the status counts %d changes", s.Changes)
			}
		}
		if now := w.changes(); now != was {
			t.Errorf("a restart made changes:\nwas %s\nis  %s", was, now)
		}
		w.wants(state)
	})
}

// What a former run left goes once everything was programmed; what is others'
// stays.
func TestSweep(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(config4(), set(n1, web, webSlice, dns, dnsSlice)).stop()
		w.lax = true
		server := func(addr string) []ipvs.Change {
			id := ipvs.ID{Protocol: inet.TCP, Addr: netip.MustParseAddrPort(addr)}
			return []ipvs.Change{
				{Op: ipvs.AddServer, ID: id, Config: ipvs.Config{Scheduler: "wlc"}},
				{Op: ipvs.AddReal, ID: id, RealAddr: netip.MustParseAddrPort("172.16.0.1:80"), Real: ipvs.Real{Weight: 1}},
			}
		}
		for _, addr := range []string{
			"10.99.0.1:443", "192.168.7.11:30999", "203.0.113.7:80", // ours: cluster IP, node port, and one with a route
			"192.168.7.11:80", "192.168.7.12:30999", "203.0.113.8:80", // of others
		} {
			w.ipvs.Apply(server(addr))
		}
		former := vipRoute(addr("203.0.113.7"), netip.Addr{})
		if err := w.routes.Replace(former); err != nil {
			t.Fatal(err)
		}
		w.sets.Apply([]ipset.Change{
			{Op: ipset.Add, Name: portSet, Entry: ipset.IPPort(inet.TCP, netip.MustParseAddrPort("203.0.113.7:80"))},
			{Op: ipset.Create, Name: "kube-router-node-ips", Spec: ipset.Spec{Type: ipset.HashIP, Family: inet.IPv4}},
			{Op: ipset.Add, Name: "kube-router-node-ips", Entry: ipset.IP(addr("192.168.7.12"))},
			{Op: ipset.Create, Name: "inet6:" + vipSet, Spec: ipset.Spec{Type: ipset.HashIP, Family: inet.IPv6}},
		})
		programmed, early := false, false
		w.ipvs.FailWith(func(c ipvs.Change) error {
			programmed = programmed || c.RealAddr.Addr() == addr("10.244.3.3")
			early = early || c.Op == ipvs.DeleteServer && !programmed
			return nil
		})
		r := w.start(config4(), set(n1, web, slice("web", 8080, ready("10.244.3.3", "n3"))))
		defer r.stop()
		w.wants(`
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.3.3:8080 -m -w 1
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.3.3:8080 -m -w 1
-A -t 192.168.7.11:80 -s wlc
-a -t 192.168.7.11:80 -r 172.16.0.1:80 -m -w 1
-A -t 192.168.7.12:30999 -s wlc
-a -t 192.168.7.12:30999 -r 172.16.0.1:80 -m -w 1
-A -t 203.0.113.8:80 -s wlc
-a -t 203.0.113.8:80 -r 172.16.0.1:80 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-ips 192.168.7.12
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
`)
		if early {
			t.Error("something was swept before everything was programmed")
		}
		if w.sets.Exists("inet6:" + vipSet) {
			t.Error("the set of a family that is not enabled stays")
		}
	})
}

// One Service that fails stays dirty alone, and is done when it can be.
func TestFailureStaysAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		broken := errors.New("broken")
		w.ipvs.FailWith(func(c ipvs.Change) error {
			if c.ID.Addr.Addr() == addr("10.96.0.10") {
				return syscall.ENOMEM
			}
			return nil
		})
		w.routes.FailWith(func(k route.Key) error {
			if k.Dst.Addr() == addr("10.96.0.53") {
				return broken
			}
			return nil
		})
		other := service("other", "10.96.0.99", tcp(80, 0))
		r := w.start(config4(), set(n1, web, webSlice, dns, dnsSlice, other, slice("other", 80, ready("10.244.1.7", "n1"))))
		defer r.stop()
		select {
		case <-r.Ready():
		default:
			t.Error("not ready for the sake of one Service")
		}
		w.wants(`
# ipvsadm -Sn
-A -t 10.96.0.99:80 -s rr
-a -t 10.96.0.99:80 -r 10.244.1.7:80 -m -w 1
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 1
-a -t 192.168.7.11:30080 -r 10.244.2.2:8080 -m -w 1
-A -u 10.96.0.53:53 -s rr
-a -u 10.96.0.53:53 -r 10.244.1.9:53 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.99 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.99
add kube-router-svip-prt 10.96.0.53,udp:53
add kube-router-svip-prt 10.96.0.99,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
`)
		pending := r.pending()
		for _, want := range []string{"service default/web: ipvsadm -A -t 10.96.0.10:80", "service default/dns: ip route replace local 10.96.0.53"} {
			if !strings.Contains(pending, want) {
				t.Errorf("pending does not say %q:\n%s", want, pending)
			}
		}
		w.ipvs.FailWith(nil)
		w.routes.FailWith(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if pending := r.pending(); pending != "" {
			t.Errorf("pending after a minute: %s", pending)
		}
		r.happen(gone(dns, other))
		w.wants(webState)
	})
}

// A removal that fails is not forgotten with the Service.
func TestRemovalIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.start(config4(), set(n1, web, webSlice))
		defer r.stop()
		w.sets.Fail = func(c ipset.Change) error {
			if c.Op == ipset.Delete {
				return syscall.ENOMEM
			}
			return nil
		}
		w.ipvs.FailWith(func(ipvs.Change) error { return syscall.ENOMEM })
		w.routes.FailWith(func(route.Key) error { return syscall.ENOMEM })
		r.happen(gone(web))
		if !strings.HasPrefix(r.pending(), "service default/web: ") {
			t.Errorf("pending: %q", r.pending())
		}
		w.sets.Fail = nil
		w.ipvs.FailWith(nil)
		w.routes.FailWith(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		w.wants(emptyState)
		if r.pending() != "" {
			t.Errorf("pending: %q", r.pending())
		}
	})
}

func TestWaitsForItsNode(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(config4(), set(n1, dns, dnsSlice)).stop()
		state := w.state()
		r := w.start(config4(), set(web, webSlice, node("n2", "192.168.7.12", "10.244.2.0/24")))
		defer r.stop()
		w.wants(state) // of the former run, until it is known better
		if !strings.Contains(r.pending(), "waiting for the Node object n1") {
			t.Errorf("pending: %s", r.pending())
		}
		r.happen(set(&cluster.Node{Meta: n1.Meta}))
		if !strings.Contains(r.pending(), "waiting for an address") {
			t.Errorf("pending: %s", r.pending())
		}
		r.happen(set(n1))
		w.wants(webState)
		r.happen(gone(n1))
		w.wants(webState)
		r.happen(set(node("n1", "192.168.9.11", "10.244.9.0/24")))
		w.wants(strings.NewReplacer("192.168.7.11", "192.168.9.11", "10.244.1.0/24", "10.244.9.0/24").Replace(webState))
	})
}

func TestWithoutIPVS(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.noIPVS = ipvs.ErrUnavailable
		r := w.start(config4(), set(n1, web, webSlice))
		defer r.stop()
		w.warned("Node n1: IPVSUnavailable: Services do not work on this node: the kernel has no IPVS: load it with modprobe ip_vs")
		if s := r.Status(); s.IPVS || !strings.Contains(r.pending(), "ipvs: the kernel has no IPVS") {
			t.Errorf("IPVS %t, pending: %s", s.IPVS, r.pending())
		}
		w.wants(emptyState)
		w.noIPVS = nil
		time.Sleep(time.Minute)
		synctest.Wait()
		w.wants(webState)
		if !r.Status().IPVS {
			t.Error("the status does not say that IPVS is there")
		}
	})
}

// A rule that the kernel refuses, or a sysctl, keeps no Service waiting.
func TestRulesAndSysctlsFail(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sysctl.SetReadOnly(true)
		w.rules[inet.IPv4].Fail = func(string) error { return errors.New("no ipvs match") }
		r := w.start(config4(), set(n1, web, webSlice))
		defer r.stop()
		w.wants(webState)
		if p := r.pending(); !strings.Contains(p, "iptables: ") || !strings.Contains(p, "platform: ") {
			t.Errorf("pending: %s", p)
		}
		w.sysctl.SetReadOnly(false)
		w.rules[inet.IPv4].Fail = nil
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.pending() != "" {
			t.Errorf("pending: %s", r.pending())
		}
	})
}

func TestResyncRepairs(t *testing.T) {
	config := config4()
	config.SyncPeriod = time.Minute
	bubble(t, func(t *testing.T, w *world) {
		r := w.start(config, set(n1, web, webSlice))
		defer r.stop()
		w.lax = true
		list, _ := w.ipvs.List()
		for id := range list {
			w.ipvs.Apply([]ipvs.Change{{Op: ipvs.DeleteServer, ID: id}})
		}
		w.routes.Flush(route.Local)
		w.sets.Apply([]ipset.Change{{Op: ipset.Delete, Name: vipSet, Entry: ipset.IP(addr("10.96.0.10"))}})
		if err := w.rules[inet.IPv4].Foreign("*filter\n:KUBE-ROUTER-SERVICES - [0:0]\nCOMMIT\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		w.wants(webState)
		if text := w.rules[inet.IPv4].Text(iptables.Filter); !strings.Contains(text, "tcp-reset") {
			t.Errorf("rules are not repaired:\n%s", text)
		}
		s := r.Status()
		if s.Repairs != 5 || s.LastSync.IsZero() { // two virtual servers, a route, a set, a chain
			t.Errorf("%d repairs, last sync %s", s.Repairs, s.LastSync)
		}
		was := w.changes()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if now := w.changes(); now != was {
			t.Errorf("a resync without drift made changes:\nwas %s\nis  %s", was, now)
		}
	})
}

// The kernel drops routes whose preferred source goes from its link. That is
// repaired without waiting for a resync.
func TestLostRoutesComeBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.start(config4(), set(n1, web, webSlice))
		defer r.stop()
		time.Sleep(time.Minute)
		w.routes.Flush(route.Local)
		time.Sleep(time.Minute)
		synctest.Wait()
		w.wants(webState)
	})
}

// An address of a Service that somebody else routes stays with them, and the
// host's own ports on it are not shut.
func TestForeignAddress(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.routes.AddForeign(vipRouteKey(addr("10.96.0.10")), "local 10.96.0.10 dev eth1 proto kernel")
		r := w.start(config4(), set(n1, web, webSlice))
		defer r.stop()
		if strings.Contains(w.state(), "kube-router-svip 10.96.0.10") {
			t.Errorf("the address is guarded:\n%s", w.state())
		}
		if !strings.Contains(r.pending(), "another owner") {
			t.Errorf("pending: %s", r.pending())
		}
	})
}
