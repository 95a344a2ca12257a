package lbipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

const (
	v4 = inet.IPv4
	v6 = inet.IPv6
)

// What a Service gets, from what it asks for and from what is there. Each case
// starts one agent on a cluster that has the Services already.
func TestAllocation(t *testing.T) {
	for _, tc := range []struct {
		name, ranges string
		services     []*cluster.Service
		want         string
		events       string
	}{
		{"the oldest is first, of one age the first by name", "192.0.2.0/29",
			[]*cluster.Service{lb("a", created(9)), lb("c"), lb("b")}, "a 192.0.2.3\nb 192.0.2.1\nc 192.0.2.2\n", ""},
		{"a range of two addresses has no network or broadcast address", "192.0.2.0/31",
			[]*cluster.Service{lb("a"), lb("b")}, "a 192.0.2.0\nb 192.0.2.1\n", ""},
		{"one range after the other", "192.0.2.9/32 203.0.113.0/30",
			[]*cluster.Service{lb("a"), lb("b"), lb("c")}, "a 192.0.2.9\nb 203.0.113.1\nc 203.0.113.2\n", ""},
		{"IPv6", "2001:db8::/64", []*cluster.Service{lb("a", families(v6)), lb("b", families(v6))}, "a 2001:db8::\nb 2001:db8::1\n", ""},
		{"the end of the address space", "255.255.255.254/31 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
			[]*cluster.Service{lb("a"), lb("b"), lb("c"), lb("d", families(v6)), lb("e", families(v6))},
			"a 255.255.255.254\nb 255.255.255.255\nc\nd ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\ne\n", `
Service c: NoLoadBalancerIP: all IPv4 addresses are in use; the next one that is freed is given, or give --loadbalancer-ip-range another range
Service e: NoLoadBalancerIP: all IPv6 addresses are in use; the next one that is freed is given, or give --loadbalancer-ip-range another range`},
		{"overlapping ranges", "192.0.2.0/29 192.0.2.0/30",
			[]*cluster.Service{lb("a"), lb("b"), lb("c"), lb("d"), lb("e"), lb("f")},
			"a 192.0.2.1\nb 192.0.2.2\nc 192.0.2.3\nd 192.0.2.4\ne 192.0.2.5\nf 192.0.2.6\n", ""},

		{"what is there is kept", "192.0.2.0/29",
			[]*cluster.Service{lb("a"), lb("b", created(1), shows("192.0.2.1"))}, "a 192.0.2.2\nb 192.0.2.1\n", ""},
		{"so is what is not given any more", "192.0.2.0/29", []*cluster.Service{lb("a", shows("192.0.2.0"))}, "a 192.0.2.0\n", ""},
		{"external IPs are taken, a Service's own as well", "192.0.2.0/29",
			[]*cluster.Service{lb("a", external("192.0.2.1 198.51.100.1")), lb("b", clusterIP, external("192.0.2.2")), lb("c")}, "a 192.0.2.3\nb\nc 192.0.2.4\n", ""},
		{"an address that two have is the older one's", "192.0.2.0/29",
			[]*cluster.Service{lb("a", created(1), shows("192.0.2.5")), lb("b", shows("192.0.2.5"))}, "a 192.0.2.1\nb 192.0.2.5\n", ""},
		{"a second address of a family goes", "192.0.2.0/29", []*cluster.Service{lb("a", shows("192.0.2.3 192.0.2.1"))}, "a 192.0.2.3\n", ""},

		{"the class by name, and the default by name", "192.0.2.0/29",
			[]*cluster.Service{lb("a", class("kube-router")), lb("b", class("default")), lb("c", class("metallb"))}, "a 192.0.2.1\nb 192.0.2.2\nc\n", ""},
		{"another controller's addresses are neither touched nor given", "192.0.2.0/29",
			[]*cluster.Service{lb("a", class("metallb"), shows("192.0.2.1")), lb("b", shows("192.0.2.2 hostname")), lb("c", shows("10.9.9.9")), lb("d")},
			"a 192.0.2.1\nb 192.0.2.2 hostname\nc 10.9.9.9\nd 192.0.2.3\n", ""},
		{"addresses of a former range are replaced where the class says whose they are", "192.0.2.0/29",
			[]*cluster.Service{lb("a", class("kube-router"), shows("10.9.9.9"))}, "a 192.0.2.1\n", ""},
		{"they stay where there is nothing better", "192.0.2.1/32",
			[]*cluster.Service{lb("a"), lb("b", class("kube-router"), shows("10.9.9.9"))}, "a 192.0.2.1\nb 10.9.9.9\n", `
Service b: NoLoadBalancerIP: all IPv4 addresses are in use; the next one that is freed is given, or give --loadbalancer-ip-range another range`},

		{"a request", "192.0.2.0/29", []*cluster.Service{lb("a", asks("192.0.2.5")), lb("b", asks("192.0.2.1")), lb("c")},
			"a 192.0.2.5\nb 192.0.2.1\nc 192.0.2.2\n", ""},
		{"requests that cannot be met", "192.0.2.0/29", []*cluster.Service{
			lb("a", asks("192.0.2.1")), lb("b", asks("192.0.2.1")), lb("c", asks("10.0.0.1")), lb("d", asks("192.0.2.7")),
			lb("e", asks("2001:db8::1")), lb("f", asks("192.0.2.4 192.0.2.3")), lb("g", clusterIP, external("192.0.2.6")), lb("h", asks("192.0.2.6")),
		}, "a 192.0.2.1\nb\nc\nd\ne 192.0.2.2\nf 192.0.2.4\ng\nh\n", `
Service b: NoLoadBalancerIP: the requested 192.0.2.1 is in use by another Service, or as an external IP; it is given once it is free
Service c: NoLoadBalancerIP: the requested 10.0.0.1 is in no range of --loadbalancer-ip-range; request another, or none
Service d: NoLoadBalancerIP: the requested 192.0.2.7 is the first or the last address of its range, which are not given; request another, or none
Service e: NoLoadBalancerIP: the requested 2001:db8::1 is IPv6, which is not in spec.ipFamilies; add the family, or do not request the address
Service f: NoLoadBalancerIP: 192.0.2.3 is requested beside 192.0.2.4; request at most one address of IPv4
Service h: NoLoadBalancerIP: the requested 192.0.2.6 is in use by another Service, or as an external IP; it is given once it is free`},

		{"dual-stack, in the order of the families", "192.0.2.0/29 2001:db8::/120", []*cluster.Service{
			lb("a", requireDual(v6, v4)), lb("b", preferDual(v4, v6), asks("2001:db8::9 192.0.2.6")),
		}, "a 2001:db8:: 192.0.2.1\nb 192.0.2.6 2001:db8::9\n", ""},
		{"RequireDualStack is both or nothing", "192.0.2.0/29", []*cluster.Service{
			lb("a", requireDual(v4, v6)), lb("b", requireDual(v4)), lb("c"),
		}, "a\nb\nc 192.0.2.1\n", `
Service a: NoLoadBalancerIP: no IPv6 range to take an address from; give --loadbalancer-ip-range one, or leave IPv6 out of spec.ipFamilies
Service b: NoLoadBalancerIP: spec.ipFamilyPolicy is RequireDualStack, and spec.ipFamilies has IPv4 only; add the other family`},
		{"PreferDualStack is what is there", "192.0.2.0/29", []*cluster.Service{lb("a", preferDual(v6, v4))}, "a 192.0.2.1\n", ""},
		{"PreferDualStack without anything", "192.0.2.1/32", []*cluster.Service{lb("a"), lb("b", preferDual(v4, v6))}, "a 192.0.2.1\nb\n", `
Service b: NoLoadBalancerIP: all IPv4 addresses are in use; the next one that is freed is given, or give --loadbalancer-ip-range another range; no IPv6 range to take an address from; give --loadbalancer-ip-range one, or leave IPv6 out of spec.ipFamilies`},
		{"no family at all", "192.0.2.0/29", []*cluster.Service{lb("a", families())}, "a\n",
			"\nService a: NoLoadBalancerIP: the Service has no spec.ipFamilies; set them"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				for _, s := range tc.services {
					w.services[s.Key] = s
				}
				a := w.start("one", tc.ranges)
				w.wants(tc.want)
				if got := a.told(); got != strings.TrimPrefix(tc.events, "\n") {
					t.Errorf("events:\n%s", got)
				}
			})
		})
	}
}

