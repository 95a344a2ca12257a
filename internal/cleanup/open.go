package cleanup

import (
	"context"
	"errors"
	"fmt"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/kernel/nft"
)

// openSets opens the IP sets, unless the kernel would have to load them first.
func (n *Node) openSets(r *report) {
	if !module.Present("ip_set") {
		return
	}
	sets, err := ipset.Open()
	if err != nil {
		r.failed("IP sets", err)
		return
	}
	n.Sets = sets
}

// openTables opens nftables, where the kernel has it.
func (n *Node) openTables(r *report) {
	tables, err := nft.Open()
	if errors.Is(err, nft.ErrNoProgram) {
		r.note("not looked for: tables of nftables, in which kube-proxy or an earlier release may have left rules: " + err.Error())
		return
	}
	if err != nil {
		r.failed("tables of nftables", err)
		return
	}
	n.Tables = tables
}

func (n *Node) openServers(r *report) {
	if !ipvs.Loaded() {
		return
	}
	servers, err := ipvs.Open()
	if err != nil {
		n.serversLeft = true
		r.failed("virtual servers", err)
		return
	}
	n.Servers = servers
}

// openRules opens all variants: the host may have changed from one to the
// other while the agent ran.
func (n *Node) openRules(ctx context.Context, r *report) {
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		variants, err := iptables.Variants(ctx, family)
		r.failed(fmt.Sprintf("iptables rules (%s)", family), err)
		for _, variant := range variants {
			tables, err := iptables.Open(ctx, family, variant)
			if err != nil {
				r.failed(fmt.Sprintf("iptables rules (%s, %s)", variant, family), err)
				continue
			}
			n.Rules = append(n.Rules, Rules{Variant: variant, Family: family, Tables: tables})
		}
	}
}
