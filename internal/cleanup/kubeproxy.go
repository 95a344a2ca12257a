package cleanup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kubeproxy"
)

// removeKubeProxy removes what a kube-proxy left that does not run any more.
//
// Connections that it translated go on: the translation is in the entry of
// connection tracking, not in the rules. (The kernel tracks and translates only
// while there is a rule that asks for it; the agent's do.) The table nat goes first, so that new
// connections are IPVS's from then on; the rules that accept follow. Virtual
// servers that are ours by now stay, and their addresses are local by routes of
// ours when kube-ipvs0 goes.
func (n *Node) removeKubeProxy(ctx context.Context, r *report) {
	for _, rules := range n.Rules {
		for _, table := range []iptables.Table{iptables.NAT, iptables.Filter, iptables.Mangle} {
			n.removeProxyChains(ctx, r, rules, table)
		}
	}
	n.removeProxyTables(ctx, r)
	// By the sets and the link the virtual servers are known.
	if n.removeProxyServers(r) {
		n.removeProxySets(r)
		n.removeProxyLink(r)
	}
}

func (n *Node) removeProxyChains(ctx context.Context, r *report, rules Rules, table iptables.Table) {
	where := fmt.Sprintf("iptables (%s, %s, %s)", rules.Variant, rules.Family, table)
	used, err := othersUse(ctx, rules.Tables, table)
	if err != nil {
		r.failed(where, err)
		return
	}
	for _, chain := range slices.Sorted(maps.Keys(used)) {
		if by := used[chain]; by != "" {
			r.kept(where+" chain "+chain, fmt.Sprintf("rules of chain %s lead to it, which is not kube-proxy's", by))
		}
	}
	owns := func(chain string) bool {
		_, stays := used[chain]
		return !stays && kubeproxy.OwnsChain(table, chain)
	}
	removed, err := iptables.Removal{Owns: owns, Dry: r.dry}.Run(ctx, rules.Tables, table)
	if counted := countChains(removed); counted != "" {
		r.removed(where, counted)
	}
	r.failed(where, err)
}

// othersUse are kube-proxy's chains that stay because others' rules lead to
// them, each with a chain of theirs, and what these lead to. Who marks packets to
// be masqueraded needs the rule that does it.
func othersUse(ctx context.Context, tables iptables.Interface, table iptables.Table) (map[string]string, error) {
	used := map[string]string{}
	for {
		more, err := iptables.Referrers(ctx, tables, table, func(chain string) bool {
			_, known := used[chain]
			return !known && kubeproxy.OwnsChain(table, chain)
		})
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			return used, nil
		}
		maps.Copy(used, more)
		if _, marks := more[kubeproxy.MarkMasquerade]; marks {
			used[kubeproxy.Masquerade] = ""
		}
	}
}

// hashLength is how much of the names of Services' chains is their hash.
const hashLength = 16

