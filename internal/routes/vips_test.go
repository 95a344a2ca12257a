package routes

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// vipsOn are the flags that tell everything.
func vipsOn() VIPs {
	return VIPs{
		Watch: true, ClusterIPs: true, ExternalIPs: true, LoadBalancerIPs: true,
		ClusterIPRanges:  []netip.Prefix{prefix("10.96.0.0/12")},
		ExternalIPRanges: []netip.Prefix{prefix("203.0.113.0/24")}, LoadBalancerIPRanges: []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8::/64")},
	}
}

// service is a Service as the tests write it:
// "web cluster=10.96.0.1 external=203.0.113.1 lb=198.51.100.1 local note=value".
func service(text string) *cluster.Service {
	fields := strings.Fields(text)
	s := &cluster.Service{Annotations: map[string]string{}}
	s.Key = cluster.Key{Namespace: "shop", Name: fields[0]}
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		if f == "local" {
			s.ExternalLocal = true
			continue
		}
		switch key {
		case "cluster":
			s.ClusterIPs = append(s.ClusterIPs, addr(value))
		case "external":
			s.ExternalIPs = append(s.ExternalIPs, addr(value))
		case "lb":
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, addr(value))
		case "internal-local":
			s.InternalLocal = true
		default:
			s.Annotations["kube-router.io/service."+key] = value
		}
	}
	return s
}

// slice is an EndpointSlice of a Service: "web-1 10.244.1.2@n1
// 10.244.2.2@n2/terminating".
func slice(service, text string) *cluster.EndpointSlice {
	fields := strings.Fields(text)
	s := &cluster.EndpointSlice{Service: cluster.Key{Namespace: "shop", Name: service}}
	s.Key = cluster.Key{Namespace: "shop", Name: fields[0]}
	for _, f := range fields[1:] {
		where, state, _ := strings.Cut(f, "/")
		ip, node, _ := strings.Cut(where, "@")
		s.Endpoints = append(s.Endpoints, cluster.Endpoint{
			Addr: addr(ip), Node: node, Ready: state == "" || state == "unready-terminating", Serving: state != "unready",
			Terminating: strings.Contains(state, "terminating"),
		})
	}
	return s
}