func TestWithoutTheDefaultClass(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start("one", "192.0.2.0/29", func(c *Config) { c.DefaultClass = false })
		w.put(lb("d", shows("192.0.2.1"))) // has it before c may be given it
		w.put(lb("a"), lb("b", class("default")), lb("c", class("kube-router")))
		w.wants("a\nb\nc 192.0.2.2\nd 192.0.2.1\n")
	})
}

// A burst is decided from the allocator's own memory, whatever the feed shows.
func TestBurst(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.start("one", "10.0.0.0/23")
		w.set(func(w *world) { w.slow = 5 * time.Millisecond })
		var want strings.Builder
		for i := range 500 {
			w.mu.Lock()
			s := lb(fmt.Sprintf("s%03d", i))
			w.publish(s.Key, s)
			w.mu.Unlock()
			fmt.Fprintf(&want, "s%03d 10.0.%d.%d\n", i, (i+1)/256, (i+1)%256)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := a.Status(); len(w.writes) != 500 || s.Addresses != 500 || s.Waiting != 0 || len(s.Pending) != 0 {
			t.Errorf("%d writes, %+v", len(w.writes), s)
		}
		for _, s := range w.services {
			if len(ingress(s)) != 1 {
				t.Errorf("%s has %v", s.Name, ingress(s))
			}
		}
		w.remove("s007")
		w.put(lb("late"))
		time.Sleep(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if got := ingress(w.services[cluster.Key{Namespace: "default", Name: "late"}]); len(got) != 1 {
			t.Errorf("late has %v", got)
		}
	})
}

