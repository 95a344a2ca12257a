// Package former knows what earlier releases of kube-router left in the kernel
// that this one does not make any more, and removes it: once everything of this
// one is there, so that nothing is missed meanwhile.
//
// What has a name that this release uses as well (most chains and sets, routes
// with protocol 17, virtual servers, tunnels) is taken over, or swept, by the
// controller that the name belongs to.
package former

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/nft"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// Link had the addresses of Services.
const Link = "kube-dummy-if"

// The tables of the earlier releases' policy routing, and the priorities of the
// rules that lead to those of direct server return.
const (
	tunnelTable         = 77
	directTable         = 78
	externalTable       = 79
	directPriority      = 32764
	externalPriority    = 32765
	leastTunnelPriority = 32000 // ip(8) chooses one just below the table main
)

// serviceSets, policySets are what the names of sets begin with.
func serviceSets() []string { return bothFamilies("kube-router-local-ips") }
func policySets() []string  { return bothFamilies("KUBE-SRC-", "KUBE-DST-") }

// Sets are what the names of all sets begin with that this release does not use.
func Sets() []string { return slices.Concat(serviceSets(), policySets()) }

func bothFamilies(names ...string) []string {
	all := slices.Clone(names)
	for _, name := range names {
		all = append(all, "inet6:"+name)
	}
	return all
}

// Node is where to look.
type Node struct {
	// Routes, Services and Policy say which controllers run: what earlier
	// releases made for the others stays.
	Routes, Services, Policy bool
	Links                    interface {
		Delete(name, kind string) (deleted bool, err error)
	}
	Sets ipset.Interface
	// Rules are the tables of each family.
	Rules map[inet.Family]iptables.Interface
	// Tables are those of nftables; nil is none.
	Tables nft.Interface
	// Servers is nil where the kernel has no IPVS.
	Servers ipvs.Interface
	// Policies are the rules and tables of policy routing; nil is none.
	Policies PolicyRouting
	// Now deletes virtual servers that have connections as well.
	Now bool

	// direct are the virtual servers of direct server return whose rules were
	// found, until they are gone.
	direct map[ipvs.ID]bool
}

// PolicyRouting is route.Kernel.
type PolicyRouting interface {
	ForeignRules() ([]route.ForeignRule, error)
	DeleteForeignRule(route.ForeignRule) error
	DeleteForeignTable(table int) (removed []string, err error)
}

// ErrDraining means that virtual servers of direct server return still have
// connections, which would end with them. Nothing new comes to them.
var ErrDraining = errors.New("former virtual servers still have connections")

// Thing is something that was removed: "IP set", "KUBE-SRC-…".
type Thing struct{ Kind, Name string }

