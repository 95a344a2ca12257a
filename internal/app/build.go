package app

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/cluster/watch"
	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/health"
	"github.com/kube-router/kube-router/internal/healthcheck"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/lbipam"
	"github.com/kube-router/kube-router/internal/policy"
	"github.com/kube-router/kube-router/internal/reconcile"
	"github.com/kube-router/kube-router/internal/routes"
	"github.com/kube-router/kube-router/internal/services"
)

// controller is what the app needs of each of them.
type controller interface {
	// Run programs the kernel and follows the cluster until ctx ends.
	Run(ctx context.Context) error
	// Ready is closed when everything was programmed once.
	Ready() <-chan struct{}
	// Progress and Work tell how far it is, without waiting for it.
	Progress() reconcile.Progress
	Work() []reconcile.Work
	// Counts are its objects, desired and in the kernel.
	Counts() []reconcile.Count
}

// part is a controller with its name.
type part struct {
	name string
	controller
}

// openClient prepares the connection to the API server.
func (a *agent) openClient() (*watch.Client, error) {
	return watch.Open(watch.Options{
		Kubeconfig: a.cfg.Kubeconfig, Master: a.cfg.Master, NodeName: a.cfg.NodeName,
		UserAgent: "kube-router/" + a.version, Log: a.log,
	})
}

// build makes the enabled controllers. Each subscribes to what it needs, so
// only the watches of the enabled ones are opened.
func (a *agent) build(d drivers, client *watch.Client) {
	var services, policies []part
	var served, isolated <-chan struct{}
	if a.cfg.RunServiceProxy {
		services = []part{a.services(d, client)}
		served = services[0].controller.Ready()
	}
	if a.cfg.RunFirewall {
		policies = []part{a.policy(d)}
		isolated = policies[0].controller.Ready()
	}
	if a.cfg.RunRouter {
		a.parts = append(a.parts, a.routes(d, client, served, isolated))
	}
	a.parts = slices.Concat(a.parts, services, policies)
	if a.cfg.RunLoadBalancer {
		a.parts = append(a.parts, a.loadBalancer(client))
	}
	a.advise(d, client.Events())
	for _, p := range a.parts {
		a.metrics.AddObjects(p.name, p.Counts)
		a.metrics.AddPending(p.name, p.Work)
		a.metrics.AddReady(p.name, p.ready)
	}
}

// synced is what a controller tells after each round of changes.
func (a *agent) synced(name string) func(time.Duration) {
	return func(took time.Duration) { a.metrics.ObserveSync(name, took) }
}

// routes makes the routes controller. served is closed when the service proxy
// serves, isolated when policies are in force; nil where nobody is to do that.
func (a *agent) routes(d drivers, client *watch.Client, served, isolated <-chan struct{}) part {
	cfg := a.cfg
	c := routes.New(routes.Config{
		NodeName: cfg.NodeName, Families: cfg.Families(), Peering: peeringConfig(cfg), Linger: linger, SettleTime: settleTime,
		PodCIDRs: cfg.BGP.Advertise.PodCIDRs, VIPs: vipConfig(cfg, served), Predecessors: predecessors,
		GracefulRestart: cfg.BGP.GracefulRestart, RestartTime: cfg.BGP.GracefulRestartTime,
		AdminAddr: cfg.BGP.AdminAddress, PodEgress: cfg.CNI.PodEgress, EnableCNI: cfg.CNI.Enabled,
		CNIFile: cfg.CNI.File, Policies: isolated, Hairpin: cfg.Services.HairpinMode, AutoMTU: cfg.CNI.AutoMTU,
		EgressExcluded: cfg.CNI.EgressExcluded, Overlay: overlayConfig(cfg), SyncPeriod: cfg.RoutesSyncPeriod,
		Synced: a.synced(routesName), Landed: a.metrics.LandingObserver(routesName),
	}, a.feeds, routes.Drivers{
		Speak: routes.SpeakBGP, Routes: d.routes, Links: d.links, Sysctl: d.sysctl,
		Modules: module.Load, Sets: d.sets, Rules: d.rules,
	}, client.Events(), a.log)
	a.metrics.AddBGPSessions(func() map[string]bool {
		up := map[string]bool{}
		for _, peer := range c.Status().Peers {
			up[peer.Addr.String()] = peer.Established()
		}
		return up
	})
	a.metrics.AddRepairs(routesName, func() uint64 { return c.Status().Repairs })
	a.router = c
	return part{routesName, c}
}