// Which addresses are told, from node n1.
func TestWhichAddressesAreTold(t *testing.T) {
	const all = "cluster=10.96.0.1 external=203.0.113.1 lb=198.51.100.1"
	off := func(v *VIPs) { v.ClusterIPs, v.ExternalIPs, v.LoadBalancerIPs = false, false, false }
	for _, tc := range []struct {
		name      string
		change    func(*VIPs)
		service   string
		endpoints string // of one slice
		want      string
		problems  string
	}{
		{"all that there is", nil, "web " + all, "", "10.96.0.1 198.51.100.1 203.0.113.1", ""},
		{"nothing by itself", off, "web " + all, "", "", ""},
		{"one kind by its flag", func(v *VIPs) { off(v); v.ExternalIPs = true }, "web " + all, "", "203.0.113.1", ""},
		{"one kind by an annotation", off, "web advertise.loadbalancerip=true " + all, "", "198.51.100.1", ""},
		{"an annotation takes it back", nil, "web advertise.clusterip=false " + all, "", "198.51.100.1 203.0.113.1", ""},
		{"an annotation that is neither", nil, "web advertise.clusterip=maybe " + all, "", "10.96.0.1 198.51.100.1 203.0.113.1",
			`annotation kube-router.io/service.advertise.clusterip: "maybe" is neither true nor false; the flag holds, which says true`},
		{"Local without an endpoint", nil, "web local " + all, "", "", ""},
		{"Local with one elsewhere", nil, "web local " + all, "10.244.2.2@n2", "", ""},
		{"Local with one here", nil, "web local " + all, "10.244.1.2@n1", "10.96.0.1 198.51.100.1 203.0.113.1", ""},
		{"Local with one here that is not ready", nil, "web local " + all, "10.244.1.2@n1/unready", "", ""},
		{"Local with one here that leaves", nil, "web local " + all, "10.244.1.2@n1/terminating", "", ""},
		{"and counts as ready although it leaves", nil, "web local " + all, "10.244.1.2@n1/unready-terminating", "", ""},
		{"Local with an endpoint of one family", nil, "web local lb=198.51.100.1 lb=2001:db8::1", "10.244.1.2@n1", "198.51.100.1", ""},
		{"only the internal policy is Local", nil, "web internal-local " + all, "", "198.51.100.1 203.0.113.1", ""},
		{"the annotation for Local", nil, "web local=true " + all, "", "", ""},
		{"it makes only the external policy Local", nil, "web internal-local local=true " + all, "10.244.1.2@n1", "10.96.0.1 198.51.100.1 203.0.113.1", ""},
		{"load balancer IPs that are not served", nil, "web skiplbips=true " + all, "", "10.96.0.1 203.0.113.1", ""},
		{"what the service proxy refuses", nil, "web external=8.8.8.8 lb=203.0.113.9 external=10.96.0.9", "", "", ""},
		{"without the check of ranges", func(v *VIPs) { v.AnyIP = true }, "web external=8.8.8.8 external=10.96.0.9", "", "8.8.8.8", ""},
		{"what is left to others", func(v *VIPs) {
			v.ExcludedCIDRs = []netip.Prefix{prefix("10.96.0.1/32"), prefix("203.0.113.0/28"), prefix("198.51.100.0/24")}
		}, "web external=203.0.113.16 " + all, "", "203.0.113.16", ""},
		{"in a range of cluster IPs that is a guess", func(v *VIPs) { v.AnyIP, v.Guessed = true, true }, "web external=10.96.0.9", "", "10.96.0.9", ""},
		{"no address of this host, nor of a link", func(v *VIPs) { v.AnyIP = true }, "web external=192.168.66.11 external=169.254.1.1 external=127.0.0.1 external=224.0.0.1", "", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := vipsOn()
			if tc.change != nil {
				tc.change(&v)
			}
			svc := service(tc.service)
			here := place{families: []inet.Family{inet.IPv4, inet.IPv6}, addrs: []netip.Addr{addr("192.168.66.11")}}
			told, problems := v.vips(svc, localFamilies(slice("web", "web-1 "+tc.endpoints), "n1"), here)
			var got []string
			for a := range told {
				got = append(got, a.String())
			}
			slices.Sort(got)
			if strings.Join(got, " ") != tc.want || strings.Join(problems, "; ") != tc.problems {
				t.Errorf("told %v with problems %q, want %s", got, problems, tc.want)
			}
			if v.mayTell(svc) == false && len(got) > 0 {
				t.Error("mayTell denies it")
			}
		})
	}
}

// told waits for what external peers are told, a line each.
func (r *run) told(want ...string) {
	r.t.Helper()
	text := strings.Join(want, "\n")
	r.until("told is\n"+text, func() bool {
		s := r.host.speaker()
		if s == nil {
			return false
		}
		var got []string
		for line := range strings.Lines(s.String()) {
			if fields := strings.Fields(line); fields[0] == "advertise" {
				got = append(got, fmt.Sprintf("%s via %s to %d", fields[1], fields[3], s.Audience(prefix(fields[1]))))
			}
		}
		return strings.Join(got, "\n") == text
	})
}

const (
	nodesAndRouters = "10.244.1.0/24 via 192.168.66.11 to 3"
	web             = "203.0.113.1/32 via 192.168.66.11 to 2"
)

func withVIPs(change func(*VIPs)) func(*Config) {
	return func(c *Config) {
		c.VIPs = vipsOn()
		if change != nil {
			change(&c.VIPs)
		}
	}
}

// addLink adds a link and waits until the controller follows it: an agent that
// has just started may not watch yet.
func (r *run) addLink(name, network string) {
	r.t.Helper()
	r.host.links.AddLink(name, 1500, prefix(network))
	before := r.rounds.Load()
	r.until("a round of work", func() bool {
		r.host.routes.AddLink(name, prefix(network))
		return r.rounds.Load() > before
	})
}

