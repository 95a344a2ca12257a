package policy

import (
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// state is the part of the cluster that policies depend on.
type state struct {
	pods       map[cluster.Key]*cluster.Pod
	namespaces map[string]*cluster.Namespace
	policies   map[cluster.Key]*cluster.NetworkPolicy
}

// networked says whether a pod has an address of its own.
func networked(p *cluster.Pod) bool {
	return p != nil && !p.HostNetwork && !p.Finished && len(p.IPs) > 0
}

func podIP(p *cluster.Pod, f inet.Family) netip.Addr {
	for _, ip := range p.IPs {
		if inet.FamilyOf(ip) == f {
			return ip
		}
	}
	return netip.Addr{}
}

// localPods are the pods of a node that policies may isolate, sorted.
func (s *state) localPods(node string) []cluster.Key {
	var keys []cluster.Key
	for key, pod := range s.pods {
		if pod.Node == node && networked(pod) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b cluster.Key) int { return compare(a.String(), b.String()) })
	return keys
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// isolating returns the policies that isolate a pod, sorted by name.
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
	byName := func(a, b *cluster.NetworkPolicy) int { return compare(a.Name, b.Name) }
	slices.SortFunc(ingress, byName)
	slices.SortFunc(egress, byName)
	return ingress, egress
}

// selected returns the addresses of the pods that a peer selects.
func (s *state) selected(own string, peer cluster.PolicyPeer, f inet.Family) []netip.Addr {
	var ips []netip.Addr
	for _, pod := range s.pods {
		if !networked(pod) || !s.namespaceMatches(own, peer, pod.Namespace) || !peer.Pods.Matches(pod.Labels) {
			continue
		}
		if ip := podIP(pod, f); ip.IsValid() {
			ips = append(ips, ip)
		}
	}
	return ips
}

func (s *state) namespaceMatches(own string, peer cluster.PolicyPeer, namespace string) bool {
	if peer.Namespaces == nil {
		return namespace == own
	}
	ns := s.namespaces[namespace]
	return ns != nil && peer.Namespaces.Matches(ns.Labels)
}
