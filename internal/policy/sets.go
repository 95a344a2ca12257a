package policy

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
)

// definition says what is in a set: one of the three. Rules that mean the same
// share a set, whatever policy they are of.
type definition struct {
	peers  *podPeers
	blocks blocks
	named  *namedPort
}

// podPeers are the Pods that one of several peers selects.
type podPeers struct {
	namespace string // of the policy
	peers     []cluster.PolicyPeer
}

// blocks are all blocks of addresses of a rule that have no exceptions, or one
// that has.
type blocks []*cluster.IPBlock

// namedPort is a name of ports: of all Pods, or of those of this node.
type namedPort struct {
	protocol inet.Protocol
	name     string
	local    bool
}

// name is the definition's identity: definitions of one name have the same
// entries.
func (d definition) name(f inet.Family) string {
	var parts []string
	switch {
	case d.peers != nil:
		parts = d.peers.identity()
	case d.blocks != nil:
		parts = d.blocks.identity()
	default:
		where := "all"
		if d.named.local {
			where = "local"
		}
		parts = []string{"port", d.named.protocol.String(), d.named.name, where}
	}
	return setName(peerPrefix+hash(parts...), f)
}

func (p *podPeers) identity() []string {
	parts := make([]string, 0, len(p.peers)+1)
	for _, peer := range p.peers {
		if peer.Namespaces == nil {
			parts = append(parts, "of "+p.namespace+" "+selectorText(peer.Pods))
		} else {
			parts = append(parts, "in "+selectorText(peer.Namespaces)+" "+selectorText(peer.Pods))
		}
	}
	slices.Sort(parts)
	return append(slices.Compact(parts), "pods")
}

// identity tells a block that is an exception from one that is beside the other.
func (b blocks) identity() []string {
	parts := make([]string, 0, len(b)+1)
	for _, block := range b {
		networks := []string{block.CIDR.String()}
		for _, except := range block.Except {
			networks = append(networks, except.String())
		}
		slices.Sort(networks[1:])
		parts = append(parts, strings.Join(networks, " "))
	}
	slices.Sort(parts)
	return append(slices.Compact(parts), "blocks")
}

// selectorText tells the selector of nothing from that of everything, which
// both print as nothing.
func selectorText(s labels.Selector) string {
	text := s.String()
	if text == "" && !s.Empty() {
		return "(nothing)"
	}
	return "(" + text + ")"
}

func (d definition) kind() ipset.Type {
	switch {
	case d.peers != nil:
		return ipset.HashIP
	case d.blocks != nil:
		return ipset.HashNet
	}
	return ipset.HashIPPort
}

// fill is the set as the cluster is now.
func (d definition) fill(s *state, f inet.Family) ipset.Set {
	set := ipset.Set{Spec: ipset.Spec{Type: d.kind(), Family: f}, Entries: map[ipset.Entry]struct{}{}}
	switch {
	case d.peers != nil:
		for i := range d.peers.peers {
			s.selected(d.peers.namespace, &d.peers.peers[i], func(pod *cluster.Pod) {
				if ip := podIP(pod, f); ip.IsValid() {
					set.Entries[ipset.IP(ip)] = struct{}{}
				}
			})
		}
	case d.blocks != nil:
		for _, block := range d.blocks {
			fillBlock(set, block)
		}
	default:
		d.named.fill(s, set)
	}
	return set
}

// fillBlock puts a block of addresses into a set of networks. The kernel takes
// the longest prefix that matches, so exceptions win inside their block.
func fillBlock(set ipset.Set, block *cluster.IPBlock) {
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

func (n *namedPort) fill(s *state, set ipset.Set) {
	index := s.pods
	if n.local {
		index = s.local
	}
	for _, some := range index {
		for _, pod := range some {
			if ip := podIP(pod, set.Family); ip.IsValid() && n.concerns(s, pod) {
				for _, entry := range n.entries(ip, pod.Ports) {
					set.Entries[entry] = struct{}{}
				}
			}
		}
	}
}

func (n *namedPort) concerns(s *state, pod *cluster.Pod) bool {
	return networked(pod) && (!n.local || pod.Node == s.node)
}

// entries are an address with the numbers that the name has among ports.
func (n *namedPort) entries(ip netip.Addr, ports []cluster.ContainerPort) []ipset.Entry {
	var list []ipset.Entry
	for _, p := range ports {
		if p.Name == n.name && p.Protocol == n.protocol && p.Port != 0 {
			list = append(list, ipset.IPPort(p.Protocol, netip.AddrPortFrom(ip, p.Port)))
		}
	}
	return list
}

// at says what of an address is in the set now, and what may have been.
func (d definition) at(s *state, ip netip.Addr) (present, absent []ipset.Entry) {
	switch {
	case d.peers != nil && d.peers.hold(s, ip):
		return []ipset.Entry{ipset.IP(ip)}, nil
	case d.peers != nil:
		return nil, []ipset.Entry{ipset.IP(ip)}
	case d.named == nil:
		return nil, nil
	}
	for _, pod := range s.holders[ip] {
		if podIP(pod, inet.FamilyOf(ip)) == ip && d.named.concerns(s, pod) {
			present = append(present, d.named.entries(ip, pod.Ports)...)
		}
	}
	for _, entry := range d.named.entries(ip, s.formerPorts[ip]) {
		if !slices.Contains(present, entry) {
			absent = append(absent, entry)
		}
	}
	return present, absent
}

// hold says whether a Pod with the address is among the peers.
func (p *podPeers) hold(s *state, ip netip.Addr) bool {
	for _, pod := range s.holders[ip] {
		// A Pod has one address a family that counts: the first.
		if podIP(pod, inet.FamilyOf(ip)) != ip {
			continue
		}
		for _, peer := range p.peers {
			if s.selects(p.namespace, &peer, pod) {
				return true
			}
		}
	}
	return false
}