// An address that is freed goes to the Service that waits longest for it.
func TestFreedAddressGoesToTheOldestThatWaits(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.start("one", "192.0.2.0/30")
		w.put(lb("a"), lb("b", asks("192.0.2.2")))
		w.put(lb("young", created(9)), lb("old", created(1)), lb("wish", created(5), asks("192.0.2.2")))
		w.wants("a 192.0.2.1\nb 192.0.2.2\nold\nwish\nyoung\n")
		if got := strings.Count(a.told(), "\n") + 1; got != 3 {
			t.Errorf("%d Events for three that wait", got)
		}
		time.Sleep(time.Hour)
		if got := a.told(); got != "" {
			t.Errorf("told again: %s", got)
		}
		w.remove("a")
		w.wants("b 192.0.2.2\nold 192.0.2.1\nwish\nyoung\n")
		w.remove("b")
		w.wants("old 192.0.2.1\nwish 192.0.2.2\nyoung\n")
		w.put(lb("old", clusterIP))
		w.wants("old\nwish 192.0.2.2\nyoung 192.0.2.1\n")
		if s := a.Status(); s.Waiting != 0 || s.Addresses != 2 || a.told() != "" {
			t.Errorf("%+v", s)
		}
	})
}

// What makes an address free, and what does not.
func TestFreed(t *testing.T) {
	const both = "a 192.0.2.1\nb\n"
	for _, tc := range []struct {
		name   string
		change func(w *world)
		want   string
	}{
		{"deletion", func(w *world) { w.remove("a") }, "b 192.0.2.1\n"},
		{"another type", func(w *world) { w.put(lb("a", clusterIP)) }, "a\nb 192.0.2.1\n"},
		{"another type, with the status left over", func(w *world) {
			w.put(lb("a", with(func(l *cluster.LoadBalancer) { *l = cluster.LoadBalancer{} })))
		}, "a\nb 192.0.2.1\n"},
		{"another class", func(w *world) { w.put(lb("a", class("metallb"))) }, "a\nb 192.0.2.1\n"},
		{"another class, whose controller was faster", func(w *world) { w.put(lb("a", class("metallb"), shows("10.9.9.9"))) }, "a 10.9.9.9\nb 192.0.2.1\n"},
		{"another controller adds a host name", func(w *world) { w.put(lb("a", shows("192.0.2.1 hostname"))) }, "a 192.0.2.1 hostname\nb\n"},
		{"another proxy by label", func(w *world) { w.hide("a") }, "a\nb 192.0.2.1\n"},
		{"another one of that name", func(w *world) { w.put(lb("a", uid("new"), created(99))) }, "a\nb 192.0.2.1\n"},
		{"another family", func(w *world) { w.put(lb("a", families(v6))) }, "a\nb 192.0.2.1\n"},
		{"not when somebody clears the status", func(w *world) {
			w.put(lb("a", with(func(l *cluster.LoadBalancer) { l.Ingress = []netip.Addr{} })))
		}, both},
		{"another controller gives another address", func(w *world) { w.put(lb("a", shows("10.9.9.9"))) }, "a 10.9.9.9\nb 192.0.2.1\n"},
		{"an external IP of the same address", func(w *world) {
			w.put(lb("c", clusterIP, external("192.0.2.1")))
			w.remove("a")
		}, "b\nc\n"},
		{"an external IP that goes", func(w *world) {
			w.put(lb("c", clusterIP, external("192.0.2.1")))
			w.remove("a")
			w.put(lb("c", clusterIP))
		}, "b 192.0.2.1\nc\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.start("one", "192.0.2.1/32")
				w.put(lb("a"))
				w.put(lb("b", created(1)))
				w.wants(both)
				tc.change(w)
				w.wants(tc.want)
			})
		})
	}
}

