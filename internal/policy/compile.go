package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// mark is set on a packet that a policy of the direction being judged allows,
// and cleared before the next one is.
const mark = "0x10000/0x10000"

// output is what one address family wants of the kernel.
type output struct {
	family inet.Family
	sets   map[string]ipset.Set
	chains map[string][]string
	// selectors are the sets whose entries are Pods that peers select.
	selectors map[string]selector
	// namedEgress says that there are sets with the named ports of Pods
	// anywhere in the cluster.
	namedEgress bool
}

// selector is which Pods a set holds.
type selector struct {
	namespace string // of the policy
	peers     []cluster.PolicyPeer
}

// compile turns the cluster into the sets and chains of one family. Only
// policies that isolate a Pod of this node become chains.
func compile(c Config, s *state, f inet.Family) *output {
	o := &output{family: f, sets: map[string]ipset.Set{}, chains: map[string][]string{}, selectors: map[string]selector{}}
	isolated := o.set(setName(isolatedSet, f), ipset.HashIP)
	var in, out, input []string
	active := map[cluster.Key]*cluster.NetworkPolicy{}
	for _, pod := range s.localPods() {
		ip := podIP(pod, f)
		ins, outs := s.isolating(pod)
		if !ip.IsValid() || len(ins)+len(outs) == 0 {
			continue
		}
		isolated.Entries[ipset.IP(ip)] = struct{}{}
		for _, p := range append(slices.Clone(ins), outs...) {
			active[p.Key] = p
		}
		who := comment("pod " + pod.Key.String())
		in = append(in, o.dispatch("-d", ip, who, pod.Key, ingress, ins)...)
		asked := o.dispatch("-s", ip, who, pod.Key, egress, outs)
		out = append(out, asked...)
		if len(outs) == 0 {
			asked = []string{fmt.Sprintf("-s %s/%d %s -j RETURN", ip, ip.BitLen(), comment("pod "+pod.Key.String()+" with egress for all"))}
		}
		input = append(input, asked...)
	}
	for _, p := range active {
		o.policy(s, p)
	}
	o.top(c, in, out, input)
	return o
}

func (o *output) set(name string, kind ipset.Type) ipset.Set {
	set := ipset.Set{Spec: ipset.Spec{Type: kind, Family: o.family}, Entries: map[ipset.Entry]struct{}{}}
	o.sets[name] = set
	return set
}

// dispatch makes the chain that judges a Pod's traffic of a direction, and
// returns the rule that leads there. A Pod that no policy isolates in that
// direction needs neither.
func (o *output) dispatch(flag string, ip netip.Addr, who string, pod cluster.Key, d direction, policies []*cluster.NetworkPolicy) []string {
	if len(policies) == 0 {
		return nil
	}
	chain := podChain(pod, d)
	o.chains[chain] = o.verdicts(pod, d, policies)
	return []string{fmt.Sprintf("%s %s/%d %s -j %s", flag, ip, ip.BitLen(), who, chain)}
}

// verdicts asks each policy in turn. The first that allows sets the mark, and
// the packet goes on to the other direction's chains and to the host's rules.
// What none allows is logged at a limited rate, and rejected: an answer at
// once is worth more at night than a connection that hangs.
func (o *output) verdicts(pod cluster.Key, d direction, policies []*cluster.NetworkPolicy) []string {
	rules := []string{"-j MARK --set-xmark 0x0/0x10000"}
	for _, p := range policies {
		rules = append(rules, comment("policy "+p.Key.String())+" -j "+policyChain(p.Key, d))
		rules = append(rules, "-m mark --mark "+mark+" -j RETURN")
	}
	denied := comment("denied " + string(d) + " of pod " + pod.String())
	return append(rules,
		denied+" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100",
		denied+" -j REJECT --reject-with "+unreachable(o.family))
}

func unreachable(f inet.Family) string {
	if f == inet.IPv6 {
		return "icmp6-port-unreachable"
	}
	return "icmp-port-unreachable"
}

// policy makes the chains of a policy, one a direction.
func (o *output) policy(s *state, p *cluster.NetworkPolicy) {
	if p.IsolatesIngress {
		o.chains[policyChain(p.Key, ingress)] = o.rules(s, p, ingress, p.Ingress)
	}
	if p.IsolatesEgress {
		o.chains[policyChain(p.Key, egress)] = o.rules(s, p, egress, p.Egress)
	}
}

