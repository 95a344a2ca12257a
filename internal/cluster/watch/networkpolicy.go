package watch

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// networkPolicyFrom reads a policy. Whatever does not parse allows nothing.
func networkPolicyFrom(o *networkingv1.NetworkPolicy) (cluster.Key, *cluster.NetworkPolicy) {
	var p problems
	policy := &cluster.NetworkPolicy{}
	policy.IsolatesIngress, policy.IsolatesEgress = policyTypes(&o.Spec, &p)
	if pods, err := metav1.LabelSelectorAsSelector(&o.Spec.PodSelector); err == nil {
		policy.Pods = pods
		readRules(&o.Spec, policy, &p)
	} else {
		// The pods that it was meant to isolate are not known, so it isolates
		// all. Its rules are dropped: they would open pods that it was not
		// meant for.
		policy.Pods = labels.Everything()
		p.add("spec.podSelector: %s; the policy isolates all pods of its namespace and allows nothing", clip(err))
	}
	policy.Meta = metaOf(&o.ObjectMeta, &p)
	return policy.Key, policy
}

func readRules(spec *networkingv1.NetworkPolicySpec, policy *cluster.NetworkPolicy, p *problems) {
	if policy.IsolatesIngress {
		for i := range spec.Ingress {
			rule := &spec.Ingress[i]
			policy.Ingress = appendRule(policy.Ingress, fmt.Sprintf("spec.ingress[%d]", i), "from", rule.From, rule.Ports, p)
		}
	}
	if policy.IsolatesEgress {
		for i := range spec.Egress {
			rule := &spec.Egress[i]
			policy.Egress = appendRule(policy.Egress, fmt.Sprintf("spec.egress[%d]", i), "to", rule.To, rule.Ports, p)
		}
	}
}

// policyTypes resolves the directions that a policy isolates. A list without
// one known direction counts as none given.
func policyTypes(spec *networkingv1.NetworkPolicySpec, p *problems) (ingress, egress bool) {
	for i, t := range spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			ingress = true
		case networkingv1.PolicyTypeEgress:
			egress = true
		default:
			p.add("spec.policyTypes[%d]: %s is not Ingress or Egress; it is left out", i, quote(string(t)))
		}
	}
	if !ingress && !egress {
		return true, len(spec.Egress) > 0
	}
	return ingress, egress
}

// appendRule adds a rule, unless nothing is left of its peers or its ports.
func appendRule(rules []cluster.PolicyRule, path, peersField string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, p *problems) []cluster.PolicyRule {
	rule := cluster.PolicyRule{AnyPeer: len(peers) == 0, AnyPort: len(ports) == 0}
	for i := range peers {
		if peer, err := policyPeer(&peers[i]); err == nil {
			rule.Peers = append(rule.Peers, peer)
		} else {
			p.add("%s.%s[%d].%s; the peer is left out", path, peersField, i, clip(err))
		}
	}
	for i := range ports {
		if port, err := policyPort(&ports[i]); err == nil {
			rule.Ports = append(rule.Ports, port)
		} else {
			p.add("%s.ports[%d].%s; the port is left out", path, i, clip(err))
		}
	}
	if len(rule.Peers) == 0 && !rule.AnyPeer || len(rule.Ports) == 0 && !rule.AnyPort {
		return rules
	}
	return append(rules, rule)
}

func policyPeer(peer *networkingv1.NetworkPolicyPeer) (cluster.PolicyPeer, error) {
	selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
	switch {
	case peer.IPBlock != nil && selects:
		return cluster.PolicyPeer{}, fmt.Errorf("ipBlock: it excludes podSelector and namespaceSelector, which are set too")
	case peer.IPBlock != nil:
		block, err := ipBlock(peer.IPBlock)
		return cluster.PolicyPeer{Block: block}, err
	case !selects:
		return cluster.PolicyPeer{}, fmt.Errorf("podSelector: one of podSelector, namespaceSelector and ipBlock must be set")
	}
	result := cluster.PolicyPeer{Pods: labels.Everything()}
	var err error
	if peer.PodSelector != nil {
		if result.Pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return cluster.PolicyPeer{}, fmt.Errorf("podSelector: %w", err)
		}
	}
	if peer.NamespaceSelector != nil {
		if result.Namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return cluster.PolicyPeer{}, fmt.Errorf("namespaceSelector: %w", err)
		}
	}
	return result, nil
}

// ipBlock reads a block. Without one of its exceptions it would allow more
// than was meant, so one bad exception costs the whole block.
func ipBlock(b *networkingv1.IPBlock) (*cluster.IPBlock, error) {
	cidr, err := network(b.CIDR)
	if err != nil {
		return nil, fmt.Errorf("ipBlock.cidr: %w", err)
	}
	var except []netip.Prefix
	for i, s := range b.Except {
		e, err := network(s)
		if err != nil {
			return nil, fmt.Errorf("ipBlock.except[%d]: %w", i, err)
		}
		if e.Bits() < cidr.Bits() || !cidr.Contains(e.Addr()) {
			return nil, fmt.Errorf("ipBlock.except[%d]: %s is not inside %s", i, e, cidr)
		}
		except = append(except, e)
	}
	return &cluster.IPBlock{CIDR: cidr, Except: except}, nil
}

// network reads a CIDR. One with bits beyond its length, which the API server
// takes with a warning, is in error: it may mean the address or its network.
func network(s string) (netip.Prefix, error) {
	masked, ok := parsePrefix(s)
	if !ok {
		return masked, fmt.Errorf("%s is not a CIDR", quote(s))
	}
	if exact, _ := netip.ParsePrefix(s); exact != masked {
		return masked, fmt.Errorf("%s has bits set beyond its length; write %s, or %s/%d for that one address",
			quote(s), masked, exact.Addr(), exact.Addr().BitLen())
	}
	return masked, nil
}

func policyPort(port *networkingv1.NetworkPolicyPort) (cluster.PolicyPort, error) {
	result := cluster.PolicyPort{Protocol: inet.TCP}
	if port.Protocol != nil {
		protocol, err := parseProtocol(*port.Protocol)
		// Only one that is missing is TCP, and the API has no other spelling.
		if err != nil || string(*port.Protocol) != strings.ToUpper(protocol.String()) {
			return result, fmt.Errorf("protocol: %s is not TCP, UDP or SCTP", quote(string(*port.Protocol)))
		}
		result.Protocol = protocol
	}
	if port.Port == nil {
		if port.EndPort != nil {
			return result, fmt.Errorf("endPort: it needs a port to begin at")
		}
		return result, nil
	}
	if port.Port.Type == intstr.String {
		result.Name = port.Port.StrVal
		return result, checkNamedPort(port)
	}
	first, ok := parsePort(port.Port.IntVal)
	if !ok {
		return result, fmt.Errorf("port: %d is not a port", port.Port.IntVal)
	}
	result.Port, result.End = first, first
	if port.EndPort != nil {
		last, ok := parsePort(*port.EndPort)
		if !ok || last < first {
			return result, fmt.Errorf("endPort: %d is not a port from %d on", *port.EndPort, first)
		}
		result.End = last
	}
	return result, nil
}

func checkNamedPort(port *networkingv1.NetworkPolicyPort) error {
	if port.EndPort != nil {
		return fmt.Errorf("endPort: a range cannot begin at the named port %s", quote(port.Port.StrVal))
	}
	if len(validation.IsValidPortName(port.Port.StrVal)) > 0 {
		return fmt.Errorf("port: %s is neither the number nor the name of a port", quote(port.Port.StrVal))
	}
	return nil
}