// A Service that changes its request has its old address until it has the new
// one.
func TestRequestChanges(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.start("one", "192.0.2.0/29")
		w.put(lb("a"), lb("b"))
		w.put(lb("a", asks("192.0.2.2")))
		w.wants("a 192.0.2.1\nb 192.0.2.2\n")
		if got := a.told(); !strings.Contains(got, "the requested 192.0.2.2 is in use") {
			t.Errorf("told %q", got)
		}
		w.put(lb("b", asks("192.0.2.4")))
		w.wants("a 192.0.2.2\nb 192.0.2.4\n")
		w.put(lb("c"))
		w.wants("a 192.0.2.2\nb 192.0.2.4\nc 192.0.2.1\n")
	})
}

// The second address of PreferDualStack comes when there is one.
func TestPreferDualStackIsCompletedLater(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.start("one", "192.0.2.0/29 2001:db8::5/128")
		w.put(lb("a", families(v6)))
		w.put(lb("b", preferDual(v4, v6)))
		w.wants("a 2001:db8::5\nb 192.0.2.1\n")
		w.remove("a")
		w.wants("b 192.0.2.1 2001:db8::5\n")
		if got := a.told(); got != "" {
			t.Errorf("told %q", got)
		}
	})
}

// A leader that starts on a converged cluster writes nothing.
func TestRestartWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.start("one", "192.0.2.0/29 2001:db8::/120")
		w.put(lb("d", clusterIP, external("192.0.2.1")))
		w.put(lb("a"), lb("b", requireDual(v6, v4)), lb("c", asks("192.0.2.6")), lb("e", asks("10.0.0.1")))
		const want = "a 192.0.2.2\nb 2001:db8:: 192.0.2.3\nc 192.0.2.6\nd\ne\n"
		w.wants(want)
		writes := len(w.writes)
		a.stop()
		w.start("two", "192.0.2.0/29 2001:db8::/120")
		time.Sleep(time.Hour)
		w.wants(want)
		if len(w.writes) != writes {
			t.Errorf("written: %q", w.writes[writes:])
		}
	})
}