// rules marks what one of a policy's rules allows.
func (o *output) rules(s *state, p *cluster.NetworkPolicy, d direction, rules []cluster.PolicyRule) []string {
	text := []string{} // a policy without rules allows nothing, in a chain of its own
	for i, rule := range rules {
		for _, peer := range o.peers(s, p, d, i, rule) {
			for _, port := range o.ports(s, p, d, i, rule) {
				// iptables-save writes the protocol before the matches.
				match := strings.Join(strings.Fields(port.protocol+" "+peer+" "+port.match), " ")
				text = append(text, strings.TrimSpace(match+" -j MARK --set-xmark "+mark))
			}
		}
	}
	return text
}

// peers makes the sets of a rule's peers and returns a match for each. All
// Pods share a set; each block of addresses has its own, so that no peer's
// exceptions cut into another's addresses.
func (o *output) peers(s *state, p *cluster.NetworkPolicy, d direction, index int, rule cluster.PolicyRule) []string {
	if rule.AnyPeer {
		return []string{""}
	}
	var matches []string
	match := func(name string) { matches = append(matches, "-m set --match-set "+name+" "+d.peer()) }
	id := fmt.Sprintf("%s/%d", d, index)
	pods := selector{namespace: p.Namespace}
	for i, peer := range rule.Peers {
		if peer.Block == nil {
			pods.peers = append(pods.peers, peer)
			continue
		}
		if inet.FamilyOf(peer.Block.CIDR.Addr()) == o.family {
			name := setName(peerPrefix+hash(p.Namespace, p.Name, id, fmt.Sprint(i)), o.family)
			fill(o.set(name, ipset.HashNet), peer.Block)
			match(name)
		}
	}
	if len(pods.peers) > 0 {
		name := setName(peerPrefix+hash(p.Namespace, p.Name, id), o.family)
		o.selectors[name] = pods
		o.choose(s, o.set(name, ipset.HashIP), pods)
		match(name)
	}
	return matches
}

// choose fills a set with the Pods that its peers select.
func (o *output) choose(s *state, set ipset.Set, sel selector) {
	for _, peer := range sel.peers {
		for _, pod := range s.candidates(sel.namespace, peer) {
			if ip := podIP(pod, o.family); ip.IsValid() && s.selects(sel.namespace, peer, pod) {
				set.Entries[ipset.IP(ip)] = struct{}{}
			}
		}
	}
}

// holds says whether a Pod with the address belongs into a set.
func (sel selector) holds(s *state, ip netip.Addr) bool {
	for _, pod := range s.byIP[ip] {
		for _, peer := range sel.peers {
			// A Pod has one address a family that counts: the first.
			if podIP(pod, inet.FamilyOf(ip)) == ip && s.selects(sel.namespace, peer, pod) {
				return true
			}
		}
	}
	return false
}

// fill puts a block of addresses into a set of networks. The kernel takes the
// longest prefix that matches, so exceptions win inside their block.
func fill(set ipset.Set, block *cluster.IPBlock) {
	for _, half := range halves(block.CIDR) {
		set.Entries[ipset.Entry{Prefix: half}] = struct{}{}
	}
	for _, except := range block.Except {
		for _, half := range halves(except) {
			delete(set.Entries, ipset.Entry{Prefix: half}) // all of the block
			set.Entries[ipset.Entry{Prefix: half, NoMatch: true}] = struct{}{}
		}
	}
}

