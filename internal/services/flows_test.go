package services

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/healthcheck"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
)

// checks is a HealthServer that keeps what it is told.
type checks struct {
	of      map[cluster.Key]healthcheck.Check
	healthy bool
}

func (c *checks) Healthy(healthy bool) { c.healthy = healthy }

func (c *checks) Set(changes map[cluster.Key]*healthcheck.Check) {
	for k, check := range changes {
		if check == nil {
			delete(c.of, k)
		} else {
			c.of[k] = *check
		}
	}
}

func (c *checks) String() string {
	var lines []string
	for k, check := range c.of {
		lines = append(lines, fmt.Sprintf("%s port %d: %d", k, check.Port, check.Local))
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

func TestLoadBalancersAreTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		local := with(service("web", "10.96.0.10", tcp(80, 30080), udp(80, 0)), func(s *cluster.Service) {
			s.ExternalLocal, s.HealthCheckNodePort = true, 31000
		})
		r := w.start(config4(), set(n1, local, service("other", "10.96.0.11", tcp(80, 0))))
		defer r.stop()
		told := func(want string) {
			t.Helper()
			if got := w.health.String(); got != want || !w.health.healthy {
				t.Errorf("told %q (healthy: %v), want %q", got, w.health.healthy, want)
			}
		}
		told("default/web port 31000: 0")
		r.happen(set(slice("web", 8080, ready("10.244.1.2", "n1"), unready("10.244.1.3", "n1"), ready("10.244.2.2", "n2"))))
		told("default/web port 31000: 1")
		r.happen(set(with(service("web", "10.96.0.10", tcp(80, 30080)), func(s *cluster.Service) { s.HealthCheckNodePort = 31000 })))
		told("")
		r.happen(set(local))
		told("default/web port 31000: 1")
		r.happen(gone(local))
		told("")
	})
}

// A dual-stack endpoint counts once, and one of a family that is not enabled not
// at all.
func TestLoadBalancersAreToldOfEndpointsOnce(t *testing.T) {
	for families, want := range map[string]string{"46": "2", "4": "1"} {
		bubble(t, func(t *testing.T, w *world) {
			config := config46()
			if families == "4" {
				config = config4()
			}
			local := with(service("web", "10.96.0.10", tcp(80, 30080)), func(s *cluster.Service) {
				s.ExternalLocal, s.HealthCheckNodePort = true, 31000
			})
			six := slice("web", 8080, ready("fd00:244:1::2", "n1"), ready("fd00:244:1::3", "n1"))
			six.Name = "web-6"
			defer w.start(config, set(n1, local, slice("web", 8080, ready("10.244.1.2", "n1")), six)).stop()
			if got := w.health.String(); got != "default/web port 31000: "+want {
				t.Errorf("families %s: told %q, want %s", families, got, want)
			}
		})
	}
}

// tracked are conntrack entries of a client's datagrams: translated to an
// endpoint, or, where that is empty, not.
func tracked(w *world, virtual, endpoint string) {
	w.t.Helper()
	client := netip.MustParseAddrPort("10.244.1.9:4000")
	e := conntrack.Entry{Protocol: inet.UDP, From: client, To: netip.MustParseAddrPort(virtual), ReplyTo: client}
	e.ReplyFrom = e.To
	if endpoint != "" {
		e.ReplyFrom = netip.MustParseAddrPort(endpoint)
	}
	if err := w.flows.Add(e); err != nil {
		w.t.Fatal(err)
	}
}

// Flows to endpoints that are gone, and those from before the Service, end;
// others are not touched. What fails is tried again.
func TestStaleFlowsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		tracked(w, "10.96.0.10:53", "")
		tracked(w, "10.96.0.12:53", "")
		dns := service("dns", "10.96.0.10", udp(53, 0), tcp(53, 0))
		r := w.start(config4(), set(n1, dns, slice("dns", 5353, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2"))))
		defer r.stop()
		remain := func(want ...string) {
			t.Helper()
			if d := cmp.Diff(want, strings.Fields(strings.ReplaceAll(w.flows.String(), " ", "_"))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		}
		other := "udp_src=10.244.1.9_dst=10.96.0.12_sport=4000_dport=53_src=10.96.0.12_dst=10.244.1.9_sport=53_dport=4000"
		first := "udp_src=10.244.1.9_dst=10.96.0.10_sport=4000_dport=53_src=10.244.1.2_dst=10.244.1.9_sport=5353_dport=4000"
		remain(other)
		tracked(w, "10.96.0.10:53", "10.244.1.2:5353")
		w.flows.FailWith(errors.New("busy"))
		r.happen(set(slice("dns", 5353, ready("10.244.2.2", "n2"))))
		remain(first, other)
		if p := r.pending(); p != "conntrack: ending flows of datagrams: busy" {
			t.Errorf("pending: %q", p)
		}
		w.flows.FailWith(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		remain(other)
		reads := w.flows.Reads()
		r.happen(set(slice("dns", 5353, ready("10.244.2.2", "n2"), ready("10.244.2.3", "n2"))))
		if w.flows.Reads() != reads {
			t.Error("a new endpoint beside others cost a read of the table")
		}
	})
}

// With grace, a client of datagrams moves on as well where a mark leads it: that
// virtual server's name does not say that it is for datagrams.
func TestDatagramsHaveNoGrace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.GracePeriod = time.Minute
		web := with(service("web", "10.96.0.10", tcp(80, 30080), udp(80, 30080)), func(s *cluster.Service) { s.ExternalLocal = true })
		before := slice("web", 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2"), ready("10.244.2.3", "n2"))
		r := w.start(config, set(n1, web, before))
		defer r.stop()
		r.happen(set(slice("web", 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2"))))
		drains := strings.Count(w.ipvs.String(), "-r 10.244.2.3:8080 -m -w 0\n")
		if all := strings.Count(w.ipvs.String(), "-r 10.244.2.3:8080"); drains != 2 || all != 2 {
			t.Errorf("it drains in %d virtual servers of %d that have it, want the 2 for TCP:\n%s", drains, all, w.ipvs)
		}
	})
}

// Whose claim counts decides about the flows: not a Service that another keeps
// from an address, but its coming where the other had it.
func TestStaleFlowsFollowTheGrantedService(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.AnyIP = true
		claimant := func(name, ip string) *cluster.Service {
			return with(service(name, ip, udp(53, 0)), func(s *cluster.Service) { s.ExternalIPs = addrs("203.0.113.1") })
		}
		a, b := claimant("a", "10.96.0.10"), claimant("b", "10.96.0.11")
		r := w.start(config, set(n1, b, slice("b", 53, ready("10.244.1.3", "n1")), slice("a", 53, ready("10.244.1.2", "n1"))))
		defer r.stop()
		tracked(w, "203.0.113.1:53", "10.244.1.3:53")
		flow := w.flows.String()
		r.happen(set(slice("b", 53, ready("10.244.1.3", "n1"), ready("10.244.1.4", "n1"))))
		if w.flows.String() != flow {
			t.Error("the flow ended with its endpoint in place")
		}
		r.happen(set(a))
		if got := w.flows.String(); got != "" {
			t.Errorf("a has the address now, and b's flow remains: %s", got)
		}
		tracked(w, "203.0.113.1:53", "10.244.1.2:53")
		flow = w.flows.String()
		r.happen(gone(b))
		if got := w.flows.String(); got != flow {
			t.Errorf("b did not have the address, and its end ended a's flow: %q", got)
		}
	})
}
