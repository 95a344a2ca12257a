package services

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

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

// The lists are there before the controller starts: all of it is due at once, and
// each Service is worked on once. Where IPVS comes later, those that were put
// aside are due then.
func TestFirstFillDoesEachServiceOnce(t *testing.T) {
	for name, missing := range map[string]error{"at once": nil, "without IPVS at first": errors.New("no IPVS")} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				landed := 0
				config := config4()
				config.Landed = func(time.Duration) { landed++ }
				w.fail(failures{open: missing})
				r := w.start(config, set(n1, web, webSlice, dns, dnsSlice))
				defer r.stop()
				w.fail(failures{})
				time.Sleep(time.Minute) // of the bubble
				synctest.Wait()
				if landed != 2 {
					t.Errorf("2 Services reached the kernel %d times", landed)
				}
				if state := w.state(); !strings.Contains(state, "10.96.0.10:80") || !strings.Contains(state, "10.96.0.53:53") {
					t.Errorf("not all is served:\n%s", state)
				}
			})
		})
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

// One Service that fails stays dirty alone, and is done when it can be.
func TestFailureStaysAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		broken := errors.New("broken")
		w.fail(failures{ipvs: func(c ipvs.Change) error {
			if c.ID.Addr.Addr() == addr("10.96.0.10") {
				return syscall.ENOMEM
			}
			return nil
		}, routes: func(k route.Key) error {
			if k.Dst.Addr() == addr("10.96.0.53") {
				return broken
			}
			return nil
		}})
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
		w.fail(failures{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if pending := r.pending(); pending != "" {
			t.Errorf("pending after a minute: %s", pending)
		}
		r.happen(gone(dns, other))
		w.wants(webState)
	})
}

// What is remembered of a Service's sources does not grow with the tries.
func TestSourcesOfARetriedService(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.AnyIP = true
		w.fail(failures{ipvs: func(ipvs.Change) error { return syscall.ENOMEM }})
		r := w.start(config, set(n1, webSlice, with(service("web", "10.96.0.10", tcp(80, 0)), func(s *cluster.Service) {
			s.LoadBalancerIPs, s.Restricted, s.SourceRanges = addrs("203.0.113.1"), true, prefixes("198.51.100.0/24")
		})))
		defer r.stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		for id, sources := range r.sources {
			if len(sources) > 1 {
				t.Errorf("%s: %v", id, sources)
			}
		}
		if len(r.sources) != 1 {
			t.Errorf("sources: %v", r.sources)
		}
	})
}

// A removal that fails is not forgotten with the Service.
func TestRemovalIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.start(config4(), set(n1, web, webSlice))
		defer r.stop()
		w.fail(failures{
			sets: func(c ipset.Change) error {
				if c.Op == ipset.Delete {
					return syscall.ENOMEM
				}
				return nil
			},
			ipvs:   func(ipvs.Change) error { return syscall.ENOMEM },
			routes: func(route.Key) error { return syscall.ENOMEM },
		})
		r.happen(gone(web))
		if !strings.HasPrefix(r.pending(), "service default/web: ") {
			t.Errorf("pending: %q", r.pending())
		}
		w.fail(failures{})
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

// A node that comes takes its address from the Services that had it before, and
// no other Service is compiled anew.
func TestNodeTakesItsAddress(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.AnyIP = true
		own := with(service("own", "10.96.0.11", tcp(80, 0)), func(s *cluster.Service) { s.LoadBalancerIPs = addrs("192.168.7.12") })
		r := w.start(config, set(n1, web, webSlice, own, slice("own", 8080, ready("10.244.1.9", "n1"))))
		defer r.stop()
		before := w.state()
		if !strings.Contains(before, "local 192.168.7.12 ") {
			t.Errorf("an address that no node has is not served:\n%s", before)
		}
		old := r.me
		r.happen(set(n2))
		if strings.Contains(w.state(), "192.168.7.12") {
			t.Errorf("the address of a node is served by another:\n%s", w.state())
		}
		if list := r.concerned(old, r.me); len(list) != 1 || list[0] != own.Key {
			t.Errorf("concerned: %v", list)
		}
		r.happen(gone(n2))
		w.wants(before)
	})
}

func TestWithoutIPVS(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.fail(failures{open: ipvs.ErrUnavailable})
		r := w.start(config4(), set(n1, web, webSlice))
		defer r.stop()
		w.warned() // the advice does, for all that is missing of IPVS
		if s := r.Status(); s.IPVS || !strings.Contains(r.pending(), "ipvs: the kernel has no IPVS") {
			t.Errorf("IPVS %t, pending: %s", s.IPVS, r.pending())
		}
		w.wants(emptyState)
		w.fail(failures{})
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
		w.fail(failures{rules: func(string) error { return errors.New("no ipvs match") }})
		r := w.start(config4(), set(n1, web, webSlice))
		defer r.stop()
		w.wants(webState)
		if p := r.pending(); !strings.Contains(p, "iptables: ") || !strings.Contains(p, "platform: ") {
			t.Errorf("pending: %s", p)
		}
		w.sysctl.SetReadOnly(false)
		w.fail(failures{})
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
