package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/advice"
	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/nft"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/reconcile"
	"github.com/kube-router/kube-router/internal/services"
)

var (
	addr     = netip.MustParseAddr
	prefix   = netip.MustParsePrefix
	addrPort = netip.MustParseAddrPort
)

// signs are those of a kube-proxy that runs.
type signs []string

func (s signs) Running(context.Context) []string { return s }

// node is a world in which mistakes can be made: kernel, peers and Services.
type node struct {
	*sights
	feeds *cluster.Feeds
	// The kernel.
	rules  *iptables.Fake
	flows  *conntrack.Fake
	links  *link.Fake
	nft    *nft.Fake
	routes []route.Foreign
	// What controllers know.
	learned map[netip.Prefix][]netip.Addr
	peers   []bgp.PeerState
	work    []reconcile.Work
	log     bytes.Buffer
}

// newNode is a node of a cluster of two on which all is right.
func newNode(t *testing.T, flags ...string) *node {
	t.Helper()
	a := testAgent(t, append([]string{"--bgp-graceful-restart"}, flags...)...)
	n := &node{
		feeds: a.feeds, rules: iptables.NewFake(), flows: conntrack.NewFake(), links: link.NewFake(), nft: &nft.Fake{},
		learned: map[netip.Prefix][]netip.Addr{prefix("10.244.2.0/24"): {addr("10.0.0.2")}},
		routes:  []route.Foreign{{Dst: prefix("0.0.0.0/0"), Link: "eth0"}, {Dst: prefix("10.244.1.0/24"), Link: "kube-bridge"}, {Dst: prefix("10.0.0.0/24"), Link: "eth0"}},
	}
	proxy := services.New(services.Config{NodeName: "node1", Families: []inet.Family{inet.IPv4}, DSR: a.cfg.Services.DSR, Hairpin: a.cfg.Services.HairpinMode},
		a.feeds, services.Drivers{}, nil, a.log)
	n.sights = &sights{
		cfg: a.cfg, nodes: watchNodes(a.feeds),
		log:     slog.New(slog.NewTextHandler(&n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		learned: func() map[netip.Prefix][]netip.Addr { return n.learned },
		peers:   func() []bgp.PeerState { return n.peers },
		foreign: func() ([]route.Foreign, error) { return n.routes, nil },
		nat:     func(ctx context.Context, _ inet.Family) (string, error) { return n.rules.Save(ctx, iptables.NAT) },
		flows: func(f inet.Family, fn func(conntrack.Entry)) error {
			_, err := n.flows.Mark(f, 0, func(e conntrack.Entry) bool { fn(e); return false })
			return err
		},
		addrs: n.links.Addrs, tables: n.nft.Tables, kubeProxy: signs{},
		proxy:        func() ([]reconcile.Work, bool) { return n.work, len(n.work) == 0 },
		directMisuse: proxy.DirectMisuse,
	}
	n.addNode(1)
	n.addNode(2)
	return n
}

func (n *node) addNode(i int) {
	name := fmt.Sprintf("node%d", i)
	n.feeds.Nodes.Set(cluster.Key{Name: name}, &cluster.Node{
		Meta:        cluster.Meta{Key: cluster.Key{Name: name}},
		InternalIPs: []netip.Addr{addr(fmt.Sprintf("10.0.0.%d", i))}, PodCIDRs: []netip.Prefix{prefix(fmt.Sprintf("10.244.%d.0/24", i))},
	})
}

func (n *node) addService(s *cluster.Service) { n.feeds.Services.Set(s.Key, s) }

// reasons are what the advice is about.
func (n *node) reasons(t *testing.T) string {
	var reasons []string
	for _, a := range advice.Check(n.facts(t.Context())) {
		reasons = append(reasons, a.Reason)
	}
	return strings.Join(reasons, " ")
}

// web is a Service with a node port.
func web(annotations ...string) *cluster.Service {
	s := &cluster.Service{Meta: cluster.Meta{Key: cluster.Key{Namespace: "default", Name: "web"}},
		Ports: []cluster.ServicePort{{Protocol: inet.TCP, Port: 80, NodePort: 30080}}, Annotations: map[string]string{}}
	for _, a := range annotations {
		key, value, _ := strings.Cut(a, "=")
		s.Annotations["kube-router.io/"+key] = value
	}
	return s
}

// flow is an entry as conntrack -L has it: from, to, reply from, reply to.
func flow(addrs string) conntrack.Entry {
	f := strings.Fields(addrs)
	return conntrack.Entry{Protocol: inet.TCP, From: addrPort(f[0]), To: addrPort(f[1]), ReplyFrom: addrPort(f[2]), ReplyTo: addrPort(f[3])}
}

// The eight mistakes of the table, each made, and what is near it and right.
func TestMistakes(t *testing.T) {
	runs := func(_ *testing.T, n *node) { n.kubeProxy = signs{"http://127.0.0.1:10249/proxyMode answers"} }
	restore := func(rules string) func(*testing.T, *node) {
		return func(t *testing.T, n *node) {
			if err := n.rules.Restore(t.Context(), "*nat\n"+rules+"COMMIT\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	add := func(entry string) func(*testing.T, *node) {
		return func(t *testing.T, n *node) {
			if err := n.flows.Add(flow(entry)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name string
		args string
		make func(*testing.T, *node)
		want string
	}{
		{"all is right", "", nil, ""},

		{"kube-proxy runs", "", runs, "KubeProxyRunning"},
		{"kube-proxy runs, and is to", "--run-service-proxy=false", runs, ""},
		{"kube-proxy left rules", "", restore(":KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j RETURN\n"), "KubeProxyRulesLeft"},
		{"the kubelet has a chain", "", restore(":KUBE-KUBELET-CANARY - [0:0]\n"), ""},
		{"kube-proxy left its link", "", func(_ *testing.T, n *node) { n.links.AddLink("kube-ipvs0", 1500, prefix("10.96.0.1/32")) }, "KubeProxyRulesLeft"},

		{"kube-proxy left its tables", "", func(_ *testing.T, n *node) {
			n.nft.All = []nft.Table{{Family: "inet", Name: "mine"}, {Family: "ip6", Name: "kube-proxy"}}
		}, "KubeProxyRulesLeft"},
		{"another table", "", func(_ *testing.T, n *node) { n.nft.All = []nft.Table{{Family: "inet", Name: "kube-proxy"}} }, ""},

		{"full mesh of 51", "", func(_ *testing.T, n *node) {
			for i := 3; i <= 51; i++ {
				n.addNode(i)
			}
		}, "FullMeshTooLarge"},
		{"reflectors for 51", "--nodes-full-mesh=false", func(_ *testing.T, n *node) {
			for i := 3; i <= 51; i++ {
				n.addNode(i)
			}
		}, ""},

		{"direct return of a Service with node ports", "", func(_ *testing.T, n *node) { n.addService(web("service.dsr=tunnel")) }, "DirectReturnNodePort"},
		{"direct return of all", "--service-proxy-dsr", func(_ *testing.T, n *node) { n.addService(web()) }, "DirectReturnNodePort"},
		{"direct return of all but it", "--service-proxy-dsr", func(_ *testing.T, n *node) { n.addService(web("service.dsr=none")) }, ""},
		{"direct return and hairpin", "--hairpin-mode", func(_ *testing.T, n *node) { n.addService(web("service.dsr=tunnel")) }, "DirectReturnNodePort DirectReturnHairpin"},

		{"no graceful restart", "--bgp-graceful-restart=false", nil, "GracefulRestartOff"},

		{"Calico's routes", "", func(_ *testing.T, n *node) {
			n.routes = append(n.routes, route.Foreign{Dst: prefix("10.244.2.0/26"), Link: "tunl0", Text: "10.244.2.0/26 via 10.0.0.2 dev tunl0 proto bird"})
		}, "ForeignRoutes"},
		{"Flannel's bridge", "", func(_ *testing.T, n *node) {
			n.routes = append(n.routes, route.Foreign{Dst: prefix("10.244.1.0/24"), Link: "cni0"})
		}, "ForeignRoutes"},
		{"a route to all pods at once", "", func(_ *testing.T, n *node) {
			n.routes = append(n.routes, route.Foreign{Dst: prefix("10.244.0.0/16"), Link: "eth0"})
		}, ""},

		{"no IPVS", "", func(_ *testing.T, n *node) {
			n.work = []reconcile.Work{{What: "ipvs", Err: fmt.Errorf("open: %w", ipvs.ErrUnavailable)}}
		}, "IPVSMissing"},
		{"no scheduler", "", func(_ *testing.T, n *node) {
			n.work = []reconcile.Work{{What: "service default/web", Err: fmt.Errorf("ipvsadm -A: %w wrr", ipvs.ErrNoScheduler)}}
		}, "IPVSMissing"},
		{"something else fails", "", func(_ *testing.T, n *node) { n.work = []reconcile.Work{{What: "iptables", Err: errors.New("locked")}} }, ""},

		{"another cluster's node speaks with us", "", func(_ *testing.T, n *node) {
			n.learned[prefix("10.250.1.0/24")] = []netip.Addr{addr("10.0.7.1")}
		}, "ClustersShareASN"},
		{"a router of AS 65000 speaks with us", "", func(_ *testing.T, n *node) {
			n.learned[prefix("172.16.0.0/12")] = []netip.Addr{addr("10.0.0.254")}
			n.peers = []bgp.PeerState{{Peer: bgp.Peer{Addr: addr("10.0.0.254"), ASN: 65000}}}
		}, ""},

		{"a pod calls itself", "", add("10.244.1.7:4000 10.96.0.7:80 10.244.1.7:8080 10.244.1.7:4000"), "HairpinMissing"},
		{"a pod calls another", "", add("10.244.1.7:4000 10.96.0.7:80 10.244.2.9:8080 10.244.1.7:4000"), ""},
		{"a pod calls itself by its own address", "", add("10.244.1.7:4000 10.244.1.7:80 10.244.1.7:80 10.244.1.7:4000"), ""},
		{"a pod calls itself, masqueraded", "", add("10.244.1.7:4000 10.96.0.7:80 10.244.1.7:8080 10.0.0.1:4000"), ""},
		{"a pod calls itself, with hairpin mode", "--hairpin-mode", add("10.244.1.7:4000 10.96.0.7:80 10.244.1.7:8080 10.244.1.7:4000"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, strings.Fields(c.args)...)
			if c.make != nil {
				c.make(t, n)
			}
			if got := n.reasons(t); got != c.want {
				t.Errorf("got %q, want %q\n%s", got, c.want, n.log.String())
			}
		})
	}
}

// What cannot be looked at is no mistake, and no noise.
func TestWhatCannotBeSeen(t *testing.T) {
	n := newNode(t)
	n.sights.foreign = func() ([]route.Foreign, error) { return nil, errors.New("no netlink") }
	n.sights.nat = func(context.Context, inet.Family) (string, error) { return "", errors.New("no iptables") }
	n.flows.FailWith(errors.New("no conntrack"))
	n.sights.tables = func(context.Context) ([]nft.Table, error) { return nil, errors.New("no nftables") }
	if got := n.reasons(t); got != "" {
		t.Errorf("got %q", got)
	}
	for _, what := range []string{"no netlink", "no iptables", "no nftables", "no conntrack"} {
		if !strings.Contains(n.log.String(), "level=DEBUG") || !strings.Contains(n.log.String(), what) {
			t.Errorf("the log has no %q:\n%s", what, n.log.String())
		}
	}
}

// The facts say what was seen, so that the message can.
func TestFactsSayWhatWasSeen(t *testing.T) {
	n := newNode(t)
	if err := n.flows.Add(flow("10.244.1.7:4000 10.96.0.7:80 10.244.1.7:8080 10.244.1.7:4000")); err != nil {
		t.Fatal(err)
	}
	got := n.facts(t.Context()).SelfCalls
	want := []advice.SelfCall{{Pod: addr("10.244.1.7"), Service: addrPort("10.96.0.7:80")}}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b advice.SelfCall) bool { return a == b })); d != "" {
		t.Error(d)
	}
}