// Only the leader writes and remembers. The next one reads the truth from the
// API server: its feed may not have heard of what the one before wrote last.
func TestHandover(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		one := w.start("one", "192.0.2.0/29")
		two := w.start("two", "192.0.2.0/29")
		w.set(func(*world) { two.lags = true })
		w.put(lb("a"), lb("b"), lb("c"))
		w.remove("a")
		if one, two := one.Status(), two.Status(); !one.Leading || two.Leading || two.Services != 0 {
			t.Errorf("one %+v, two %+v", one, two)
		}
		w.wants("b 192.0.2.2\nc 192.0.2.3\n")
		one.depose <- struct{}{}
		synctest.Wait()
		if one, two := one.Status(), two.Status(); one.Leading || !two.Leading || two.Addresses != 2 {
			t.Errorf("one %+v, two %+v", one, two)
		}
		w.set(func(*world) { two.lags = false })
		w.put(lb("d"), lb("e"))
		w.wants("b 192.0.2.2\nc 192.0.2.3\nd 192.0.2.1\ne 192.0.2.4\n")
		two.stop()
		time.Sleep(time.Minute)
		w.put(lb("f"))
		w.wants("b 192.0.2.2\nc 192.0.2.3\nd 192.0.2.1\ne 192.0.2.4\nf 192.0.2.5\n")
		if !one.Status().Leading {
			t.Error("the first does not lead again")
		}
	})
}

// What changes while a new leader reads the Services is not undone by what it
// has read.
func TestChangesWhileTheServicesAreRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.put(lb("gone", shows("192.0.2.1")), lb("becomes", clusterIP, external("192.0.2.2")), lb("stops", shows("192.0.2.3")))
		w.set(func(w *world) { w.slow = time.Second })
		a := w.start("one", "192.0.2.0/29")
		w.remove("gone")
		w.put(lb("becomes"), lb("stops", clusterIP), lb("new"))
		w.set(func(w *world) { w.slow = 0 })
		time.Sleep(time.Minute)
		w.wants("becomes 192.0.2.2\nnew 192.0.2.4\nstops\n")
		if s := a.Status(); s.Addresses != 2 || s.Services != 2 || len(s.Pending) != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What cannot be written is kept and tried again, and said once.
func TestAPIServerRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.set(func(w *world) { w.fail = errors.New("not now") })
		a := w.start("one", "192.0.2.0/29")
		time.Sleep(time.Minute)
		if n := strings.Count(a.log.String(), "the list of Services"); n != 1 {
			t.Errorf("said %d times:\n%s", n, a.log)
		}
		w.set(func(w *world) { w.fail = nil })
		w.put(lb("a"))
		time.Sleep(time.Minute)
		w.wants("a 192.0.2.1\n")
		w.set(func(w *world) { w.fail = errors.New("not now") })
		w.put(lb("b"), lb("c"))
		w.remove("a")
		time.Sleep(time.Minute)
		w.wants("b\nc\n")
		if s := a.Status(); len(s.Pending) != 3 {
			t.Errorf("pending %v", s.Pending)
		}
		w.set(func(w *world) { w.fail = nil })
		time.Sleep(time.Minute)
		w.wants("b 192.0.2.2\nc 192.0.2.3\n")
		w.put(lb("d"))
		w.wants("b 192.0.2.2\nc 192.0.2.3\nd 192.0.2.1\n")
		if n := strings.Count(a.log.String(), "not now"); n != 4 {
			t.Errorf("said %d times:\n%s", n, a.log)
		}
	})
}