func (r *run) serve(s *cluster.Service)           { r.feeds.Services.Set(s.Key, s) }
func (r *run) endpoints(s *cluster.EndpointSlice) { r.feeds.EndpointSlices.Set(s.Key, s) }

// The address of a Service with the policy Local follows the endpoints, and is
// withdrawn when the last one begins to terminate: before it is gone.
func TestAddressesOfServicesFollowTheirEndpoints(t *testing.T) {
	h := newHost(t)
	r := h.start(withVIPs(nil), nodes(1, 2))
	r.told(nodesAndRouters)
	r.serve(service("web local external=203.0.113.1"))
	r.endpoints(slice("web", "web-1 10.244.2.2@n2"))
	r.settled("sweep")
	r.told(nodesAndRouters)
	r.endpoints(slice("web", "web-1 10.244.2.2@n2 10.244.1.2@n1"))
	r.told(nodesAndRouters, web)
	r.endpoints(slice("web", "web-2 10.244.1.3@n1"))
	r.endpoints(slice("web", "web-1 10.244.2.2@n2 10.244.1.2@n1/terminating"))
	r.settled("sweep")
	r.told(nodesAndRouters, web)
	r.endpoints(slice("web", "web-2 10.244.1.3@n1/terminating"))
	r.told(nodesAndRouters)
	r.serve(service("web external=203.0.113.1"))
	r.told(nodesAndRouters, web)
	r.serve(service("web external=203.0.113.1 advertise.externalip=false"))
	r.told(nodesAndRouters)

	// An address of two Services goes with the last of them.
	r.serve(service("web external=203.0.113.1"))
	r.serve(service("api external=203.0.113.1"))
	r.told(nodesAndRouters, web)
	r.feeds.Services.Delete(service("web").Key)
	r.settled("sweep")
	r.told(nodesAndRouters, web)
	r.serve(service("api external=203.0.113.1 advertise.externalip=perhaps"))
	r.until("the annotation is reported", func() bool { return r.warns.warned("Service shop/api BadAnnotation", "perhaps") })
	r.feeds.Services.Delete(service("api").Key)
	r.told(nodesAndRouters)

	// One that a node has, or this host, is never told.
	r.serve(service("api external=203.0.113.1 external=203.0.113.2"))
	r.told(nodesAndRouters, web, "203.0.113.2/32 via 192.168.66.11 to 2")
	r.addLink("eth1", "203.0.113.2/24")
	r.told(nodesAndRouters, web)
	r.set(nodeOf("n9", "203.0.113.1"))
	r.told(nodesAndRouters)
}

// Endpoints of other nodes, and Services that tell nothing, cost nothing.
func TestWhatConcernsNobodyIsNoWork(t *testing.T) {
	v := vipsOn()
	v.ClusterIPs, v.ExternalIPs, v.LoadBalancerIPs = false, false, false
	s := newVIPState("n1")
	note := func(old, now *cluster.Service) bool {
		dirty, _ := s.service(cluster.Change[cluster.Service]{Old: old, New: now}, v)
		return dirty
	}
	if note(nil, service("web cluster=10.96.0.1")) || len(s.services) != 0 || len(s.owned) != 0 {
		t.Error("a Service that tells nothing is kept")
	}
	if !note(nil, service("web cluster=10.96.0.1 advertise.clusterip=true")) {
		t.Error("one that does is not")
	}
	clear(s.dirty)
	near, far := slice("web", "web-1 10.244.1.2@n1"), slice("web", "web-1 10.244.2.2@n2")
	for i, step := range []struct {
		old, now *cluster.EndpointSlice
		dirty    bool
	}{
		{nil, far, false}, {far, near, true}, {near, slice("web", "web-1 10.244.1.2@n1 10.244.2.2@n2"), false},
		{near, far, true}, {far, nil, false}, {nil, near, true}, {near, slice("api", "web-1 10.244.1.2@n1"), true}, {nil, near, true}, {near, nil, true},
	} {
		if got := s.slice(cluster.Change[cluster.EndpointSlice]{Old: step.old, New: step.now}); got != step.dirty {
			t.Errorf("step %d: dirty %t", i, got)
		}
	}
	s.slice(cluster.Change[cluster.EndpointSlice]{Old: slice("api", "web-1 10.244.1.2@n1")})
	if len(s.local) != 0 {
		t.Errorf("slices are left: %v", s.local)
	}
	if !note(service("web"), service("web cluster=10.96.0.1")) || len(s.services) != 0 || len(s.owned) != 0 {
		t.Error("a Service that tells nothing any more is kept")
	}
}

