package app

import (
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/peering"
	"github.com/kube-router/kube-router/internal/routes"
)

// linger is how long a session between nodes outlives a change of the topology:
// a few times what a session takes to come up and deliver its table.
const linger = 20 * time.Second

// settleTime is for what reflectors hear from each other after a restart, and
// wait for before they pass it on (bgp.md, graceful restart).
const settleTime = 15 * time.Second

// peeringConfig is what the flags say of whom to speak BGP with. What peers say
// of the cluster's own Services is not taken.
func peeringConfig(cfg config.Config) peering.Config {
	b := cfg.BGP
	c := peering.Config{
		Families: cfg.Families(), ASN: b.ASN, Port: b.Port, Between: b.NodePeers, FullMesh: b.NodesFullMesh, Password: b.NodePassword,
		RouterID: b.RouterID, GenerateRouterID: b.GenerateRouterID, DeferralTime: b.DeferralTime,
		Routers: b.Routers, HoldTime: b.HoldTime, MultihopTTL: b.MultihopTTL, MaxPrefixes: b.MaxPrefixes, BFD: b.BFD, NextHopSelf: b.NextHopSelf,
	}
	if watchesServices(cfg) {
		s := cfg.Services
		// Single addresses of Services are refused in any case.
		c.Reject = slices.Concat(s.ExternalIPRanges, s.LoadBalancerIPRanges, s.KnownRanges())
	}
	return c
}

// vipConfig is what the flags say of Services' addresses. A range is answered
// for where IPVS serves, whose addresses the kernel finds before any route. Only
// our service proxy leaves addresses to others; without it they may be served.
func vipConfig(cfg config.Config, served <-chan struct{}) routes.VIPs {
	tell, s := cfg.BGP.Advertise, cfg.Services
	vips := routes.VIPs{
		Watch:      watchesServices(cfg),
		ClusterIPs: tell.ClusterIPs, ExternalIPs: tell.ExternalIPs, LoadBalancerIPs: tell.LoadBalancerIPs,
		ClusterIPRanges: s.ClusterIPRanges, ExternalIPRanges: s.ExternalIPRanges, LoadBalancerIPRanges: s.LoadBalancerIPRanges,
		AnyIP: s.AnyIP, Guessed: !s.RejectUnassigned, Aggregate: tell.Ranges, Discard: cfg.RunServiceProxy, Served: served,
	}
	if cfg.RunServiceProxy {
		vips.ExcludedCIDRs = s.ExcludedCIDRs
	}
	return vips
}

// watchesServices says whether the routes controller follows Services: they
// are watched for the service proxy in any case, and without it where the
// flags have somebody or something to tell.
func watchesServices(cfg config.Config) bool {
	tell := cfg.BGP.Advertise
	return cfg.RunServiceProxy || len(cfg.BGP.Routers) > 0 || tell.ClusterIPs || tell.ExternalIPs || tell.LoadBalancerIPs
}
