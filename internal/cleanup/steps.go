package cleanup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cni"
	"github.com/kube-router/kube-router/internal/former"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/policy"
	"github.com/kube-router/kube-router/internal/routes"
	"github.com/kube-router/kube-router/internal/services"
)

// removeCNI comes first, so that no Pod is made on a network that is about to
// go.
func (n *Node) removeCNI(_ context.Context, r *report) {
	done, err := n.CNI.Remove(routes.Bridge)
	r.failed("CNI configuration", err)
	switch {
	case err != nil:
	case done == cni.Removed:
		r.removed("CNI configuration", n.CNI.Path())
	case done == cni.Restored:
		r.restored("CNI configuration", n.CNI.Path())
	case done == cni.Kept:
		r.kept("CNI configuration "+n.CNI.Path(), "not all of it is kube-router's; remove it if Pods are to get another network")
	}
}

// removeServices removes routes and then virtual servers: an address that is
// not the host's any more leads nobody to the host's own ports.
func (n *Node) removeServices(_ context.Context, r *report) {
	owns, err := n.owners()
	if n.Routes != nil {
		n.removePolicyRules(r)
		removed, err := route.Remove(n.Routes)
		for _, gone := range removed {
			r.removed("route", routeText(gone))
		}
		r.failed("routes", err)
	}
	if n.Servers == nil {
		return
	}
	var removed []ipvs.ID
	if err == nil {
		removed, err = ipvs.Remove(n.Servers, owns)
	}
	for _, id := range removed {
		r.removed("virtual server", id.String())
	}
	n.serversLeft = err != nil
	r.failed("virtual servers", err)
}

// removePolicyRules removes what leads to tables of ours, before these are empty.
func (n *Node) removePolicyRules(r *report) {
	rules, err := n.Routes.Rules()
	r.failed("ip rules", err)
	for _, rule := range rules {
		if err := n.Routes.DeleteRule(rule); err != nil {
			r.failed("ip rule "+rule.String(), err)
			continue
		}
		r.removed("ip rule", rule.String())
	}
}

func routeText(gone route.Route) string {
	switch gone.Table {
	case route.Main:
		return gone.String()
	case route.Local:
		return gone.String() + " table local"
	}
	return fmt.Sprintf("%s table %d", gone, gone.Table)
}

// owners tells which virtual servers are ours.
func (n *Node) owners() (func(ipvs.ID) bool, error) {
	sets, vips := map[string]ipset.Set{}, map[netip.Addr]bool{}
	var err1, err2 error
	if n.Sets != nil {
		sets, err1 = n.Sets.List(services.OwnedSets()...)
	}
	if n.Routes != nil {
		var local map[route.Key]route.Route
		local, err2 = n.Routes.List(route.Local)
		for k := range local {
			vips[k.Dst.Addr()] = true
		}
	}
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("cannot tell which are kube-router's: %w", err)
	}
	return services.OwnedServers(sets, vips, n.Excluded), nil
}

func (n *Node) removeRules(ctx context.Context, r *report) {
	chains := slices.Concat(routes.OwnedChains(), services.OwnedChains(), policy.OwnedChains())
	for _, rules := range n.Rules {
		for _, table := range iptables.Tables() {
			where := fmt.Sprintf("iptables (%s, %s, %s)", rules.Variant, rules.Family, table)
			removed, err := iptables.Remove(ctx, rules.Tables, table, chains)
			r.removed(where, removed...)
			r.failed(where, err)
		}
	}
}

// removeFormer removes what earlier releases made and this one does not.
func (n *Node) removeFormer(ctx context.Context, r *report) {
	if n.Tables != nil {
		removed, err := former.SweepTables(ctx, n.Tables)
		r.removed("nftables table", removed...)
		r.failed("tables of nftables", err)
	}
	for _, rules := range n.Rules {
		sweep := former.Node{
			Routes: true, Services: true, Sets: n.Sets, Servers: n.Servers, Now: true,
			Rules: map[inet.Family]iptables.Interface{rules.Family: rules.Tables},
		}
		if policies, ok := n.Routes.(former.PolicyRouting); ok {
			sweep.Policies = policies
		}
		removed, err := sweep.Sweep(ctx)
		for _, thing := range removed {
			r.removed(thing.Kind, thing.Name)
		}
		r.failed("what an earlier release left", err)
	}
}

// removeSets comes after the rules that match them.
func (n *Node) removeSets(_ context.Context, r *report) {
	if n.Sets == nil {
		return
	}
	names := slices.Concat(routes.OwnedSets(), policy.OwnedSets(), former.Sets())
	if n.serversLeft {
		r.kept("IP sets of Services", "they tell which virtual servers are kube-router's; they go once those have gone")
	} else {
		names = append(names, services.OwnedSets()...)
	}
	removed, err := ipset.Remove(n.Sets, names...)
	r.removed("IP set", removed...)
	failed := ipset.SetErrors(err)
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		err := failed[name]
		if errors.Is(err, ipset.ErrInUse) {
			err = fmt.Errorf("%w of somebody else: remove that rule (iptables-save and nft list ruleset show it)", err)
		}
		r.failed("IP set", err)
	}
	if len(failed) == 0 {
		r.failed("IP sets", err)
	}
}

// tunnels is what a driver of links has that makes tunnels.
type tunnels interface {
	DeleteTunnels(keep func(name string) bool) (deleted []string, err error)
}

func (n *Node) removeLinks(_ context.Context, r *report) {
	if n.Links == nil {
		return
	}
	if driver, ok := n.Links.(tunnels); ok {
		deleted, err := driver.DeleteTunnels(func(string) bool { return false })
		r.removed("tunnel", deleted...)
		r.failed("tunnels", err)
	}
	n.removeLink(r, former.Link, "dummy")
	n.removeLink(r, routes.Bridge, "bridge")
}

func (n *Node) removeLink(r *report, name, kind string) {
	deleted, err := n.Links.Delete(name, kind)
	switch {
	case errors.Is(err, link.ErrInUse):
		r.kept(kind+" "+name, "Pods are connected to it; drain the node and run this again, or end them with: ip link delete "+name)
	case err != nil:
		r.failed(kind+" "+name, err)
	case deleted:
		r.removed(kind, name)
	}
}

// restore comes last: all that was removed may have needed what was set.
func (n *Node) restore(_ context.Context, r *report) {
	if n.Servers != nil {
		done, err := ipvs.RestoreTimeouts(n.Servers, n.Record)
		r.restored("IPVS timeout", done...)
		r.failed("IPVS timeouts", err)
	}
	if n.Links != nil {
		done, err := n.Links.Restore(n.Record)
		r.restored("link", done...)
		r.failed("links", err)
	}
	restored, err := sysctl.Restore(n.Sysctl, n.Record)
	for _, s := range restored {
		r.restored("sysctl", s.String())
	}
	r.failed("sysctls", err)
}