// Whatever happened before, what is told is what the present Services tell.
func TestHistoryOfServicesDoesNotMatter(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		s, fresh := newVIPState("n1"), map[netip.Addr]map[cluster.Key]bool{}
		told := map[cluster.Key]map[netip.Addr]bool{}
		for range 30 {
			key := cluster.Key{Name: fmt.Sprint(random.IntN(4))}
			list := map[netip.Addr]bool{}
			for range random.IntN(3) {
				list[addr(fmt.Sprintf("10.96.0.%d", random.IntN(3)))] = random.IntN(2) == 0
			}
			told[key] = list
			before := maps.Clone(s.prefixes(nil))
			ranges := []netip.Prefix{prefix("10.96.0.0/16")}
			wide := s.prefixes(ranges)
			changed := s.set(key, list)
			if !changed && (!maps.Equal(before, s.prefixes(nil)) || !maps.Equal(wide, s.prefixes(ranges))) {
				t.Fatalf("seed %d: a change was not told", seed)
			}
		}
		for key, list := range told {
			for a, local := range list {
				if fresh[a] == nil {
					fresh[a] = map[cluster.Key]bool{}
				}
				fresh[a][key] = local
			}
		}
		if d := cmp.Diff(fresh, s.claims, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, d)
		}
	}
}

// A node that starts does not draw traffic before it can serve it; one that
// restarts never stopped.
func TestNothingIsToldBeforeItIsServed(t *testing.T) {
	h := newHost(t)
	served := make(chan struct{})
	late := func(f *cluster.Feeds) {
		nodes(1)(f)
		s := service("web external=203.0.113.1")
		f.Services.Set(s.Key, s)
	}
	r := h.start(withVIPs(func(v *VIPs) { v.Served = served }), late)
	r.told(nodesAndRouters)
	r.settled()
	r.told(nodesAndRouters)
	close(served)
	r.told(nodesAndRouters, web)
	r.end()

	// One node alone has learned nothing, and has no routes to tell of a restart.
	r = h.start(withVIPs(func(v *VIPs) { v.Served = make(chan struct{}) }), late)
	r.until("the peers are told of the restart", func() bool { return h.speaker().Config().Restarting })
	r.told(nodesAndRouters, web)
	r.end() // with a channel that nobody closes
}

// Two nodes with one Pod CIDR: the older one has it, and both are told.
func TestAPodCIDRIsToldByOneNode(t *testing.T) {
	h := newHost(t)
	r := h.start(nil, nodes(1, 2))
	r.told(nodesAndRouters)
	twin := nodeOf("n0", "192.168.66.10", "10.244.1.0/24")
	r.set(twin)
	r.told()
	r.until("both are told", func() bool {
		return r.warns.warned("Node n1 SamePodCIDR: nodes n0 and n1 have the same Pod CIDR") && r.warns.warned("Node n0 SamePodCIDR")
	})
	r.set(nodeOf("n0", "192.168.66.10", "10.244.0.0/24"))
	r.told(nodesAndRouters)
	if a := h.speaker().Audience(prefix("10.244.1.0/24")); a != bgp.ToNodes|bgp.ToExternal {
		t.Errorf("audience %d", a)
	}

	h2 := newHost(t)
	r2 := h2.start(func(c *Config) { c.PodCIDRs = false }, nodes(1))
	r2.told("10.244.1.0/24 via 192.168.66.11 to 1")
	if h2.routes.Text(route.Main) != "" {
		t.Error("there are routes")
	}
}
