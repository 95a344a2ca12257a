package app

import (
	"context"

	"github.com/kube-router/kube-router/internal/admin"
	"github.com/kube-router/kube-router/internal/advice"
	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/health"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/nft"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kubeproxy"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// advise prepares the advisor, where a controller runs that people make
// mistakes with. It follows the Nodes, as these controllers do.
func (a *agent) advise(d drivers, events advice.Reporter) {
	if a.router == nil && a.proxy == nil {
		return
	}
	s := &sights{
		cfg: a.cfg, log: a.log, nodes: watchNodes(a.feeds), kubeProxy: kubeproxy.ThisHost(), tables: nftTables,
		nat: func(ctx context.Context, f inet.Family) (string, error) { return d.tables[f].Save(ctx, iptables.NAT) },
		flows: func(f inet.Family, fn func(conntrack.Entry)) error {
			// No bits are asked for, so that this only reads.
			_, err := d.flows.Mark(f, 0, func(e conntrack.Entry) bool { fn(e); return false })
			return err
		},
	}
	if a.router != nil {
		s.learned = a.router.Learned
		s.peers = func() []bgp.PeerState { return a.router.Status().Peers }
		s.foreign = func() ([]route.Foreign, error) { return d.foreign.Foreign(route.Main) }
	}
	if a.proxy != nil {
		s.addrs = func() ([]link.Addr, error) { return d.links.Addrs() }
		s.directMisuse = a.proxy.DirectMisuse
		s.proxy = func() ([]reconcile.Work, bool) { return a.proxy.Work(), a.proxy.Status().IPVS }
	}
	a.advisor = advice.NewAdvisor(s.facts, func() *cluster.Meta { return s.nodes.meta(a.cfg.NodeName) }, events, a.log)
	a.metrics.AddMistakes(func() []health.Mistake {
		return convert(a.advisor.Last(), func(g advice.Given) health.Mistake {
			return health.Mistake{Reason: g.Reason, Severity: string(g.Severity)}
		})
	})
}

// nftTables lists the tables of nftables, none where there are none to see.
func nftTables(ctx context.Context) ([]nft.Table, error) {
	driver, err := nft.Open()
	if err != nil {
		return nil, err
	}
	return driver.Tables(ctx)
}

// given is the advice that holds, and what of it does harm already. Where a
// controller hangs, look is false: it could not be asked.
func (a *agent) given(ctx context.Context, look bool) (list []admin.Advice, wrong []string) {
	list = []admin.Advice{}
	if a.advisor == nil {
		return list, nil
	}
	all := a.advisor.Last
	if look {
		all = func() []advice.Given { return a.advisor.Given(ctx) }
	}
	for _, g := range all() {
		list = append(list, admin.Advice{Reason: g.Reason, Severity: string(g.Severity), Message: g.Message, Since: g.Since})
		if g.Severity == advice.Warning {
			wrong = append(wrong, g.Reason+": see the advice below")
		}
	}
	return list, wrong
}