// Sweep removes what is left, as much as can be, and returns it. Once it
// returns no error there is nothing left.
func (n *Node) Sweep(ctx context.Context) (removed []Thing, err error) {
	var errs []error
	note := func(kind string, names []string, err error) {
		for _, name := range names {
			removed = append(removed, Thing{kind, name})
		}
		errs = append(errs, err)
	}
	for _, f := range slices.Sorted(maps.Keys(n.Rules)) {
		for _, table := range iptables.Tables() {
			names, err := n.sweepRules(ctx, f, table)
			note(fmt.Sprintf("iptables (%s, %s)", f, table), names, err)
		}
	}
	if n.Services && n.Servers != nil {
		names, err := n.sweepServers()
		note("virtual server", names, err)
	}
	if n.Policies != nil {
		names, err := n.sweepPolicyRules()
		note("ip rule", names, err)
		names, err = n.sweepPolicyTables()
		note("route", names, err)
	}
	if n.Policy && n.Tables != nil {
		names, err := SweepTables(ctx, n.Tables)
		note("nftables table", names, err)
	}
	names, err := n.sweepSets()
	note("IP set", names, err)
	if n.Services && n.Links != nil {
		deleted, err := n.Links.Delete(Link, "dummy")
		if deleted {
			note("dummy", []string{Link}, nil)
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

func (n *Node) sweepRules(ctx context.Context, f inet.Family, table iptables.Table) ([]string, error) {
	var mine map[ipset.Entry]bool
	if table == iptables.Mangle && n.Services {
		var err error
		if mine, err = n.served(f); err != nil {
			return nil, err
		}
	}
	return iptables.Removal{
		Owns: func(string) bool { return false },
		Rule: func(chain, rule string) bool {
			if n.Routes && podRule(table, chain, rule) || n.Services && serviceRule(table, chain, rule) {
				return true
			}
			at, mark, ok := readMark(chain, rule)
			if !ok || !mine[at] {
				return false
			}
			if n.direct == nil {
				n.direct = map[ipvs.ID]bool{}
			}
			n.direct[ipvs.MarkID(mark, f)] = true
			return true
		},
	}.Run(ctx, n.Rules[f], table)
}

// served are the addresses and ports that this release serves: a mark of
// somebody else would keep connections from it.
func (n *Node) served(f inet.Family) (map[ipset.Entry]bool, error) {
	mine := map[ipset.Entry]bool{}
	if n.Sets == nil {
		return mine, nil
	}
	name := map[inet.Family]string{inet.IPv4: "kube-router-svip-prt", inet.IPv6: "inet6:kube-router-svip-prt"}[f]
	sets, err := n.Sets.List(name)
	if err != nil {
		return nil, fmt.Errorf("reading the IP sets: %w", err)
	}
	for e := range sets[name].Entries {
		mine[e] = true
	}
	return mine, nil
}

// sweepServers removes the virtual servers of marks that former rules gave.
func (n *Node) sweepServers() (removed []string, err error) {
	if len(n.direct) == 0 {
		return nil, nil
	}
	list, err := n.Servers.List()
	if err != nil {
		return nil, fmt.Errorf("reading the virtual servers: %w", err)
	}
	var errs []error
	var changes []ipvs.Change
	for id := range n.direct {
		server, there := list[id]
		if !there || slices.ContainsFunc(slices.Collect(maps.Values(server.Real)), func(r ipvs.Real) bool { return r.Method != ipvs.Tunnel }) {
			delete(n.direct, id)
			continue
		}
		connections, err := n.Servers.Connections(id)
		busy := slices.ContainsFunc(slices.Collect(maps.Values(connections)), func(c uint32) bool { return c > 0 })
		switch {
		case err != nil:
			errs = append(errs, err)
		case busy && !n.Now:
			errs = append(errs, ErrDraining)
		default:
			changes = append(changes, ipvs.Change{Op: ipvs.DeleteServer, ID: id})
		}
	}
	for i, err := range n.Servers.Apply(changes) {
		if err == nil {
			removed = append(removed, changes[i].ID.String())
			delete(n.direct, changes[i].ID)
		}
		errs = append(errs, err)
	}
	slices.Sort(removed)
	return removed, errors.Join(errs...)
}

// sweepPolicyRules removes the rules that lead to the former tables.
func (n *Node) sweepPolicyRules() (removed []string, err error) {
	rules, err := n.Policies.ForeignRules()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, r := range rules {
		if !n.formerRule(r) {
			continue
		}
		if err := n.Policies.DeleteForeignRule(r); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, r.Text)
	}
	return removed, errors.Join(errs...)
}

func (n *Node) formerRule(r route.ForeignRule) bool {
	switch r.Table {
	case tunnelTable:
		return n.Routes && r.Src.IsValid() && r.Mark == 0 && r.Priority >= leastTunnelPriority
	case directTable:
		return n.Services && !r.Src.IsValid() && r.Mark != 0 && r.Mark <= mostMark && r.Priority == directPriority
	case externalTable:
		return n.Services && r.Src == netip.Prefix{} && r.Mark == 0 && r.Priority == externalPriority
	}
	return false
}

// sweepPolicyTables empties the table of direct server return, once no rule
// leads there.
func (n *Node) sweepPolicyTables() ([]string, error) {
	if !n.Services {
		return nil, nil
	}
	rules, err := n.Policies.ForeignRules()
	if err != nil || slices.ContainsFunc(rules, func(r route.ForeignRule) bool { return r.Table == directTable }) {
		return nil, err
	}
	return n.Policies.DeleteForeignTable(directTable)
}

func (n *Node) sweepSets() ([]string, error) {
	var names []string
	if n.Services {
		names = append(names, serviceSets()...)
	}
	if n.Policy {
		names = append(names, policySets()...)
	}
	if len(names) == 0 || n.Sets == nil {
		return nil, nil
	}
	return ipset.Remove(n.Sets, names...)
}
