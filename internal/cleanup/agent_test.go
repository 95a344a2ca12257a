//go:build kernel || guest

package cleanup

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/former"
	"github.com/kube-router/kube-router/internal/healthcheck"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/kubeproxy"
	"github.com/kube-router/kube-router/internal/overlay"
	"github.com/kube-router/kube-router/internal/peering"
	"github.com/kube-router/kube-router/internal/policy"
	"github.com/kube-router/kube-router/internal/reconcile"
	"github.com/kube-router/kube-router/internal/routes"
	"github.com/kube-router/kube-router/internal/services"
)

// features are what an agent runs with.
type features struct {
	routes, services, policy bool
	// direct is direct server return.
	direct bool
	// encap is that of an overlay to all nodes, or empty.
	encap overlay.Encap
	// wants are lines that clean-up says.
	wants string
}

func (f features) name() string {
	var on []string
	for _, x := range []struct {
		is   bool
		name string
	}{{f.routes, "routes"}, {f.services, "services"}, {f.policy, "policy"}, {f.direct, "direct"}} {
		if x.is {
			on = append(on, x.name)
		}
	}
	return strings.TrimSpace(strings.Join(on, " ") + " " + string(f.encap))
}

// agent is the drivers of a run, as the app opens them.
type agent struct {
	n      *testNode
	log    *slog.Logger
	feeds  *cluster.Feeds
	record *record.File
	rules  map[inet.Family]*iptables.Ruleset
	sets   *ipset.Kernel
	routes *route.Kernel
	links  *link.Kernel
	flows  *conntrack.Kernel
	sysctl sysctl.Interface
	events reporter
}

type reporter struct{}

func (reporter) Warn(string, *cluster.Meta, string, string) {}

func (n *testNode) agent() *agent {
	n.t.Helper()
	a := &agent{n: n, log: slog.New(slog.NewTextHandler(n.t.Output(), nil)), feeds: cluster.NewFeeds(), record: n.record()}
	must := func(err error) {
		n.t.Helper()
		if err != nil {
			n.t.Fatal(err)
		}
	}
	a.rules = map[inet.Family]*iptables.Ruleset{}
	for _, f := range families {
		tables, err := iptables.Open(n.t.Context(), f, n.variant)
		must(err)
		a.rules[f] = iptables.NewRuleset(tables, f, a.log)
	}
	var err error
	a.sets, err = ipset.Open()
	must(err)
	a.routes, err = route.Open()
	must(err)
	a.routes.Ceding = []string{former.Link, kubeproxy.Link}
	a.links, err = link.Open()
	must(err)
	a.flows, err = conntrack.Open()
	must(err)
	a.links.Record = a.record
	a.sysctl = sysctl.Recording{Interface: sysctl.New(""), Record: a.record}
	return a
}

// run runs an agent until all is programmed, and stops it.
func (n *testNode) run(f features) {
	n.t.Helper()
	a := n.agent()
	ctx, cancel := context.WithCancel(context.Background())
	b := &background{cancel: cancel}
	defer b.stop()
	var waits []func()
	start := func(name string, c controller, pending func() []reconcile.Work) {
		b.start(n, ctx, c)
		waits = append(waits, func() {
			n.await(name, func() (bool, any) {
				select {
				case <-c.Ready():
					return len(pending()) == 0, pending()
				default:
					return false, pending()
				}
			})
		})
	}
	// Whom the cluster is told to must be there before it is told.
	var begin []func()
	if f.routes {
		c, speaker := a.routesController(f)
		begin = append(begin, func() {
			start("routes", c, func() []reconcile.Work { return c.Status().Pending })
			waits = append(waits, func() { n.learn(speaker, c) })
		})
	}
	if f.services {
		c, end := a.servicesController(f)
		defer end()
		begin = append(begin, func() { start("services", c, func() []reconcile.Work { return c.Status().Pending }) })
	}
	if f.policy {
		c := a.policyController()
		begin = append(begin, func() { start("policy", c, func() []reconcile.Work { return c.Status().Pending }) })
	}
	publishNodes(a.feeds)
	publishServices(a.feeds)
	publishPolicies(a.feeds)
	for _, fn := range begin {
		fn()
	}
	for _, wait := range waits {
		wait()
	}
}

func (a *agent) routesController(f features) (*routes.Controller, func() *bgp.Fake) {
	var mu sync.Mutex
	var speaker *bgp.Fake
	c := routes.New(routes.Config{
		NodeName: "n1", Families: families, PodCIDRs: true,
		Peering:   peering.Config{Families: families, ASN: 64512, Port: 179, Between: true, FullMesh: true},
		PodEgress: true, EnableCNI: true, CNIFile: a.n.cniFile(), Hairpin: true,
		AutoMTU: true, Overlay: overlay.Config{Enabled: f.encap != "", Full: true, Encap: f.encap, Port: 5555},
	}, a.feeds, routes.Drivers{
		Speak: func(c bgp.Config, _ *slog.Logger) (routes.Speaker, error) {
			mu.Lock()
			defer mu.Unlock()
			var err error
			speaker, err = bgp.StartFake(c)
			return speaker, err
		},
		Routes: a.routes, Links: a.links, Sysctl: a.sysctl, Modules: module.Load, Sets: a.sets, Rules: a.rules,
	}, a.events, a.log)
	return c, func() *bgp.Fake {
		mu.Lock()
		defer mu.Unlock()
		return speaker
	}
}

