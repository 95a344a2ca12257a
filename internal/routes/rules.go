package routes

import (
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// Bridge is the link that the Pods of a node share.
const Bridge = "kube-bridge"

// The chains of this controller.
const (
	podsChain    = "KUBE-ROUTER-PODS"
	egressChain  = "KUBE-ROUTER-EGRESS"
	tunnelsChain = "KUBE-ROUTER-TUNNELS"
)

// rulesOwner is the owner of this controller's iptables rules.
const rulesOwner = "routes"

// OwnedChains are what the names of all chains of this controller begin with.
func OwnedChains() []string { return []string{podsChain, egressChain, tunnelsChain} }

// section is this controller's rules in one family.
//
// Pod traffic is accepted after the policies had their say, because hosts may
// drop forwarded packets by default (Docker does). What Pods send out of the
// cluster is masqueraded; what they send to Pods and nodes keeps its source,
// which policies and Services look at. Traffic to a Service's address has its
// endpoint for destination by then.
func section(f inet.Family, config Config) iptables.Section {
	filter := iptables.Content{
		Chains: map[string][]string{podsChain: {
			`-i ` + Bridge + ` -m comment --comment "traffic from pods" -j ACCEPT`,
			`-o ` + Bridge + ` -m comment --comment "traffic to pods" -j ACCEPT`,
		}},
		Jumps: []iptables.Jump{{Chain: "FORWARD", Rank: iptables.RankRoutes, Rule: "-j " + podsChain}},
	}
	guard(&filter, f, config)
	s := iptables.Section{
		Owner:    rulesOwner,
		Prefixes: OwnedChains(),
		Tables:   map[iptables.Table]iptables.Content{iptables.Filter: filter},
	}
	if config.PodEgress {
		s.Tables[iptables.NAT] = iptables.Content{
			Chains: map[string][]string{egressChain: egressRules(f, config.EgressExcluded)},
			Jumps:  []iptables.Jump{{Chain: "POSTROUTING", Rank: iptables.RankRoutes, Rule: "-j " + egressChain}},
		}
	}
	return s
}

// egressRules masquerade what Pods send out of the cluster, but not to the
// excluded networks, which know the way back.
func egressRules(f inet.Family, excluded []netip.Prefix) []string {
	var rules []string
	for _, network := range excluded {
		if inet.FamilyOf(network.Addr()) == f {
			rules = append(rules, `-d `+network.String()+` -m comment --comment "pods keep their address" -j RETURN`)
		}
	}
	pods, nodes := setName(podSubnets, f), setName(nodeIPs, f)
	return append(rules, `-m set --match-set `+pods+` src -m set ! --match-set `+pods+` dst -m set ! --match-set `+nodes+
		` dst -m comment --comment "pods to outside the cluster" -j MASQUERADE --random-fully`)
}

// parameter is a sysctl and the value that it must have.
type parameter struct{ name, value string }

// parameters are what the kernel must do for Pods: forward, and ask iptables
// also about packets between Pods of one bridge, so that policies and Services
// hold there (Documentation/networking/bridge.rst, br_netfilter).
func parameters(families []inet.Family) []parameter {
	var all []parameter
	for _, f := range families {
		switch f {
		case inet.IPv4:
			all = append(all, parameter{"net/ipv4/ip_forward", "1"}, parameter{"net/bridge/bridge-nf-call-iptables", "1"})
		case inet.IPv6:
			all = append(all, parameter{"net/ipv6/conf/all/forwarding", "1"}, parameter{"net/bridge/bridge-nf-call-ip6tables", "1"})
		}
	}
	return all
}
