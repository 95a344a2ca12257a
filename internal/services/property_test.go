package services

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// history is what happened to a few objects with few addresses, so that they
// collide: what is left of it, and the events on the way.
type history struct {
	events []event
	last   map[string]any // by kind and name; nil where it is gone
}

func drawHistory(t *rapid.T) history {
	h := history{last: map[string]any{}}
	note := func(name string, object any, there bool) {
		if !there {
			if old := h.last[name]; old != nil {
				h.events, h.last[name] = append(h.events, gone(old)), nil
			}
			return
		}
		h.events, h.last[name] = append(h.events, set(object)), object
	}
	for range rapid.IntRange(1, 25).Draw(t, "events") {
		name := fmt.Sprintf("s%d", rapid.IntRange(0, 3).Draw(t, "name"))
		there := rapid.IntRange(0, 3).Draw(t, "there") > 0
		switch rapid.IntRange(0, 8).Draw(t, "kind") {
		case 0:
			if rapid.Bool().Draw(t, "another node") {
				note("node n2", node("n2", fmt.Sprintf("192.168.7.%d", rapid.IntRange(21, 22).Draw(t, "address")), "10.244.2.0/24"), there)
				continue
			}
			n := node("n1", fmt.Sprintf("192.168.7.%d", rapid.IntRange(11, 12).Draw(t, "address")), "10.244.1.0/24")
			note("node", n, true)
		case 1, 2, 3, 4:
			note("service "+name, drawService(t, name), there)
		default:
			note("slice "+name, drawSlice(t, name), there)
		}
	}
	return h
}

func drawService(t *rapid.T, name string) *cluster.Service {
	s := service(name, fmt.Sprintf("10.96.0.%d", rapid.IntRange(1, 3).Draw(t, "cluster IP")))
	s.ExternalIPs = rapid.SliceOfN(rapid.SampledFrom(addrs("203.0.113.1", "203.0.113.2", "192.168.7.11", "192.168.7.21")), 0, 2).Draw(t, "external IPs")
	s.InternalLocal, s.ExternalLocal = rapid.Bool().Draw(t, "internal"), rapid.Bool().Draw(t, "external")
	if rapid.IntRange(0, 2).Draw(t, "direct return") == 0 {
		s = annotated(s, "service.dsr", "tunnel")
	}
	s.LoadBalancerIPs = rapid.SliceOfN(rapid.SampledFrom(addrs("203.0.113.1", "203.0.113.3", "192.168.7.22")), 0, 1).Draw(t, "load balancer IPs")
	s.Restricted = rapid.Bool().Draw(t, "restricted")
	s.SourceRanges = rapid.SliceOfN(rapid.SampledFrom(prefixes("198.51.100.0/24", "192.0.2.0/25", "0.0.0.0/0")), 0, 2).Draw(t, "source ranges")
	for range rapid.IntRange(0, 2).Draw(t, "ports") {
		number := uint16(rapid.IntRange(80, 81).Draw(t, "port"))
		nodePort := uint16(rapid.SampledFrom([]int{0, 30080, 30081}).Draw(t, "node port"))
		s.Ports = append(s.Ports, rapid.SampledFrom([]cluster.ServicePort{tcp(number, nodePort), udp(number, nodePort)}).Draw(t, "protocol"))
	}
	return s
}

func drawSlice(t *rapid.T, name string) *cluster.EndpointSlice {
	var endpoints []cluster.Endpoint
	for i := range rapid.IntRange(0, 3).Draw(t, "endpoints") {
		make := rapid.SampledFrom([]func(string, string) cluster.Endpoint{ready, terminating, unready}).Draw(t, "condition")
		where := rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node")
		endpoints = append(endpoints, make(fmt.Sprintf("10.244.1.%d", i+2), where))
	}
	return slice(name, uint16(rapid.IntRange(8080, 8081).Draw(t, "port")), endpoints...)
}

// Whatever happened, and whatever failed on the way, the state is that of a
// controller that has only seen the end of it. On the way, nothing was ever let
// through to what IPVS does not serve: the world checks.
func TestHistoryDoesNotMatter(t *testing.T) {
	config := config4()
	config.Hairpin = true
	config.LoadBalancerIPRanges = prefixes("203.0.113.0/24", "192.168.7.0/24")
	config.ExternalIPRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("192.168.7.0/24")}
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		failEvery := rapid.IntRange(0, 6).Draw(rt, "every nth change fails")
		var got, want string
		synctest.Test(t, func(t *testing.T) {
			got = livedThrough(newWorld(t), config, h, failEvery)
		})
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.start(config, h.end()...).stop()
			want = w.state()
		})
		if got != want {
			rt.Fatalf("lived through:\n%s\nseen the end only:\n%s", got, want)
		}
	})
}

// livedThrough is the state after a history, in which every nth change of the
// kernel fails until it is over; then there is time to retry.
func livedThrough(w *world, config Config, h history, failEvery int) string {
	var count atomic.Int64
	fail := func() error {
		if failEvery > 0 && count.Add(1)%int64(failEvery) == 0 {
			return syscall.ENOMEM
		}
		return nil
	}
	r := w.start(config, set(n1))
	w.fail(failures{
		ipvs:   func(ipvs.Change) error { return fail() },
		routes: func(route.Key) error { return fail() },
		sets:   func(ipset.Change) error { return fail() },
	})
	for _, e := range h.events {
		r.happen(e)
	}
	w.fail(failures{})
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	defer r.stop()
	if p := r.pending(); p != "" {
		return "pending: " + p
	}
	return w.state()
}
