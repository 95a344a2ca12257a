package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/advice"
	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/nft"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kubeproxy"
	"github.com/kube-router/kube-router/internal/reconcile"
	"github.com/kube-router/kube-router/internal/routes"
)

// sights are where the facts are seen that advice is given on. Each is a
// function, and nil where nothing of the kind is to be seen.
type sights struct {
	cfg   config.Config
	log   *slog.Logger
	nodes *nodes
	// peers and learned are what the BGP speaker knows.
	peers   func() []bgp.PeerState
	learned func() map[netip.Prefix][]netip.Addr
	// proxy is the service proxy's work, and whether it has IPVS.
	proxy        func() (work []reconcile.Work, ipvs bool)
	directMisuse func() (nodePorts, hairpins []string)
	// The kernel: other owners' routes, the table nat as iptables-save prints
	// it, the tracked connections, the addresses of links, and tables of nftables.
	foreign func() ([]route.Foreign, error)
	nat     func(context.Context, inet.Family) (string, error)
	flows   func(inet.Family, func(conntrack.Entry)) error
	addrs   func() ([]link.Addr, error)
	tables  func(context.Context) ([]nft.Table, error)
	// kubeProxy is where a kube-proxy of this node would run.
	kubeProxy interface {
		Running(context.Context) []string
	}
}

// facts looks at everything. What cannot be seen is left out.
func (s *sights) facts(ctx context.Context) advice.Facts {
	f := advice.Facts{
		Router: s.cfg.RunRouter, ServiceProxy: s.cfg.RunServiceProxy,
		FullMesh: s.cfg.BGP.NodePeers && s.cfg.BGP.NodesFullMesh, Nodes: s.nodes.count(),
		NoGracefulRestart: !s.cfg.BGP.GracefulRestart, ASN: s.cfg.BGP.ASN,
	}
	if f.Router {
		s.seeRoutes(&f)
		s.seeStrangers(&f)
	}
	if f.ServiceProxy {
		s.seeKubeProxy(ctx, &f)
		s.seeServices(&f)
		s.seeSelfCalls(&f)
	}
	return f
}

// unseen notes what could not be looked at.
func (s *sights) unseen(what string, err error) {
	if err != nil {
		s.log.Debug("advice: cannot look", "at", what, "err", err)
	}
}

// seeRoutes finds routes to Pods of the cluster that others made. Those of our
// own bridge are the kernel's.
func (s *sights) seeRoutes(f *advice.Facts) {
	list, err := s.foreign()
	s.unseen("routes", err)
	pods := slices.Concat(slices.Collect(maps.Values(s.nodes.pods()))...)
	for _, r := range list {
		inPods := func(p netip.Prefix) bool { return p.Bits() <= r.Dst.Bits() && p.Overlaps(r.Dst) }
		if r.Link != routes.Bridge && slices.ContainsFunc(pods, inPods) {
			f.ForeignRoutes = append(f.ForeignRoutes, r.Text)
		}
	}
}

// seeStrangers finds signs of another cluster in what peers send.
func (s *sights) seeStrangers(f *advice.Facts) {
	var outside []netip.Addr
	for _, p := range s.peers() {
		if p.ASN != s.cfg.BGP.ASN {
			outside = append(outside, p.Addr)
		}
	}
	f.Strangers = advice.Strangers(s.learned(), s.nodes.names(), s.nodes.pods(), outside)
}

// seeKubeProxy asks whether one runs, and looks for what one left.
func (s *sights) seeKubeProxy(ctx context.Context, f *advice.Facts) {
	f.KubeProxy = s.kubeProxy.Running(ctx)
	for _, family := range s.cfg.Families() {
		text, err := s.nat(ctx, family)
		s.unseen("the table nat", err)
		if strings.Contains(text, "\n-A KUBE-SERVICES ") {
			f.KubeProxyRules = append(f.KubeProxyRules, fmt.Sprintf("the rules of chain KUBE-SERVICES in the %s table nat", family))
		}
	}
	addrs, err := s.addrs()
	s.unseen("addresses", err)
	if slices.ContainsFunc(addrs, func(a link.Addr) bool { return a.Link == kubeproxy.Link }) {
		f.KubeProxyRules = append(f.KubeProxyRules, "the link "+kubeproxy.Link+" with addresses of Services")
	}
	tables, err := s.tables(ctx)
	s.unseen("tables of nftables", err)
	for _, t := range kubeproxy.Tables() {
		if slices.Contains(tables, t) {
			f.KubeProxyRules = append(f.KubeProxyRules, "the table "+t.String()+" of nftables")
		}
	}
}

// seeServices finds what keeps Services from working.
func (s *sights) seeServices(f *advice.Facts) {
	work, available := s.proxy()
	for _, w := range work {
		switch {
		case !available && errors.Is(w.Err, ipvs.ErrUnavailable):
			f.NoIPVS = true
		case errors.Is(w.Err, ipvs.ErrNoScheduler):
			f.NoScheduler = w.Reason()
		}
	}
	f.DirectNodePorts, f.DirectHairpins = s.directMisuse()
}

// mostSelfCalls bounds how many are remembered: a few are named.
const mostSelfCalls = 10

// seeSelfCalls looks for connections that IPVS sent back to the Pod they came
// from, with its own address as source: no Pod answers itself.
func (s *sights) seeSelfCalls(f *advice.Facts) {
	if s.cfg.Services.HairpinMode {
		return
	}
	seen := map[advice.SelfCall]bool{}
	for _, family := range s.cfg.Families() {
		err := s.flows(family, func(e conntrack.Entry) {
			call := advice.SelfCall{Pod: e.From.Addr(), Service: e.To}
			if e.SelfCall() && len(seen) < mostSelfCalls && !seen[call] {
				seen[call] = true
				f.SelfCalls = append(f.SelfCalls, call)
			}
		})
		s.unseen("connections", err)
	}
}
