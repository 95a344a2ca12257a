package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// state is the part of the cluster that policies depend on, with the indexes
// that make a change cost what it concerns.
type state struct {
	node       string         // ours
	podCIDRs   []netip.Prefix // of this node
	namespaces namespaces
	policies   map[string]map[cluster.Key]*cluster.NetworkPolicy // by namespace
	pods       map[string]map[cluster.Key]*cluster.Pod           // by namespace
	// holders has the networked Pods of an address: more than one for a moment,
	// where an address is used again before the API tells of the first one's end.
	holders map[netip.Addr][]*cluster.Pod
	// formerPorts are named ports that Pods of an address had, until the sets of
	// named ports have been looked at.
	formerPorts map[netip.Addr][]cluster.ContainerPort
	// strangers are addresses of this node's Pod CIDRs that Pods of other nodes
	// have, and whose they are.
	strangers map[netip.Addr]cluster.Key
	// local are the Pods that policies may isolate here, by namespace. waiting
	// are Pods of this node that have no address yet.
	local   map[string]map[cluster.Key]*cluster.Pod
	waiting map[string]map[cluster.Key]*cluster.Pod
}

func newState(node string) *state {
	return &state{
		node:        node,
		namespaces:  newNamespaces(),
		policies:    map[string]map[cluster.Key]*cluster.NetworkPolicy{},
		pods:        map[string]map[cluster.Key]*cluster.Pod{},
		holders:     map[netip.Addr][]*cluster.Pod{},
		formerPorts: map[netip.Addr][]cluster.ContainerPort{},
		strangers:   map[netip.Addr]cluster.Key{},
		local:       map[string]map[cluster.Key]*cluster.Pod{},
		waiting:     map[string]map[cluster.Key]*cluster.Pod{},
	}
}

// networked says whether a Pod has addresses of its own. Those on the host's
// network share the node's, and finished ones have given theirs back.
func networked(p *cluster.Pod) bool {
	return p != nil && !p.HostNetwork && !p.Finished && len(p.IPs) > 0
}

// isolable says whether policies may isolate a Pod on this node.
func (s *state) isolable(p *cluster.Pod) bool { return networked(p) && p.Node == s.node }

// expected says whether a Pod of this node will have an address.
func (s *state) expected(p *cluster.Pod) bool {
	return p != nil && p.Node == s.node && !p.HostNetwork && !p.Finished && len(p.IPs) == 0
}

// setPod takes note of a Pod's change. It returns the addresses whose place in
// sets may have changed, and whether it is a Pod that rules may be about.
func (s *state) setPod(old, new *cluster.Pod) (addrs []netip.Addr, rules bool) {
	if old != nil {
		remove(s.pods, old.Namespace, old.Key)
		remove(s.local, old.Namespace, old.Key)
		remove(s.waiting, old.Namespace, old.Key)
	}
	if networked(old) {
		s.leave(old)
		addrs = append(addrs, old.IPs...)
	}
	if new != nil {
		add(s.pods, new.Namespace, new.Key, new)
	}
	if networked(new) {
		for _, ip := range new.IPs {
			s.holders[ip] = append(s.holders[ip], new)
		}
		addrs = append(addrs, new.IPs...)
	}
	if s.isolable(new) {
		add(s.local, new.Namespace, new.Key, new)
	}
	if s.expected(new) {
		add(s.waiting, new.Namespace, new.Key, new)
	}
	rules = s.isolable(old) || s.isolable(new) || s.expected(old) || s.expected(new)
	for _, ip := range addrs {
		rules = s.recognize(ip) || rules
	}
	return addrs, rules
}

// recognize notes whether an address is a stranger's and says whether that has
// changed.
func (s *state) recognize(ip netip.Addr) bool {
	before := s.strangers[ip]
	delete(s.strangers, ip)
	if slices.ContainsFunc(s.podCIDRs, func(cidr netip.Prefix) bool { return cidr.Contains(ip) }) {
		for _, pod := range s.holders[ip] {
			if pod.Node != s.node {
				s.strangers[ip] = pod.Key
			}
		}
	}
	return s.strangers[ip] != before
}

