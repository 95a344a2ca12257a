package app

import (
	"context"
	"time"

	"github.com/kube-router/kube-router/internal/former"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/nft"
	"github.com/kube-router/kube-router/internal/kubeproxy"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// predecessors are the links that hold the addresses of Services for an earlier
// release, and for kube-proxy.
var predecessors = []string{former.Link, kubeproxy.Link}

// sweepAgain is when what could not be removed is tried again.
const sweepAgain = 30 * time.Second

// sweepFormer removes what an earlier release left, once all of this one is
// programmed. Where there is nothing, it changes nothing.
func (a *agent) sweepFormer(ctx context.Context, kernel drivers) {
	for _, p := range a.parts {
		select {
		case <-p.Ready():
		case <-ctx.Done():
			return
		}
	}
	left := former.Node{
		Routes: a.router != nil, Services: a.proxy != nil, Policy: a.firewall != nil,
		Links: kernel.links, Sets: kernel.sets, Policies: kernel.foreign, Rules: map[inet.Family]iptables.Interface{},
	}
	for family, tables := range kernel.tables {
		left.Rules[family] = tables
	}
	if left.Services && ipvs.Loaded() {
		if servers, err := ipvs.Open(); err == nil {
			defer servers.Close()
			left.Servers = servers
		}
	}
	if tables, err := nft.Open(); err == nil { // the image has the program
		left.Tables = tables
	}
	complaints := reconcile.Complaints{}
	for {
		removed, err := left.Sweep(ctx)
		for _, thing := range removed {
			a.log.Info("removed what an earlier release left", "kind", thing.Kind, "name", thing.Name)
		}
		if began, _ := complaints.Change("sweep", err); began && ctx.Err() == nil {
			a.log.Warn("what an earlier release left could not all be removed; it is tried again", "err", err)
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepAgain):
		}
	}
}
