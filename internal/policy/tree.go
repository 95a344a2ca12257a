package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// leaf is a Pod's address and the chain that judges a direction of its traffic.
type leaf struct {
	addr  netip.Addr
	chain string
}

// mostLeaves is how many addresses are compared one after the other; where
// there are more, a rule for each prefix of the next four bits leads to fewer.
const mostLeaves = 16

// branching is the number of bits that are told apart at a time.
const branching = 4

// tree makes the rules that lead each Pod's packets of a direction to its chain,
// and the chains between: a packet meets some 32 rules where there are 250
// Pods. Their names follow from the prefix.
func tree(d direction, leaves []leaf, chains map[string][]string) []string {
	slices.SortFunc(leaves, func(a, b leaf) int { return a.addr.Compare(b.addr) })
	return branch(d, leaves, chains)
}

func branch(d direction, leaves []leaf, chains map[string][]string) []string {
	rules := []string{}
	if len(leaves) <= mostLeaves {
		for _, l := range leaves {
			rules = append(rules, d.own()+netip.PrefixFrom(l.addr, l.addr.BitLen()).String()+" -j "+l.chain)
		}
		return rules
	}
	bits := commonBits(leaves[0].addr, leaves[len(leaves)-1].addr)/branching*branching + branching
	for len(leaves) > 0 {
		prefix, _ := leaves[0].addr.Prefix(bits) // bits is at most the address's
		n := 1
		for n < len(leaves) && prefix.Contains(leaves[n].addr) {
			n++
		}
		if n == 1 {
			rules = append(rules, branch(d, leaves[:1], chains)...)
		} else {
			name := podPrefix + hash("prefix", d.String(), prefix.String())
			chains[name] = branch(d, leaves[:n], chains)
			rules = append(rules, d.own()+prefix.String()+" -j "+name)
		}
		leaves = leaves[n:]
	}
	return rules
}

// commonBits is the number of leading bits that two addresses share.
func commonBits(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range x {
		for bit := range 8 {
			if (x[i]^y[i])&(0x80>>bit) != 0 {
				return i*8 + bit
			}
		}
	}
	return a.BitLen()
}

// finish makes top and the trees where they change.
func (p *plan) finish(closed []netip.Prefix, bridges []string) {
	if p.grown || !p.planted || !slices.Equal(closed, p.closed) || !slices.Equal(bridges, p.bridges) {
		p.closed, p.bridges = closed, bridges
		p.plant()
	}
}

// plant makes the trees and the chains above them. A chain that is as before
// keeps its text, which says that there is nothing to do about it.
func (p *plan) plant() {
	p.grown, p.planted = false, true
	made := map[string][]string{}
	var rules [directions][]string
	for d := range directions {
		var leaves []leaf
		for _, place := range p.places {
			if place.chains[d] != "" {
				leaves = append(leaves, leaf{place.addr, place.chains[d]})
			}
		}
		rules[d] = tree(d, leaves, made)
	}
	if p.bare {
		made = strayTop(p.config, p.family, p.bridges)
	} else {
		maps.Copy(made, top(p.config, p.family, p.closed, p.bridges, rules[egress], rules[ingress]))
	}
	for name := range p.branches {
		if _, still := made[name]; !still {
			delete(p.chains, name)
		}
	}
	p.branches = make(map[string]struct{}, len(made))
	for name, rules := range made {
		p.branches[name] = struct{}{}
		if !slices.Equal(rules, p.chains[name]) || p.chains[name] == nil {
			p.chains[name] = rules
		}
	}
}