// countChains is what went of a table in one line: of thousands of chains of
// Services and endpoints, the number.
func countChains(removed []string) string {
	var named []string
	counts := map[string]int{}
	rules := 0
	for _, what := range removed {
		name, isChain := strings.CutPrefix(what, "chain ")
		switch prefix, hashed := cutHash(name); {
		case !isChain:
			rules++
		case hashed:
			counts[prefix+"*"]++
		default:
			named = append(named, name)
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(counts)) {
		named = append(named, fmt.Sprintf("%s (%d)", prefix, counts[prefix]))
	}
	switch {
	case len(named) == 0 && rules == 0:
		return ""
	case rules == 0:
		return "chains " + strings.Join(named, ", ")
	}
	return fmt.Sprintf("chains %s, and %d rules that lead there", strings.Join(named, ", "), rules)
}

func cutHash(name string) (prefix string, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 || len(name)-i-1 != hashLength {
		return name, false
	}
	return name[:i+1], true
}

// removeProxyTables removes those of nftables.
func (n *Node) removeProxyTables(ctx context.Context, r *report) {
	if n.Tables == nil {
		return
	}
	there, err := n.Tables.Tables(ctx)
	r.failed("tables of nftables", err)
	for _, table := range kubeproxy.Tables() {
		if !slices.Contains(there, table) {
			continue
		}
		if !r.dry {
			if err := n.Tables.Delete(ctx, table); err != nil {
				r.failed("nftables table "+table.String(), err)
				continue
			}
		}
		r.removed("nftables table", table.String())
	}
}

// removeProxyServers removes the virtual servers that are kube-proxy's and not
// ours, and says whether none is left.
func (n *Node) removeProxyServers(r *report) bool {
	if n.Servers == nil {
		return true
	}
	theirs, err := n.proxyServers()
	if err != nil {
		r.failed("virtual servers of kube-proxy", err)
		return false
	}
	removed, err := ipvs.Removal{Owns: theirs, Dry: r.dry}.Run(n.Servers)
	for _, id := range removed {
		r.removed("virtual server", id.String())
	}
	r.failed("virtual servers of kube-proxy", err)
	return err == nil
}

// proxyServers tells which virtual servers are kube-proxy's: those of the
// addresses on its link, and those of node ports, which it has at all addresses
// of the host.
func (n *Node) proxyServers() (func(ipvs.ID) bool, error) {
	ours, err := n.owners()
	if err != nil {
		return nil, err
	}
	vips, host, err := n.proxyAddresses()
	if err != nil {
		return nil, err
	}
	sets, err := n.proxySets()
	if err != nil {
		return nil, err
	}
	ran := len(vips)+len(sets) > 0
	return func(id ipvs.ID) bool {
		addr := id.Addr.Addr()
		if id.Mark != 0 || ours(id) || slices.ContainsFunc(n.Excluded, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return false
		}
		nodePort := ran && host[addr] && n.NodePorts.First <= id.Addr.Port() && id.Addr.Port() <= n.NodePorts.Last
		return vips[addr] || nodePort
	}, nil
}

// proxyAddresses are the addresses of kube-proxy's link, and those of all others.
func (n *Node) proxyAddresses() (vips, host map[netip.Addr]bool, err error) {
	vips, host = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	if n.Links == nil {
		return vips, host, nil
	}
	list, err := n.Links.Addrs()
	if err != nil {
		return nil, nil, err
	}
	for _, a := range list {
		if a.Link == kubeproxy.Link {
			vips[a.Prefix.Addr()] = true
		} else {
			host[a.Prefix.Addr()] = true
		}
	}
	return vips, host, nil
}

// proxySets are the names of kube-proxy's IP sets.
func (n *Node) proxySets() ([]string, error) {
	if n.Sets == nil {
		return nil, nil
	}
	found, err := n.Sets.List(kubeproxy.SetPrefixes()...)
	if err != nil {
		return nil, fmt.Errorf("reading the IP sets of the kernel: %w", err)
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(found)), func(name string) bool { return !kubeproxy.OwnsSet(name) }), nil
}

// removeProxySets comes after the rules that match them.
func (n *Node) removeProxySets(r *report) {
	names, err := n.proxySets()
	if err != nil {
		r.failed("IP sets of kube-proxy", err)
		return
	}
	if r.dry {
		r.removed("IP set", names...)
		return
	}
	changes := make([]ipset.Change, len(names))
	for i, name := range names {
		changes[i] = ipset.Change{Op: ipset.Destroy, Name: name}
	}
	if len(changes) == 0 {
		return
	}
	for i, err := range n.Sets.Apply(changes) {
		switch {
		case errors.Is(err, ipset.ErrInUse):
			r.kept("IP set "+names[i], "a rule of somebody else matches it (iptables-save and nft list ruleset show it)")
		case err != nil:
			r.failed("IP set "+names[i], err)
		default:
			r.removed("IP set", names[i])
		}
	}
}

func (n *Node) removeProxyLink(r *report) {
	if n.Links == nil {
		return
	}
	if !r.dry {
		n.removeLink(r, kubeproxy.Link, "dummy")
		return
	}
	exists, err := n.Links.Exists(kubeproxy.Link, "dummy")
	r.failed("dummy "+kubeproxy.Link, err)
	if exists {
		r.removed("dummy", kubeproxy.Link)
	}
}
