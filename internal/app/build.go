package app

import (
	"context"

	"github.com/kube-router/kube-router/internal/cluster/watch"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/policy"
	"github.com/kube-router/kube-router/internal/routes"
	"github.com/kube-router/kube-router/internal/services"
)

// openClient prepares the connection to the API server.
func (a *agent) openClient() (*watch.Client, error) {
	return watch.Open(watch.Options{
		Kubeconfig: a.cfg.Kubeconfig, Master: a.cfg.Master, NodeName: a.cfg.NodeName,
		UserAgent: "kube-router/" + a.version, Log: a.log,
	})
}

// build makes the enabled controllers. Each subscribes to what it needs, so
// only the watches of the enabled ones are opened.
func (a *agent) build(_ context.Context, d drivers, client *watch.Client) {
	cfg := a.cfg
	if cfg.RunRouter {
		c := routes.New(routes.Config{
			NodeName: cfg.NodeName, Families: cfg.Families(), ASN: cfg.BGP.ASN, FullMesh: cfg.BGP.NodesFullMesh,
			BGPPort: cfg.BGP.Port, RouterID: cfg.BGP.RouterID, GenerateRouterID: cfg.BGP.GenerateRouterID,
			GracefulRestart: cfg.BGP.GracefulRestart, RestartTime: cfg.BGP.GracefulRestartTime,
			AdminAddr: cfg.BGP.AdminAddress, PodEgress: cfg.CNI.PodEgress, EnableCNI: cfg.CNI.Enabled,
			CNIFile: cfg.CNI.File, Hairpin: cfg.Services.HairpinMode, SyncPeriod: cfg.RoutesSyncPeriod,
		}, a.feeds, routes.Drivers{
			Speak: routes.SpeakBGP, Routes: d.routes, Links: d.links, Sysctl: d.sysctl,
			Modules: module.Load, Sets: d.sets, Rules: d.rules,
		}, client.Events(), a.log)
		a.add(routesName, c)
	}
	if cfg.RunServiceProxy {
		c := services.New(services.Config{
			NodeName: cfg.NodeName, Families: cfg.Families(), Scheduler: cfg.Services.Scheduler,
			Hairpin: cfg.Services.HairpinMode, MasqueradeAll: cfg.Services.MasqueradeAll,
			ServiceRanges: cfg.Services.ClusterIPRanges, NodePorts: services.PortRange(cfg.Services.NodePorts),
			SyncPeriod: cfg.IPVSSyncPeriod,
		}, a.feeds, services.Drivers{
			OpenIPVS: openIPVS, Routes: d.routes, Sets: d.sets, Rules: d.rules, Sysctl: d.sysctl, Modules: module.Load,
		}, client.Events(), a.log)
		a.add(servicesName, c)
	}
	if cfg.RunFirewall {
		c := policy.New(policy.Config{
			Node: cfg.NodeName, Families: cfg.Families(), ServiceRanges: cfg.Services.ClusterIPRanges,
			FirstPort: cfg.Services.NodePorts.First, LastPort: cfg.Services.NodePorts.Last,
			SyncPeriod: cfg.IPTablesSyncPeriod,
		}, a.feeds, d.sets, d.rules, a.log)
		a.add(policyName, c)
	}
}

func (a *agent) add(name string, c controller) { a.controllers[name] = c }

// openIPVS is ipvs.Open without the typed nil that an error would come with.
func openIPVS() (ipvs.Interface, error) {
	k, err := ipvs.Open()
	if err != nil {
		return nil, err
	}
	return k, nil
}
