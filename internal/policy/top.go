package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// top makes the chains that all packets meet. Both sides are asked: the source
// Pod's egress policies, then the destination Pod's ingress policies.
//
//   - FORWARD has what is routed, and what the bridge switches.
//   - OUTPUT has what the host sends, which may always reach its Pods, and what
//     IPVS has translated: its source is the client still.
//   - INPUT has what Pods send to the host. What they send to a Service is
//     judged after its translation.
//
// closed are this node's Pod CIDRs where Pods are closed that it does not know
// yet, bridges those on which Pods have their own addresses only.
func top(c Config, f inet.Family, closed []netip.Prefix, bridges, out, in []string) map[string][]string {
	isolated := setName(isolatedSet, f)
	notFrom := "-m set ! --match-set " + isolated + " src "
	passes := slices.Concat(c.cutRule(), []string{"-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"}, neighbours(f))
	unaffected := notFrom + "-m set ! --match-set " + isolated + " dst -j RETURN"
	both := guard(f, closed, newSource, newDestination)
	astray, astrayIn, bridged := strays(c, f, bridges)
	chains := map[string][]string{
		forwardChain: slices.Concat(astray, both, []string{unaffected}, passes, out, in),
		outputChain:  slices.Concat(both, []string{unaffected}, passes, out, []string{fromHost + " -j RETURN"}, in),
		inputChain: slices.Concat(astrayIn, guard(f, closed, newAsking), []string{notFrom + "-j RETURN"}, passes,
			services(c, f), out),
	}
	maps.Copy(chains, bridged)
	if c.CutFlows {
		chains[cutChain] = refuseCut(f)
	}
	return chains
}

const fromHost = "-m addrtype --src-type LOCAL"

// guard drops what Pods send and get that this node does not know yet. The
// host itself reaches them, and has their answers: kubelet's probes are not a
// matter of policies. What is dropped is sent again, so that a Pod's first
// packets are late, not lost.
func guard(f inet.Family, closed []netip.Prefix, rules ...string) []string {
	var all []string
	for _, cidr := range closed {
		for _, rule := range rules {
			all = append(all, strings.NewReplacer("CIDR", cidr.String(), "SET", setName(localSet, f)).Replace(rule)+
				"-m addrtype ! --src-type LOCAL "+comment("new pod")+" -j DROP")
		}
	}
	if len(all) == 0 {
		return nil
	}
	return append(neighbours(f), all...)
}

// The rules of guard: an address of the Pod CIDR that is not in the set.
const (
	newSource      = "-s CIDR -m set ! --match-set SET src "
	newDestination = "-d CIDR -m set ! --match-set SET dst "
	newAsking      = newSource + "-m conntrack ! --ctstate RELATED,ESTABLISHED "
)

// neighbours lets pass what IPv6 has in ARP's place: neighbour solicitations
// and advertisements (RFC 4861). They are ICMPv6 with the Pod's address, meet
// these chains, on bridges too, and belong to no connection; a Pod without
// them reaches nothing, its gateway included.
func neighbours(f inet.Family) []string {
	if f != inet.IPv6 {
		return nil
	}
	return []string{
		"-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN",
		"-p ipv6-icmp -m icmp6 --icmpv6-type 136 -j RETURN",
	}
}

// services lets pass what goes to a Service, by the cluster's ranges: it holds
// whichever proxy serves it. At an address of a Service there is no program of
// the host, but at a node port that no Service has there may be one, and it is
// open to isolated Pods then: the price of not knowing the other proxy's.
func services(c Config, f inet.Family) []string {
	var rules []string
	for _, r := range slices.Concat(c.ServiceRanges, c.ExternalRanges) {
		if inet.FamilyOf(r.Addr()) == f {
			rules = append(rules, "-d "+r.Masked().String()+" "+comment("service addresses")+" -j RETURN")
		}
	}
	if c.NodePorts.empty() {
		return rules
	}
	for _, p := range []inet.Protocol{inet.TCP, inet.UDP, inet.SCTP} {
		rules = append(rules, fmt.Sprintf("-p %s -m addrtype --dst-type LOCAL -m %s --dport %d:%d %s -j RETURN",
			p, p, c.NodePorts.First, c.NodePorts.Last, comment("node ports")))
	}
	return rules
}

// RulesOwner is the owner of the iptables rules that enforce policies.
const RulesOwner = "policy"

// section is a plan's rules as the keeper of the rules takes them.
func section(chains map[string][]string) iptables.Section {
	var jumps []iptables.Jump
	for builtin, chain := range map[string]string{"INPUT": inputChain, "FORWARD": forwardChain, "OUTPUT": outputChain} {
		if _, made := chains[chain]; !made {
			continue // of a family that the cluster does not have
		}
		jumps = append(jumps, iptables.Jump{Chain: builtin, Rank: iptables.RankPolicy, Rule: "-j " + chain})
	}
	return iptables.Section{
		Owner:    RulesOwner,
		Prefixes: OwnedChains(),
		Tables:   map[iptables.Table]iptables.Content{iptables.Filter: {Chains: chains, Jumps: jumps}},
	}
}
