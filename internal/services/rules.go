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
	forwardChain    = "KUBE-ROUTER-SVC-FORWARD"
	outputChain     = "KUBE-ROUTER-SVC-OUTPUT"
	markChain       = "KUBE-ROUTER-SVC-MARK"
	markOutputChain = "KUBE-ROUTER-SVC-MARK-OUT"
	unmarkChain     = "KUBE-ROUTER-SVC-UNMARK"
	sizeChain       = "KUBE-ROUTER-SVC-MSS"
)

// rulesOwner is the owner of this controller's iptables rules.
const rulesOwner = "services"

// OwnedChains are what the names of all chains of this controller begin with.
func OwnedChains() []string {
	return []string{servicesChain, forwardChain, outputChain, masqueradeChain, hairpinChain, markChain, markOutputChain, unmarkChain, sizeChain}
}

var (
	errSetsMissing = errors.New("waiting for the IP sets")
	errNodeUnknown = errors.New("waiting for this node's address")
)

// applyRules programs the rules of all families. They are the same whatever
// Services there are.
func (c *Controller) applyRules(ctx context.Context) error {
	if !c.done[stepSets] {
		return errSetsMissing
	}
	mtu := defaultMTU
	if c.direct {
		if !c.done[stepNode] {
			return errNodeUnknown
		}
		var err error
		if mtu, err = c.nodeMTU(); err != nil {
			return err
		}
	}
	var errs []error
	for _, f := range c.config.Families {
		rules := c.drivers.Rules[f]
		if rules == nil {
			errs = append(errs, fmt.Errorf("no iptables for %s", f))
			continue
		}
		changed, err := rules.Apply(ctx, section(f, c.config, c.direct, mtu))
		c.ruleChanges += uint64(changed)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// section is this controller's rules in one family. direct says that there are
// Services with direct server return, and mtu is that of the links between nodes.
func section(f inet.Family, config Config, direct bool, mtu int) iptables.Section {
	filter := iptables.Content{Chains: map[string][]string{}}
	jump := func(content *iptables.Content, from, chain string, rules []string) {
		if len(rules) > 0 {
			content.Chains[chain] = rules
			content.Jumps = append(content.Jumps, iptables.Jump{Chain: from, Rank: iptables.RankServices, Rule: "-j " + chain})
		}
	}
	jump(&filter, "INPUT", servicesChain, append(tunnelRules(f, direct), filterRules(f, config)...))
	forward := append(forwardTunnelRules(f, direct), unassignedRules(f, config)...)
	jump(&filter, "FORWARD", forwardChain, forward)
	jump(&filter, "OUTPUT", outputChain, unassignedRules(f, config))
	nat := iptables.Content{Chains: map[string][]string{}}
	jump(&nat, "POSTROUTING", masqueradeChain, masqueradeRules(f, config))
	mangle := iptables.Content{Chains: map[string][]string{}}
	jump(&mangle, "PREROUTING", markChain, markRules(f, direct))
	jump(&mangle, "OUTPUT", markOutputChain, markOutputRules(f))
	jump(&mangle, "POSTROUTING", unmarkChain, unmarkRules())
	jump(&mangle, "POSTROUTING", sizeChain, sizeRules(f, direct, mtu))
	return iptables.Section{
		Owner:    rulesOwner,
		Prefixes: OwnedChains(),
		Tables:   map[iptables.Table]iptables.Content{iptables.Filter: filter, iptables.NAT: nat, iptables.Mangle: mangle},
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
func filterRules(f inet.Family, config Config) []string {
	vips, ports := setName(vipSet, f), setName(portSet, f)
	rules := []string{
		sourcesRule(f),
		silentRule(f),
		`-m set --match-set ` + ports + ` dst,dst -m comment --comment "services" -j ACCEPT`,
	}
	if !config.Guard {
		return rules[:2]
	}
	icmp, unreachable := icmpNames(f)
	return append(rules,
		`-p tcp -m set --match-set `+vips+` dst -m comment --comment "no such service" -j REJECT --reject-with tcp-reset`,
		`! -p `+icmp+` -m set --match-set `+vips+` dst -m comment --comment "no such service" -j REJECT --reject-with `+unreachable,
	)
}

// sourcesRule drops what is sent to a Service by whom it is not for.
func sourcesRule(f inet.Family) string {
	return `-m set --match-set ` + setName(limitSet, f) + ` dst,dst -m set ! --match-set ` + setName(sourceSet, f) +
		` dst,dst,src -m comment --comment "services for some sources only" -j DROP`
}

// silentRule drops what is new to Services that are to be silent. Connections go
// on, to endpoints of this node that get no new ones.
func silentRule(f inet.Family) string {
	return `-m set --match-set ` + setName(dropSet, f) + ` dst,dst -m mark --mark 0x0/` + markMask +
		` -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment "services with endpoints on other nodes only" -j DROP`
}

func icmpNames(f inet.Family) (protocol, unreachable string) {
	if f == inet.IPv6 {
		return "ipv6-icmp", "icmp6-port-unreachable"
	}
	return "icmp", "icmp-port-unreachable"
}

// unassignedRules answer for cluster IPs that no Service has. They are on no
// network, and a client would wait for an answer for long.
func unassignedRules(f inet.Family, config Config) []string {
	var rules []string
	_, unreachable := icmpNames(f)
	for _, p := range config.ServiceRanges {
		if config.RejectUnassigned && config.Guard && inet.FamilyOf(p.Addr()) == f {
			rules = append(rules, `-d `+p.String()+` -m set ! --match-set `+setName(vipSet, f)+
				` dst -m comment --comment "no such cluster IP" -j REJECT --reject-with `+unreachable)
		}
	}
	return rules
}

// markRules lead clients of this node, and what comes out of tunnels, to the
// virtual servers that are for them.
func markRules(f inet.Family, direct bool) []string {
	rules := []string{`-m set --match-set ` + setName(podSet, f) + ` src -m comment --comment "pods of this node" -j SET --map-set ` +
		setName(insideSet, f) + ` dst,dst --map-mark`}
	if direct && f == inet.IPv4 {
		for _, name := range []string{tunnelLink, overlayLink} {
			rules = append(rules, `-i `+name+` -m comment --comment "direct server return" -j SET --map-set `+
				setName(tunnelSet, f)+` dst,dst --map-mark`)
		}
	}
	return rules
}

// markOutputRules do that for the node itself. What it sends never comes to
// INPUT where IPVS takes it, so what is refused there silently is here as well,
// before IPVS.
func markOutputRules(f inet.Family) []string {
	return []string{
		sourcesRule(f),
		`-m comment --comment "this node" -j SET --map-set ` + setName(insideSet, f) + ` dst,dst --map-mark`,
		silentRule(f),
	}
}

// unmarkRules take the mark from what IPVS has translated. Overlays in UDP give
// their packets the mark of what is in them, and IPVS, which takes any protocol
// that it knows by its mark alone, would take the packet of the tunnel again,
// and the one around that, without end.
func unmarkRules() []string {
	return []string{`-m ipvs --ipvs -m mark ! --mark 0x0/` + markMask + ` -m comment --comment "once is enough" -j MARK --set-xmark 0x0/` + markMask}
}

// masqueradeRules give a forwarded connection this node's address where the
// answer would not come back through this node, which alone can translate it
// back. It does come back where client or endpoint is a Pod of this node, or
// one of them is the host; so between Pods the client's address is preserved:
// their packets enter IPVS on their own node.
func masqueradeRules(f inet.Family, config Config) []string {
	// --vdir implies --ipvs, which iptables-save does not print beside it.
	const forwarded = "-m ipvs --vdir ORIGINAL --vmethod MASQ "
	rules := []string{`-m set --match-set ` + setName(hairpinSet, f) +
		` dst,dst,src -m comment --comment "pods to themselves" -j MASQUERADE --random-fully`}
	if config.MasqueradeAll {
		return append(rules, forwarded+`-m comment --comment "all that is forwarded" -j MASQUERADE --random-fully`)
	}
	pods := setName(podSet, f)
	return append(rules, forwarded+`-m set ! --match-set `+pods+` src -m set ! --match-set `+pods+
		` dst -m addrtype ! --src-type LOCAL ! --dst-type LOCAL -m comment --comment "neither end is here" -j MASQUERADE --random-fully`)
}