// leave takes a Pod's addresses back.
func (s *state) leave(p *cluster.Pod) {
	for _, ip := range p.IPs {
		s.holders[ip] = slices.DeleteFunc(s.holders[ip], func(other *cluster.Pod) bool { return other == p })
		if len(s.holders[ip]) == 0 {
			delete(s.holders, ip)
		}
		if len(p.Ports) > 0 {
			s.formerPorts[ip] = append(s.formerPorts[ip], p.Ports...)
		}
	}
}

func add[T any](index map[string]map[cluster.Key]*T, namespace string, key cluster.Key, object *T) {
	if index[namespace] == nil {
		index[namespace] = map[cluster.Key]*T{}
	}
	index[namespace][key] = object
}

func remove[T any](index map[string]map[cluster.Key]*T, namespace string, key cluster.Key) {
	delete(index[namespace], key)
	if len(index[namespace]) == 0 {
		delete(index, namespace)
	}
}

// setNamespace takes note of a Namespace's change and returns the addresses of
// its Pods: selectors of namespaces may take or leave them.
func (s *state) setNamespace(old, new *cluster.Namespace) []netip.Addr {
	s.namespaces.set(old, new)
	name := ""
	if old != nil {
		name = old.Name
	}
	if new != nil {
		name = new.Name
	}
	var addrs []netip.Addr
	for _, pod := range s.pods[name] {
		if networked(pod) {
			addrs = append(addrs, pod.IPs...)
		}
	}
	return addrs
}

// setPolicy takes note of a policy's change.
func (s *state) setPolicy(old, new *cluster.NetworkPolicy) {
	if old != nil {
		remove(s.policies, old.Namespace, old.Key)
	}
	if new != nil {
		add(s.policies, new.Namespace, new.Key, new)
	}
}

// setNode takes note of a Node's change and says whether it matters.
func (s *state) setNode(change cluster.Change[cluster.Node]) bool {
	n := change.New
	if n == nil || n.Name != s.node || slices.Equal(n.PodCIDRs, s.podCIDRs) {
		return false
	}
	s.podCIDRs = n.PodCIDRs
	for ip := range s.holders {
		s.recognize(ip)
	}
	return true
}

// policy returns a policy, or nil.
func (s *state) policy(key cluster.Key) *cluster.NetworkPolicy {
	return s.policies[key.Namespace][key]
}

// policyCount is the number of policies of the cluster.
func (s *state) policyCount() (count int) {
	for _, some := range s.policies {
		count += len(some)
	}
	return count
}

// isolating returns the policies that isolate a Pod in each direction, sorted.
func (s *state) isolating(pod *cluster.Pod) (both [directions][]cluster.Key) {
	for key, p := range s.policies[pod.Namespace] {
		if !p.Pods.Matches(pod.Labels) {
			continue
		}
		for d := range directions {
			if isolates(p, d) {
				both[d] = append(both[d], key)
			}
		}
	}
	for d := range both {
		slices.SortFunc(both[d], compareKeys)
	}
	return both
}

// awaited says whether a Pod is expected that a policy isolates.
func (s *state) awaited() bool {
	for _, some := range s.waiting {
		for _, pod := range some {
			if both := s.isolating(pod); len(both[ingress])+len(both[egress]) > 0 {
				return true
			}
		}
	}
	return false
}

// selected calls fn for each networked Pod that a peer of a policy in a
// namespace selects.
func (s *state) selected(own string, peer *cluster.PolicyPeer, fn func(*cluster.Pod)) {
	in := func(namespace string) {
		for _, pod := range s.pods[namespace] {
			if networked(pod) && peer.Pods.Matches(pod.Labels) {
				fn(pod)
			}
		}
	}
	if peer.Namespaces == nil {
		in(own)
		return
	}
	s.namespaces.matching(peer.Namespaces, in)
}

// selects says whether a peer of a policy in a namespace selects a Pod.
func (s *state) selects(own string, peer *cluster.PolicyPeer, pod *cluster.Pod) bool {
	switch {
	case !networked(pod) || !peer.Pods.Matches(pod.Labels):
		return false
	case peer.Namespaces == nil:
		return pod.Namespace == own
	}
	ns := s.namespaces.all[pod.Namespace]
	return ns != nil && peer.Namespaces.Matches(ns.Labels)
}

func podIP(p *cluster.Pod, f inet.Family) netip.Addr {
	for _, ip := range p.IPs {
		if inet.FamilyOf(ip) == f {
			return ip
		}
	}
	return netip.Addr{}
}

func compareKeys(a, b cluster.Key) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