// learn has the other node send its Pod CIDRs.
func (n *testNode) learn(speaker func() *bgp.Fake, c *routes.Controller) {
	n.t.Helper()
	n2 := addrs("192.168.66.12", "fd00:66::12")
	speaker().Establish(n2[0])
	for i, p := range prefixes("10.244.2.0/24", "fd00:244:2::/64") {
		speaker().Deliver(n2[0], p, n2[i])
	}
	speaker().Settle(n2[0])
	n.await("routes", func() (bool, any) {
		s := c.Status()
		return s.Desired == 2 && s.Swept && len(s.Pending) == 0, s
	})
}

func (a *agent) servicesController(f features) (c *services.Controller, end func()) {
	health := healthcheck.New(a.log, a.events, families)
	c = services.New(services.Config{
		NodeName: "n1", Families: families, Hairpin: true, Guard: true, RejectUnassigned: true, DSR: f.direct,
		ServiceRanges:    prefixes("10.96.0.0/16", "fd00:96::/112"),
		ExternalIPRanges: prefixes("203.0.113.0/24"), ExcludedCIDRs: prefixes("10.96.9.0/24"),
		NodePorts: services.PortRange{First: 30000, Last: 32767}, TCPTimeout: 1200e9,
	}, a.feeds, services.Drivers{
		OpenIPVS: func() (ipvs.Interface, error) {
			k, err := ipvs.Open()
			if err != nil {
				return nil, err
			}
			return ipvs.Recording{Interface: k, Record: a.record}, nil
		},
		Routes: a.routes, Links: a.links, Sets: a.sets, Rules: a.rules, Sysctl: a.sysctl, Modules: module.Load,
		Flows: a.flows, Health: health,
	}, a.events, a.log)
	return c, health.Close
}

func (a *agent) policyController() *policy.Controller {
	return policy.New(policy.Config{
		NodeName: "n1", Families: families, ServiceRanges: prefixes("10.96.0.0/16", "fd00:96::/112"),
		NodePorts: policy.PortRange{First: 30000, Last: 32767}, NewPods: policy.Closed,
	}, a.feeds, policy.Drivers{Sets: a.sets, Rules: a.rules, Sysctl: a.sysctl, Modules: module.Load, Bridges: a.links.Bridges}, a.log)
}

func meta(namespace, name string) cluster.Meta {
	return cluster.Meta{Key: cluster.Key{Namespace: namespace, Name: name}}
}

func publishNodes(f *cluster.Feeds) {
	for _, node := range []*cluster.Node{
		{Meta: meta("", "n1"), InternalIPs: addrs("192.168.66.11", "fd00:66::11"), PodCIDRs: prefixes("10.244.1.0/24", "fd00:244:1::/64")},
		{Meta: meta("", "n2"), InternalIPs: addrs("192.168.66.12", "fd00:66::12"), PodCIDRs: prefixes("10.244.2.0/24", "fd00:244:2::/64")},
	} {
		f.Nodes.Set(node.Key, node)
	}
}

// publishServices has a Service of both families with a node port and external
// IPs, whose endpoints are on both nodes and so reached in different ways.
func publishServices(f *cluster.Feeds) {
	web := &cluster.Service{
		Meta: meta("default", "web"), ClusterIPs: addrs("10.96.0.10", "fd00:96::10"), ExternalIPs: addrs("203.0.113.9"), ExternalLocal: true,
		Ports: []cluster.ServicePort{{Protocol: inet.TCP, Port: 80, NodePort: 30080}, {Name: "dns", Protocol: inet.UDP, Port: 53, NodePort: 30053}},
	}
	f.Services.Set(web.Key, web)
	for name, ips := range map[string][]string{"web-4": {"10.244.1.2", "10.244.2.2"}, "web-6": {"fd00:244:1::2", "fd00:244:2::2"}} {
		s := &cluster.EndpointSlice{Meta: meta("default", name), Service: web.Key, Ports: []cluster.EndpointPort{
			{Protocol: inet.TCP, Port: 8080}, {Name: "dns", Protocol: inet.UDP, Port: 5353},
		}}
		for i, ip := range ips {
			s.Endpoints = append(s.Endpoints, cluster.Endpoint{Addr: addrs(ip)[0], Node: []string{"n1", "n2"}[i], Ready: true, Serving: true})
		}
		f.EndpointSlices.Set(s.Key, s)
	}
}

func publishPolicies(f *cluster.Feeds) {
	f.Namespaces.Set(cluster.Key{Name: "default"}, &cluster.Namespace{Meta: meta("", "default")})
	for _, pod := range []*cluster.Pod{
		{Meta: meta("default", "a"), Node: "n1", IPs: addrs("10.244.1.2", "fd00:244:1::2"), Labels: labels.Set{"app": "a"}},
		{Meta: meta("default", "b"), Node: "n2", IPs: addrs("10.244.2.2", "fd00:244:2::2"), Labels: labels.Set{"app": "b"}},
	} {
		f.Pods.Set(pod.Key, pod)
	}
	allow := []cluster.PolicyRule{{
		Peers: []cluster.PolicyPeer{
			{Pods: labels.SelectorFromSet(labels.Set{"app": "b"})},
			{Block: &cluster.IPBlock{CIDR: prefixes("192.0.2.0/24")[0], Except: prefixes("192.0.2.128/25")}},
		},
		Ports: []cluster.PolicyPort{{Protocol: inet.TCP, Port: 80, End: 80}},
	}}
	p := &cluster.NetworkPolicy{
		Meta: meta("default", "a"), Pods: labels.SelectorFromSet(labels.Set{"app": "a"}),
		IsolatesIngress: true, IsolatesEgress: true, Ingress: allow, Egress: allow,
	}
	f.NetworkPolicies.Set(p.Key, p)
}
