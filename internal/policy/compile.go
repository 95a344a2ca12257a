package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// output is the desired kernel state of one family.
type output struct {
	sets   map[string]ipset.Set
	chains map[string][]string
}

const (
	passed   = "0x10000/0x10000"
	isolated = "kube-router-isolated"
)

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "/")))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

func comment(s string) string { return `-m comment --comment "` + s + `"` }

func setName(base string, f inet.Family) string {
	if f == inet.IPv6 {
		return "inet6:" + base
	}
	return base
}

// compile turns the cluster into one family's sets and chains.
func compile(c Config, s *state, f inet.Family) output {
	o := output{sets: map[string]ipset.Set{}, chains: map[string][]string{}}
	used := map[cluster.Key]bool{}
	var dispatchIn, dispatchOut []string
	o.set(setName(isolated, f), ipset.HashIP, f)
	for _, key := range s.localPods(c.Node) {
		pod := s.pods[key]
		ip := podIP(pod, f)
		if !ip.IsValid() {
			continue
		}
		ingress, egress := s.isolating(pod)
		if len(ingress)+len(egress) == 0 {
			continue
		}
		o.sets[setName(isolated, f)].Entries[ipset.IP(ip)] = struct{}{}
		in, out := o.podChains(key, ingress, egress)
		for _, p := range append(ingress, egress...) {
			used[p.Key] = true
		}
		name := comment("pod " + key.String())
		if out != "" {
			dispatchOut = append(dispatchOut, fmt.Sprintf("-s %s/%d %s -j %s", ip, ip.BitLen(), name, out))
		}
		if in != "" {
			dispatchIn = append(dispatchIn, fmt.Sprintf("-d %s/%d %s -j %s", ip, ip.BitLen(), name, in))
		}
	}
	for key := range used {
		o.policyChains(s, s.policies[key], f)
	}
	o.topChains(c, f, dispatchIn, dispatchOut)
	return o
}

func (o *output) set(name string, kind ipset.Type, f inet.Family) ipset.Set {
	set := ipset.Set{Spec: ipset.Spec{Type: kind, Family: f}, Entries: map[ipset.Entry]struct{}{}}
	o.sets[name] = set
	return set
}

// podChains makes the chains that judge a pod's traffic, one a direction.
func (o *output) podChains(key cluster.Key, ingress, egress []*cluster.NetworkPolicy) (in, out string) {
	make := func(direction string, policies []*cluster.NetworkPolicy) string {
		if len(policies) == 0 {
			return ""
		}
		chain := "KUBE-POD-FW-" + hash(key.Namespace, key.Name, direction)
		var rules []string
		for _, p := range policies {
			rules = append(rules, fmt.Sprintf("%s -j %s", comment("policy "+p.Key.String()), policyChain(p.Key, direction)))
		}
		pod := comment(direction + " of pod " + key.String())
		rules = append(rules,
			"-m mark ! --mark "+passed+" "+comment("denied "+direction+" of pod "+key.String())+" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100",
			"-m mark ! --mark "+passed+" "+pod+" -j REJECT --reject-with icmp-port-unreachable",
			"-j MARK --set-xmark 0x0/0x10000")
		o.chains[chain] = rules
		return chain
	}
	return make("ingress", ingress), make("egress", egress)
}

func policyChain(key cluster.Key, direction string) string {
	return "KUBE-NWPLCY-" + hash(key.Namespace, key.Name, direction)
}

// policyChains makes the chains of a policy: a rule for each peer and port.
func (o *output) policyChains(s *state, p *cluster.NetworkPolicy, f inet.Family) {
	if p.IsolatesIngress {
		o.direction(s, p, f, "ingress", "src", p.Ingress)
	}
	if p.IsolatesEgress {
		o.direction(s, p, f, "egress", "dst", p.Egress)
	}
}

func (o *output) direction(s *state, p *cluster.NetworkPolicy, f inet.Family, direction, side string, rules []cluster.PolicyRule) {
	var text []string
	for i, rule := range rules {
		for _, peer := range o.peers(s, p, f, direction, side, i, rule) {
			for _, port := range ports(rule) {
				match := strings.TrimSpace(peer + " " + port)
				text = append(text, strings.TrimSpace(match+" -j MARK --set-xmark "+passed))
			}
		}
	}
	o.chains[policyChain(p.Key, direction)] = text
}

