package policy

import (
	"github.com/kube-router/kube-router/internal/cluster"
)

// The judge decides about a connection as the API's documentation of
// NetworkPolicy reads: naively, from all objects, without any of the
// compiler's code.
type judge struct {
	pods       []*cluster.Pod
	namespaces []*cluster.Namespace
	policies   []*cluster.NetworkPolicy
}

// side says whether a Pod's own policies allow it, as source or destination.
func (j *judge) side(own, other *cluster.Pod, p packet, out bool) bool {
	isolated := false
	for _, np := range j.policies {
		isolates, rules := np.IsolatesIngress, np.Ingress
		if out {
			isolates, rules = np.IsolatesEgress, np.Egress
		}
		if !isolates || np.Namespace != own.Namespace || !np.Pods.Matches(own.Labels) {
			continue
		}
		isolated = true
		for _, rule := range rules {
			target := own
			if out {
				target = other
			}
			if j.peer(np, rule, other) && j.port(rule, target, p) {
				return true
			}
		}
	}
	return !isolated
}

func (j *judge) peer(np *cluster.NetworkPolicy, rule cluster.PolicyRule, pod *cluster.Pod) bool {
	if rule.AnyPeer {
		return true
	}
	for _, peer := range rule.Peers {
		if peer.Block != nil {
			in := peer.Block.CIDR.Contains(pod.IPs[0])
			for _, except := range peer.Block.Except {
				in = in && !except.Contains(pod.IPs[0])
			}
			if in {
				return true
			}
			continue
		}
		if j.namespace(np, peer, pod) && peer.Pods.Matches(pod.Labels) {
			return true
		}
	}
	return false
}

func (j *judge) namespace(np *cluster.NetworkPolicy, peer cluster.PolicyPeer, pod *cluster.Pod) bool {
	if peer.Namespaces == nil {
		return pod.Namespace == np.Namespace
	}
	for _, ns := range j.namespaces {
		if ns.Name == pod.Namespace {
			return peer.Namespaces.Matches(ns.Labels)
		}
	}
	return false
}

func (j *judge) port(rule cluster.PolicyRule, target *cluster.Pod, p packet) bool {
	if rule.AnyPort {
		return true
	}
	for _, port := range rule.Ports {
		if port.Protocol != p.protocol {
			continue
		}
		if port.Name == "" && (port.Port == 0 || port.Port <= p.port && p.port <= max(port.Port, port.End)) {
			return true
		}
		for _, has := range target.Ports {
			if port.Name != "" && has.Name == port.Name && has.Protocol == p.protocol && has.Port == p.port {
				return true
			}
		}
	}
	return false
}