func (a *agent) services(d drivers, client *watch.Client) part {
	cfg := a.cfg
	c := services.New(services.Config{
		NodeName: cfg.NodeName, Families: cfg.Families(), Scheduler: cfg.Services.Scheduler,
		Hairpin: cfg.Services.HairpinMode, MasqueradeAll: cfg.Services.MasqueradeAll,
		ServiceRanges: cfg.Services.KnownRanges(), NodePorts: services.PortRange(cfg.Services.NodePorts),
		ExternalIPRanges: cfg.Services.ExternalIPRanges, LoadBalancerIPRanges: cfg.Services.LoadBalancerIPRanges,
		AnyIP: cfg.Services.AnyIP, RejectUnassigned: cfg.Services.RejectUnassigned, Guard: cfg.Services.Guard,
		NodePortsEverywhere: cfg.Services.NodePortsEverywhere, DSR: cfg.Services.DSR,
		Predecessors: predecessors, GracePeriod: cfg.Services.GracePeriod, ExcludedCIDRs: cfg.Services.ExcludedCIDRs,
		TCPTimeout: cfg.Services.TCPTimeout, TCPFinTimeout: cfg.Services.TCPFinTimeout, UDPTimeout: cfg.Services.UDPTimeout,
		SyncPeriod: cfg.IPVSSyncPeriod, Synced: a.synced(servicesName), Landed: a.metrics.LandingObserver(servicesName),
	}, a.feeds, services.Drivers{
		OpenIPVS: a.openIPVS, Routes: d.routes, Links: d.links, Sets: d.sets, Rules: d.rules, Sysctl: d.sysctl, Modules: module.Load,
		Flows: d.flows, Health: healthcheck.New(a.log, client.Events(), cfg.Families()),
	}, client.Events(), a.log)
	a.metrics.AddIPVSConnections(ipvs.Connections)
	a.metrics.AddRepairs(servicesName, func() uint64 { return c.Status().Repairs })
	a.metrics.AddServiceProxy(func() (bool, int) {
		s := c.Status()
		return s.IPVS, s.VirtualServers
	})
	a.proxy = c
	return part{servicesName, c}
}

// openIPVS is ipvs.Open, with a record of what is changed.
func (a *agent) openIPVS() (ipvs.Interface, error) {
	k, err := ipvs.Open()
	if err != nil {
		return nil, err
	}
	return ipvs.Recording{Interface: k, Record: a.before}, nil
}

func (a *agent) policy(d drivers) part {
	cfg := a.cfg
	ranges, external, nodePorts := untold(cfg)
	c := policy.New(policy.Config{
		NodeName: cfg.NodeName, Families: cfg.Families(),
		ServiceRanges: ranges, ExternalRanges: external, NodePorts: nodePorts,
		NewPods:    map[config.NewPods]policy.NewPods{config.NewPodsClosed: policy.Closed, config.NewPodsOpen: policy.Open}[cfg.Policy.NewPods],
		SyncPeriod: cfg.IPTablesSyncPeriod, Synced: a.synced(policyName), Landed: a.metrics.LandingObserver(policyName),
		CutFlows: cfg.Policy.CutFlows, CountDrops: cfg.MetricsAddress != "", Bridges: podBridges(cfg),
	}, a.feeds, policy.Drivers{
		Sets: d.sets, Rules: d.rules, Sysctl: d.sysctl, Modules: module.Load, Flows: d.flows,
		Bridges:   func() ([]link.Bridge, error) { return d.links.Bridges() },
		HostAddrs: func() ([]netip.Addr, error) { return hostAddrs(d.links) },
	}, a.log)
	a.metrics.AddPolicyDrops(func(ctx context.Context) (health.Drops, error) {
		drops, err := c.Drops(ctx)
		return health.Drops{Policies: policyDrops(drops), NewPods: drops.NewPods, Strays: drops.Strays}, err
	})
	a.metrics.AddRepairs(policyName, func() uint64 { return c.Status().Repairs })
	if cfg.Policy.CutFlows {
		a.metrics.AddFlowsCut(c.FlowsCut)
	}
	a.metrics.AddRuleCount(func() int {
		count := 0
		for _, rules := range d.rules {
			count += rules.RuleCount(policy.RulesOwner)[iptables.Filter]
		}
		return count
	})
	a.firewall = c
	return part{policyName, c}
}

// untold are the addresses and node ports that policies have to let pass, as
// nobody can tell which of them a Service has: none where our own proxy accepts
// what it serves, in rules before those of policies.
func untold(cfg config.Config) (clusterIPs, others []netip.Prefix, nodePorts policy.PortRange) {
	if cfg.RunServiceProxy && cfg.Services.Guard {
		return nil, nil, policy.PortRange{}
	}
	return cfg.Services.ClusterIPRanges, slices.Concat(cfg.Services.ExternalIPRanges, cfg.Services.LoadBalancerIPRanges),
		policy.PortRange(cfg.Services.NodePorts)
}

// podBridges are the bridges that this node's Pods will be on, as far as that is
// known before there is one.
func podBridges(cfg config.Config) []string {
	if cfg.RunRouter && cfg.CNI.Enabled {
		return []string{routes.Bridge}
	}
	return nil
}

// hostAddrs are the addresses of the host.
func hostAddrs(links link.Interface) ([]netip.Addr, error) {
	list, err := links.Addrs()
	addrs := make([]netip.Addr, len(list))
	for i, a := range list {
		addrs[i] = a.Prefix.Addr()
	}
	return addrs, err
}

func policyDrops(drops policy.Drops) []health.PolicyDrops {
	list := make([]health.PolicyDrops, 0, len(drops.Policies))
	for d, packets := range drops.Policies {
		list = append(list, health.PolicyDrops{Namespace: d.Policy.Namespace, Policy: d.Policy.Name, Direction: d.Direction, Packets: packets})
	}
	return list
}

func (a *agent) loadBalancer(client *watch.Client) part {
	cfg := a.cfg
	c := lbipam.New(lbipam.Config{
		Ranges: cfg.Services.LoadBalancerIPRanges, DefaultClass: cfg.LoadBalancer.DefaultClass,
		Namespace: cfg.LoadBalancer.Namespace, Identity: cfg.LoadBalancer.Identity,
		SyncPeriod: cfg.LoadBalancer.SyncPeriod, Synced: a.synced(loadBalancerName),
	}, a.feeds, client, client.Events(), a.log)
	a.balancer = c
	return part{loadBalancerName, c}
}