// peers makes the sets of a rule's peers and returns a match for each.
func (o *output) peers(s *state, p *cluster.NetworkPolicy, f inet.Family, direction, side string, index int, rule cluster.PolicyRule) []string {
	if rule.AnyPeer {
		return []string{""}
	}
	var matches []string
	id := fmt.Sprintf("%s/%d", direction, index)
	pods := o.set(setName("KUBE-ROUTER-"+hash(p.Namespace, p.Name, id), f), ipset.HashIP, f)
	matches = append(matches, fmt.Sprintf("-m set --match-set %s %s", setName("KUBE-ROUTER-"+hash(p.Namespace, p.Name, id), f), side))
	for j, peer := range rule.Peers {
		if peer.Block == nil {
			for _, ip := range s.selected(p.Namespace, peer, f) {
				pods.Entries[ipset.IP(ip)] = struct{}{}
			}
			continue
		}
		if inet.FamilyOf(peer.Block.CIDR.Addr()) != f {
			continue
		}
		name := setName("KUBE-ROUTER-"+hash(p.Namespace, p.Name, id, fmt.Sprint(j)), f)
		block := o.set(name, ipset.HashNet, f)
		for _, half := range halves(peer.Block.CIDR) {
			block.Entries[ipset.Entry{Prefix: half}] = struct{}{}
		}
		for _, except := range peer.Block.Except {
			for _, half := range halves(except) {
				delete(block.Entries, ipset.Entry{Prefix: half})
				block.Entries[ipset.Entry{Prefix: half, NoMatch: true}] = struct{}{}
			}
		}
		matches = append(matches, fmt.Sprintf("-m set --match-set %s %s", name, side))
	}
	return matches
}

// halves splits a prefix of length 0, which a hash:net set cannot hold.
func halves(p netip.Prefix) []netip.Prefix {
	if p.Bits() != 0 {
		return []netip.Prefix{p}
	}
	if p.Addr().Is4() {
		return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")}
	}
	return []netip.Prefix{netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1")}
}

// ports returns a match for each of a rule's ports.
func ports(rule cluster.PolicyRule) []string {
	if rule.AnyPort {
		return []string{""}
	}
	var matches []string
	for _, p := range rule.Ports {
		switch {
		case p.Name != "":
			continue // named ports: the next issue
		case p.Port == 0:
			matches = append(matches, "-p "+p.Protocol.String())
		case p.End > p.Port:
			matches = append(matches, fmt.Sprintf("-p %s -m %s --dport %d:%d", p.Protocol, p.Protocol, p.Port, p.End))
		default:
			matches = append(matches, fmt.Sprintf("-p %s -m %s --dport %d", p.Protocol, p.Protocol, p.Port))
		}
	}
	return matches
}

func (o *output) topChains(c Config, f inet.Family, in, out []string) {
	set := setName(isolated, f)
	head := []string{
		fmt.Sprintf("-m set ! --match-set %s src -m set ! --match-set %s dst -j RETURN", set, set),
		"-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
	}
	local := []string{"-m addrtype --src-type LOCAL -j RETURN"}
	var vips []string
	for _, r := range c.ServiceRanges {
		if inet.FamilyOf(r.Addr()) == f {
			vips = append(vips, "-d "+r.String()+" -j RETURN")
		}
	}
	for _, p := range []string{"tcp", "udp", "sctp"} {
		vips = append(vips, fmt.Sprintf("-p %s -m addrtype --dst-type LOCAL -m %s --dport %d:%d -j RETURN", p, p, c.FirstPort, c.LastPort))
	}
	o.chains["KUBE-ROUTER-INPUT"] = slices.Concat(head, vips, out)
	o.chains["KUBE-ROUTER-FORWARD"] = slices.Concat(head, out, in)
	o.chains["KUBE-ROUTER-OUTPUT"] = slices.Concat(head, out, local, in)
}

// section is the output as what the Ruleset takes.
func (o *output) section() iptables.Section {
	var jumps []iptables.Jump
	for _, builtin := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		jumps = append(jumps, iptables.Jump{Chain: builtin, Rank: iptables.RankPolicy, Rule: "-j KUBE-ROUTER-" + builtin})
	}
	return iptables.Section{
		Owner:    "policy",
		Prefixes: []string{"KUBE-ROUTER-INPUT", "KUBE-ROUTER-FORWARD", "KUBE-ROUTER-OUTPUT", "KUBE-POD-FW-", "KUBE-NWPLCY-"},
		Tables:   map[iptables.Table]iptables.Content{iptables.Filter: {Chains: o.chains, Jumps: jumps}},
	}
}