// halves splits a prefix of length 0, which a set of networks cannot hold.
func halves(p netip.Prefix) []netip.Prefix {
	switch {
	case p.Bits() != 0:
		return []netip.Prefix{p}
	case p.Addr().Is4():
		return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")}
	}
	return []netip.Prefix{netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1")}
}

// portMatch is a port in iptables' words.
type portMatch struct{ protocol, match string }

// ports returns a match for each of a rule's ports.
func (o *output) ports(s *state, p *cluster.NetworkPolicy, d direction, index int, rule cluster.PolicyRule) []portMatch {
	if rule.AnyPort {
		return []portMatch{{}}
	}
	var matches []portMatch
	for i, port := range rule.Ports {
		m := portMatch{protocol: "-p " + port.Protocol.String()}
		switch {
		case port.Name != "":
			m = portMatch{match: o.named(s, p, d, fmt.Sprintf("%s/%d/port/%d", d, index, i), port)}
		case port.Port == 0:
		case port.End > port.Port:
			m.match = fmt.Sprintf("-m %s --dport %d:%d", port.Protocol, port.Port, port.End)
		default:
			m.match = fmt.Sprintf("-m %s --dport %d", port.Protocol, port.Port)
		}
		matches = append(matches, m)
	}
	return matches
}

// named makes the set of a named port: the addresses of the Pods that traffic
// goes to, each with the number that the name has there.
func (o *output) named(s *state, p *cluster.NetworkPolicy, d direction, id string, port cluster.PolicyPort) string {
	name := setName(peerPrefix+hash(p.Namespace, p.Name, id), o.family)
	set := o.set(name, ipset.HashIPPort)
	targets := s.pods
	if d == ingress {
		targets = s.local
	} else {
		o.namedEgress = true
	}
	for _, pod := range targets {
		ip := podIP(pod, o.family)
		if !networked(pod) || !ip.IsValid() || d == ingress && (pod.Namespace != p.Namespace || !p.Pods.Matches(pod.Labels)) {
			continue
		}
		for _, has := range pod.Ports {
			if has.Name == port.Name && has.Protocol == port.Protocol && has.Port != 0 {
				set.Entries[ipset.IPPort(has.Protocol, netip.AddrPortFrom(ip, has.Port))] = struct{}{}
			}
		}
	}
	return "-m set --match-set " + name + " dst,dst"
}

// top makes the chains that all packets meet. Both sides are asked: the source
// Pod's egress policies, then the destination Pod's ingress policies.
//
//   - FORWARD has what is routed, and what the bridge switches.
//   - OUTPUT has what the host sends, which may always reach its Pods, and what
//     IPVS has translated: its source is the client still.
//   - INPUT has what Pods send to the host. What they send to a Service is
//     judged after its translation.
func (o *output) top(c Config, in, out, input []string) {
	set := setName(isolatedSet, o.family)
	established := "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
	passes := append([]string{established}, neighbours(o.family)...)
	head := append([]string{"-m set ! --match-set " + set + " src -m set ! --match-set " + set + " dst -j RETURN"}, passes...)
	o.chains[forwardChain] = slices.Concat(head, out, in)
	o.chains[outputChain] = slices.Concat(head, out, []string{"-m addrtype --src-type LOCAL -j RETURN"}, in)
	o.chains[inputChain] = slices.Concat(
		[]string{"-m set ! --match-set " + set + " src -j RETURN"}, passes, services(c, o.family), input)
}

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
// whichever proxy serves it.
func services(c Config, f inet.Family) []string {
	var rules []string
	for _, r := range c.ServiceRanges {
		if inet.FamilyOf(r.Addr()) == f {
			rules = append(rules, "-d "+r.Masked().String()+" "+comment("service addresses")+" -j RETURN")
		}
	}
	for _, p := range []inet.Protocol{inet.TCP, inet.UDP, inet.SCTP} {
		rules = append(rules, fmt.Sprintf("-p %s -m addrtype --dst-type LOCAL -m %s --dport %d:%d %s -j RETURN",
			p, p, c.NodePorts.First, c.NodePorts.Last, comment("node ports")))
	}
	return rules
}

// section is the output as the keeper of the rules takes it.
func (o *output) section() iptables.Section {
	var jumps []iptables.Jump
	for builtin, chain := range map[string]string{"INPUT": inputChain, "FORWARD": forwardChain, "OUTPUT": outputChain} {
		jumps = append(jumps, iptables.Jump{Chain: builtin, Rank: iptables.RankPolicy, Rule: "-j " + chain})
	}
	return iptables.Section{
		Owner:    "policy",
		Prefixes: []string{inputChain, forwardChain, outputChain, podPrefix, policyPrefix},
		Tables:   map[iptables.Table]iptables.Content{iptables.Filter: {Chains: o.chains, Jumps: jumps}},
	}
}
