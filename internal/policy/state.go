package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// state is the part of the cluster that policies depend on, with the indexes
// that make a change cost what it concerns.
type state struct {
	node       string // ours
	pods       map[cluster.Key]*cluster.Pod
	namespaces map[string]*cluster.Namespace
	policies   map[cluster.Key]*cluster.NetworkPolicy

	byNamespace map[string]map[cluster.Key]*cluster.Pod
	// byIP has the networked Pods of an address: more than one for a moment,
	// where an address is used again before the API tells of the first one's end.
	byIP  map[netip.Addr]map[cluster.Key]*cluster.Pod
	local map[cluster.Key]*cluster.Pod
}

func newState(node string) *state {
	return &state{
		node:        node,
		pods:        map[cluster.Key]*cluster.Pod{},
		namespaces:  map[string]*cluster.Namespace{},
		policies:    map[cluster.Key]*cluster.NetworkPolicy{},
		byNamespace: map[string]map[cluster.Key]*cluster.Pod{},
		byIP:        map[netip.Addr]map[cluster.Key]*cluster.Pod{},
		local:       map[cluster.Key]*cluster.Pod{},
	}
}

// networked says whether a Pod has addresses of its own. Those on the host's
// network share the node's, and finished ones have given theirs back.
func networked(p *cluster.Pod) bool {
	return p != nil && !p.HostNetwork && !p.Finished && len(p.IPs) > 0
}

// isolable says whether policies may isolate a Pod on this node.
func (s *state) isolable(p *cluster.Pod) bool { return networked(p) && p.Node == s.node }

// setPod takes note of a Pod's change. It returns the addresses whose place in
// peers' sets may have changed, and whether rules may have.
func (s *state) setPod(old, new *cluster.Pod) (addrs []netip.Addr, rules bool) {
	if networked(old) {
		for _, ip := range old.IPs {
			remove(s.byIP, ip, old.Key)
		}
		addrs = append(addrs, old.IPs...)
	}
	if old != nil {
		remove(s.byNamespace, old.Namespace, old.Key)
		delete(s.pods, old.Key)
		delete(s.local, old.Key)
	}
	if new != nil {
		s.pods[new.Key] = new
		add(s.byNamespace, new.Namespace, new)
	}
	if networked(new) {
		for _, ip := range new.IPs {
			add(s.byIP, ip, new)
		}
		addrs = append(addrs, new.IPs...)
	}
	if s.isolable(new) {
		s.local[new.Key] = new
	}
	return addrs, s.isolable(old) || s.isolable(new)
}

func add[K comparable](index map[K]map[cluster.Key]*cluster.Pod, k K, p *cluster.Pod) {
	if index[k] == nil {
		index[k] = map[cluster.Key]*cluster.Pod{}
	}
	index[k][p.Key] = p
}

func remove[K comparable](index map[K]map[cluster.Key]*cluster.Pod, k K, key cluster.Key) {
	delete(index[k], key)
	if len(index[k]) == 0 {
		delete(index, k)
	}
}

// setNamespace takes note of a Namespace's change and returns the addresses of
// its Pods: selectors of namespaces may take or leave them.
func (s *state) setNamespace(old, new *cluster.Namespace) []netip.Addr {
	name := ""
	if old != nil {
		name = old.Name
		delete(s.namespaces, name)
	}
	if new != nil {
		name = new.Name
		s.namespaces[name] = new
	}
	var addrs []netip.Addr
	for _, pod := range s.byNamespace[name] {
		if networked(pod) {
			addrs = append(addrs, pod.IPs...)
		}
	}
	return addrs
}

// setPolicy takes note of a policy's change.
func (s *state) setPolicy(old, new *cluster.NetworkPolicy) {
	if old != nil {
		delete(s.policies, old.Key)
	}
	if new != nil {
		s.policies[new.Key] = new
	}
}

// localPods are the Pods that policies may isolate here, sorted.
func (s *state) localPods() []*cluster.Pod {
	return slices.SortedFunc(maps.Values(s.local), func(a, b *cluster.Pod) int { return compareKeys(a.Key, b.Key) })
}

// isolating returns the policies that isolate a Pod in each direction, sorted.
func (s *state) isolating(pod *cluster.Pod) (ingress, egress []*cluster.NetworkPolicy) {
	for _, p := range s.policies {
		if p.Namespace != pod.Namespace || !p.Pods.Matches(pod.Labels) {
			continue
		}
		if p.IsolatesIngress {
			ingress = append(ingress, p)
		}
		if p.IsolatesEgress {
			egress = append(egress, p)
		}
	}
	byKey := func(a, b *cluster.NetworkPolicy) int { return compareKeys(a.Key, b.Key) }
	slices.SortFunc(ingress, byKey)
	slices.SortFunc(egress, byKey)
	return ingress, egress
}

// candidates are the Pods that a peer of a policy in a namespace may select.
func (s *state) candidates(own string, peer cluster.PolicyPeer) map[cluster.Key]*cluster.Pod {
	if peer.Namespaces == nil {
		return s.byNamespace[own]
	}
	return s.pods
}

// selects says whether a peer of a policy in a namespace selects a Pod.
func (s *state) selects(own string, peer cluster.PolicyPeer, pod *cluster.Pod) bool {
	if !networked(pod) || !peer.Pods.Matches(pod.Labels) {
		return false
	}
	if peer.Namespaces == nil {
		return pod.Namespace == own
	}
	ns := s.namespaces[pod.Namespace]
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
