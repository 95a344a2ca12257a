package policy

import (
	"iter"
	"net/netip"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
)

// mark is set on a packet that a policy of the direction being judged allows,
// and cleared before the next one is.
const mark = "0x10000/0x10000"

// compiled is one policy in one family: the rules of its chains, nil for a
// direction that it does not isolate, and the sets that they match.
type compiled struct {
	rules [directions][]string
	sets  map[string]definition
}

// compilePolicy is a pure function of the policy.
func compilePolicy(p *cluster.NetworkPolicy, f inet.Family) *compiled {
	c := &compiled{sets: map[string]definition{}}
	for d, rules := range [directions][]cluster.PolicyRule{p.Ingress, p.Egress} {
		if isolates(p, direction(d)) {
			c.rules[d] = c.allow(p, direction(d), rules, f)
		}
	}
	return c
}

// allow marks what one of a policy's rules allows. The port comes before the
// set: to compare it costs a tenth of looking an address up.
func (c *compiled) allow(p *cluster.NetworkPolicy, d direction, rules []cluster.PolicyRule, f inet.Family) []string {
	text := []string{} // a policy without rules allows nothing, in a chain of its own
	said := map[string]bool{}
	for i := range rules {
		peers := c.peers(p, d, &rules[i], f)
		if len(peers) == 0 {
			continue
		}
		for _, port := range c.ports(d, &rules[i], f) {
			for _, peer := range peers {
				if rule := port + peer + "-j MARK --set-xmark " + mark; !said[rule] {
					said[rule] = true
					text = append(text, rule)
				}
			}
		}
	}
	return text
}

// match is the name of a set with a definition.
func (c *compiled) match(d definition, f inet.Family) string {
	name := d.name(f)
	c.sets[name] = d
	return "-m set --match-set " + name + " "
}

// peers returns a match for each set of a rule's peers. All Pods share one, and
// so do all blocks of addresses without exceptions: rules are walked one by one
// for each new connection, and a set is asked once whatever its size. A block
// with exceptions has its own, so that they do not cut into another's addresses.
func (c *compiled) peers(p *cluster.NetworkPolicy, d direction, rule *cluster.PolicyRule, f inet.Family) []string {
	if rule.AnyPeer {
		return []string{""}
	}
	var sets []definition
	var whole blocks
	pods := podPeers{namespace: p.Namespace}
	for _, peer := range rule.Peers {
		switch block := peer.Block; {
		case block == nil:
			pods.peers = append(pods.peers, peer)
		case inet.FamilyOf(block.CIDR.Addr()) != f:
		case len(block.Except) == 0:
			whole = append(whole, block)
		default:
			sets = append(sets, definition{blocks: blocks{block}})
		}
	}
	if len(whole) > 0 {
		sets = append(sets, definition{blocks: whole})
	}
	if len(pods.peers) > 0 {
		sets = append(sets, definition{peers: &pods})
	}
	matches := make([]string, 0, len(sets))
	for _, set := range sets {
		matches = append(matches, c.match(set, f)+d.peer()+" ")
	}
	return matches
}

// ports returns a match for each of a rule's ports.
func (c *compiled) ports(d direction, rule *cluster.PolicyRule, f inet.Family) []string {
	if rule.AnyPort {
		return []string{""}
	}
	var matches []string
	for _, port := range rule.Ports {
		matches = append(matches, c.port(d, port, f))
	}
	return matches
}

func (c *compiled) port(d direction, port cluster.PolicyPort, f inet.Family) string {
	protocol := port.Protocol.String()
	number := "-p " + protocol + " -m " + protocol + " --dport " + strconv.Itoa(int(port.Port))
	switch {
	case port.Name != "":
		// The traffic goes to a Pod of this node where ingress is judged.
		named := definition{named: &namedPort{port.Protocol, port.Name, d == ingress}}
		return c.match(named, f) + "dst,dst "
	case port.Port == 0:
		return "-p " + protocol + " "
	case port.End > port.Port:
		return number + ":" + strconv.Itoa(int(port.End)) + " "
	}
	return number + " "
}

// verdicts asks each policy in turn. The first that allows sets the mark, and
// the packet goes on to the other direction's chains and to the host's rules.
// What none allows is logged at a limited rate, and rejected: an answer at
// once is worth more at night than a connection that hangs.
func verdicts(d direction, policies []cluster.Key, f inet.Family) []string {
	rules := make([]string, 0, 2*len(policies)+3)
	rules = append(rules, "-j MARK --set-xmark 0x0/0x10000")
	names := make([]string, len(policies))
	for i, p := range policies {
		names[i] = p.Name
		// Each rule is unlike all others: see iptables.Ruleset.
		rules = append(rules, comment("policy "+p.String())+" -j "+policyChain(p, d),
			"-m mark --mark "+mark+" "+comment("allowed by "+p.String())+" -j RETURN")
	}
	denied := comment("denied " + d.String() + " in " + policies[0].Namespace + " by " + strings.Join(names, ", "))
	return append(rules,
		denied+" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100",
		denied+" -j REJECT --reject-with "+unreachable(f))
}

func unreachable(f inet.Family) string {
	if f == inet.IPv6 {
		return "icmp6-port-unreachable"
	}
	return "icmp-port-unreachable"
}

// addressSet is a set of single addresses.
func addressSet(f inet.Family, addrs iter.Seq[netip.Addr]) ipset.Set {
	set := ipset.Set{Spec: ipset.Spec{Type: ipset.HashIP, Family: f}, Entries: map[ipset.Entry]struct{}{}}
	for addr := range addrs {
		set.Entries[ipset.IP(addr)] = struct{}{}
	}
	return set
}
