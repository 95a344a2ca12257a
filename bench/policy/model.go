package main

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// fill publishes the workload, as the watches do once they have the lists.
func fill(feeds *cluster.Feeds, w *workload) error {
	namespaces, pods, policies := map[cluster.Key]*cluster.Namespace{}, map[cluster.Key]*cluster.Pod{}, map[cluster.Key]*cluster.NetworkPolicy{}
	for _, n := range w.namespaces {
		key := cluster.Key{Name: n.name}
		namespaces[key] = &cluster.Namespace{Meta: cluster.Meta{Key: key}, Labels: n.labels}
	}
	for _, p := range w.pods {
		m := p.model()
		pods[m.Key] = m
	}
	for _, p := range w.policies {
		m, err := policyModel(p)
		if err != nil {
			return fmt.Errorf("policy %s/%s: %w", p.Namespace, p.Name, err)
		}
		policies[m.Key] = m
	}
	feeds.Namespaces.Replace(namespaces)
	feeds.Pods.Replace(pods)
	feeds.NetworkPolicies.Replace(policies)
	return nil
}

func (p pod) key() cluster.Key { return cluster.Key{Namespace: p.namespace, Name: p.name} }

// Each Pod has a port with a name.
const (
	portName   = "http"
	portNumber = 8080
)

func (p pod) model() *cluster.Pod {
	return &cluster.Pod{
		Meta: cluster.Meta{Key: p.key()}, Labels: p.labels, IPs: []netip.Addr{p.ip}, Node: p.node,
		Ports: []cluster.ContainerPort{{Name: portName, Protocol: inet.TCP, Port: portNumber}},
	}
}

// policyModel converts what the workload's policies use of the API.
func policyModel(p *networkingv1.NetworkPolicy) (*cluster.NetworkPolicy, error) {
	m := &cluster.NetworkPolicy{Meta: cluster.Meta{Key: cluster.Key{Namespace: p.Namespace, Name: p.Name}}}
	var err error
	if m.Pods, err = metav1.LabelSelectorAsSelector(&p.Spec.PodSelector); err != nil {
		return nil, err
	}
	for _, t := range p.Spec.PolicyTypes {
		m.IsolatesIngress = m.IsolatesIngress || t == networkingv1.PolicyTypeIngress
		m.IsolatesEgress = m.IsolatesEgress || t == networkingv1.PolicyTypeEgress
	}
	for _, r := range p.Spec.Ingress {
		rule, err := ruleModel(r.From, r.Ports)
		if err != nil {
			return nil, err
		}
		m.Ingress = append(m.Ingress, rule)
	}
	for _, r := range p.Spec.Egress {
		rule, err := ruleModel(r.To, r.Ports)
		if err != nil {
			return nil, err
		}
		m.Egress = append(m.Egress, rule)
	}
	return m, nil
}

func ruleModel(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (cluster.PolicyRule, error) {
	r := cluster.PolicyRule{AnyPeer: len(peers) == 0, AnyPort: len(ports) == 0}
	for _, peer := range peers {
		m, err := peerModel(peer)
		if err != nil {
			return r, err
		}
		r.Peers = append(r.Peers, m)
	}
	for _, port := range ports {
		number := uint16(port.Port.IntValue())
		r.Ports = append(r.Ports, cluster.PolicyPort{Protocol: inet.TCP, Port: number, End: number})
	}
	return r, nil
}

func peerModel(peer networkingv1.NetworkPolicyPeer) (cluster.PolicyPeer, error) {
	if peer.IPBlock != nil {
		block := &cluster.IPBlock{CIDR: netip.MustParsePrefix(peer.IPBlock.CIDR)}
		for _, except := range peer.IPBlock.Except {
			block.Except = append(block.Except, netip.MustParsePrefix(except))
		}
		return cluster.PolicyPeer{Block: block}, nil
	}
	m := cluster.PolicyPeer{Pods: labels.Everything()}
	var err error
	if peer.PodSelector != nil {
		if m.Pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return m, err
		}
	}
	if peer.NamespaceSelector != nil {
		m.Namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector)
	}
	return m, err
}
