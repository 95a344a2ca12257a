package services

import (
	"context"
	"errors"
	"fmt"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// The chains of this controller. hairpinChain is a former name: it is owned so
// that it is removed.
const (
	servicesChain   = "KUBE-ROUTER-SERVICES"
	masqueradeChain = "KUBE-ROUTER-MASQUERADE"
	hairpinChain    = "KUBE-ROUTER-HAIRPIN"
)

var errSetsMissing = errors.New("waiting for the IP sets")

// applyRules programs the rules of all families. They are the same whatever
// Services there are.
func (c *Controller) applyRules(ctx context.Context) error {
	if !c.done[stepSets] {
		return errSetsMissing
	}
	var errs []error
	for _, f := range c.config.Families {
		rules := c.drivers.Rules[f]
		if rules == nil {
			errs = append(errs, fmt.Errorf("no iptables for %s", f))
			continue
		}
		changed, err := rules.Apply(ctx, section(f, c.config))
		c.ruleChanges += uint64(changed)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// section is this controller's rules in one family.
func section(f inet.Family, config Config) iptables.Section {
	return iptables.Section{
		Owner:    "services",
		Prefixes: []string{servicesChain, masqueradeChain, hairpinChain},
		Tables: map[iptables.Table]iptables.Content{
			iptables.Filter: {
				Chains: map[string][]string{servicesChain: filterRules(f)},
				Jumps:  []iptables.Jump{{Chain: "INPUT", Rank: iptables.RankServices, Rule: "-j " + servicesChain}},
			},
			iptables.NAT: {
				Chains: map[string][]string{masqueradeChain: masqueradeRules(f, config)},
				Jumps:  []iptables.Jump{{Chain: "POSTROUTING", Rank: iptables.RankServices, Rule: "-j " + masqueradeChain}},
			},
		},
	}
}

// filterRules decide about what is sent to an address of a Service. IPVS takes
// packets after these rules (ip_vs_in follows filter in LOCAL_IN); what it
// would not take belongs to the host, and must not be reachable through a
// Service's address.
//
// What IPVS takes is accepted here, and judged by the policies once it has its
// endpoint for destination. ICMP is left to the rules that follow: errors
// belong to connections (path MTU discovery), and ping tells of the host.
func filterRules(f inet.Family) []string {
	vips, ports, silent := setName(vipSet, f), setName(portSet, f), setName(dropSet, f)
	icmp, unreachable := "icmp", "icmp-port-unreachable"
	if f == inet.IPv6 {
		icmp, unreachable = "ipv6-icmp", "icmp6-port-unreachable"
	}
	return []string{
		`-m set --match-set ` + silent + ` dst,dst -m comment --comment "services with endpoints on other nodes only" -j DROP`,
		`-m set --match-set ` + ports + ` dst,dst -m comment --comment "services" -j ACCEPT`,
		`-p tcp -m set --match-set ` + vips + ` dst -m comment --comment "no such service" -j REJECT --reject-with tcp-reset`,
		`! -p ` + icmp + ` -m set --match-set ` + vips + ` dst -m comment --comment "no such service" -j REJECT --reject-with ` + unreachable,
	}
}

// masqueradeRules give a forwarded connection this node's address where the
// answer would not come back through this node, which alone can translate it
// back. It does come back where client or endpoint is a Pod of this node, or
// the client is the host; so between Pods the client's address is preserved:
// their packets enter IPVS on their own node.
func masqueradeRules(f inet.Family, config Config) []string {
	// --vdir implies --ipvs, which iptables-save does not print beside it.
	const forwarded = "-m ipvs --vdir ORIGINAL --vmethod MASQ "
	var rules []string
	if config.Hairpin {
		rules = append(rules, `-m set --match-set `+setName(hairpinSet, f)+
			` dst,dst,src -m comment --comment "pods to themselves" -j MASQUERADE --random-fully`)
	}
	if config.MasqueradeAll {
		return append(rules, forwarded+`-m comment --comment "all that is forwarded" -j MASQUERADE --random-fully`)
	}
	pods := setName(podSet, f)
	return append(rules, forwarded+`-m set ! --match-set `+pods+` src -m set ! --match-set `+pods+
		` dst -m addrtype ! --src-type LOCAL -m comment --comment "neither end is here" -j MASQUERADE --random-fully`)
}
