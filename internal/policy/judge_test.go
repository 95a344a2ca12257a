package policy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The judge decides about a connection as the API's documentation of
// NetworkPolicy reads (k8s.io/api/networking/v1, and kubernetes.io/docs/
// concepts/services-networking/network-policies): naively, from the API's own
// objects, all of them each time. It uses nothing of the product, neither the
// conversion nor the compiler, nor the selectors of Kubernetes' libraries.
//
// What the API server would refuse allows nothing, and where it stands in a
// policy's podSelector the policy isolates its whole namespace.
type judge struct {
	*objects
	node string // whose enforcement is judged: each node asks for its Pods
}

// flow is a new connection.
type flow struct {
	src, dst netip.Addr
	protocol corev1.Protocol
	port     int32 // of the destination
}

// allows says whether the node lets a connection through. "Traffic to and from
// the node where a Pod is running is always allowed" for what the node sends;
// what a Pod sends to its node is up to its egress policies.
func (j *judge) allows(f flow) bool {
	from, to := j.podAt(f.src), j.podAt(f.dst)
	if from != nil && from.Spec.NodeName == j.node && !j.side(networkingv1.PolicyTypeEgress, from, f.dst, to, f) {
		return false
	}
	ofNode := slices.Contains(nodeAddrs[j.node], f.src)
	return to == nil || to.Spec.NodeName != j.node || ofNode || j.side(networkingv1.PolicyTypeIngress, to, f.src, to, f)
}

// podAt is the Pod that has an address of its own, and uses it: "pods in the
// host's network" have the node's, and Pods that ended gave theirs back.
func (j *judge) podAt(addr netip.Addr) *corev1.Pod {
	for _, pod := range j.pods {
		if slices.Contains(ownAddrs(pod), addr) {
			return pod
		}
	}
	return nil
}

func ownAddrs(pod *corev1.Pod) []netip.Addr {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		addrs = append(addrs, netip.MustParseAddr(ip.IP))
	}
	return addrs
}

// side: "By default, a pod is non-isolated [...] if there is any NetworkPolicy
// that both selects the pod and has [the direction] in its policyTypes; we say
// that such a policy applies to the pod. When a pod is isolated, the only
// allowed connections are those allowed by some NetworkPolicy that applies."
func (j *judge) side(direction networkingv1.PolicyType, own *corev1.Pod, peer netip.Addr, target *corev1.Pod, f flow) bool {
	isolated := false
	for _, np := range j.policies {
		chosen, valid := selected(&np.Spec.PodSelector, own.Labels)
		if np.Namespace != own.Namespace || valid && !chosen || !slices.Contains(policyTypesOf(np), direction) {
			continue
		}
		isolated = true
		if valid && slices.ContainsFunc(rulesOf(np, direction), func(r rule) bool {
			return j.anyPeer(np, r.peers, peer) && anyPort(r.ports, target, f)
		}) {
			return true
		}
	}
	return !isolated
}

// policyTypesOf: "If this field is not specified, it will default based on the
// existence of ingress or egress rules; policies that contain an egress section
// are assumed to affect egress, and all policies (whether or not they contain
// an ingress section) are assumed to affect ingress."
func policyTypesOf(np *networkingv1.NetworkPolicy) []networkingv1.PolicyType {
	types := np.Spec.PolicyTypes
	if len(types) == 0 {
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(np.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	return types
}

// rule is a rule of either direction.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

func rulesOf(np *networkingv1.NetworkPolicy, direction networkingv1.PolicyType) (rules []rule) {
	if direction == networkingv1.PolicyTypeIngress {
		for _, r := range np.Spec.Ingress {
			rules = append(rules, rule{r.From, r.Ports})
		}
		return rules
	}
	for _, r := range np.Spec.Egress {
		rules = append(rules, rule{r.To, r.Ports})
	}
	return rules
}

// anyPeer: "Items in this list are combined using a logical OR operation. If
// this field is empty or missing, this rule matches all."
func (j *judge) anyPeer(np *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, addr netip.Addr) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			return peer.PodSelector == nil && peer.NamespaceSelector == nil && inBlock(peer.IPBlock, addr)
		}
		pod := j.podAt(addr)
		return pod != nil && (peer.PodSelector != nil || peer.NamespaceSelector != nil) && j.selectsPod(np, peer, pod)
	})
}

// selectsPod: "If podSelector is also set, then the NetworkPolicyPeer as a
// whole selects the pods matching podSelector in the namespaces selected by
// namespaceSelector. Otherwise it selects all pods in the namespaces selected
// by namespaceSelector. [Without namespaceSelector] it selects the pods
// matching podSelector in the policy's own namespace."
func (j *judge) selectsPod(np *networkingv1.NetworkPolicy, peer networkingv1.NetworkPolicyPeer, pod *corev1.Pod) bool {
	if peer.PodSelector != nil {
		if chosen, valid := selected(peer.PodSelector, pod.Labels); !chosen || !valid {
			return false
		}
	}
	if peer.NamespaceSelector == nil {
		return pod.Namespace == np.Namespace
	}
	for _, ns := range j.namespaces {
		if ns.Name == pod.Namespace {
			chosen, valid := selected(peer.NamespaceSelector, ns.Labels)
			return chosen && valid
		}
	}
	return false
}

// inBlock: "cidr is a string representing the IPBlock; except is a slice of
// CIDRs that should not be included within an IPBlock; except values will be
// rejected if they are outside the cidr range."
func inBlock(block *networkingv1.IPBlock, addr netip.Addr) bool {
	cidr, err := netip.ParsePrefix(block.CIDR)
	if err != nil || cidr != cidr.Masked() || !cidr.Contains(addr) {
		return false
	}
	for _, text := range block.Except {
		except, err := netip.ParsePrefix(text)
		if err != nil || except != except.Masked() || !cidr.Contains(except.Addr()) || except.Bits() < cidr.Bits() || except.Contains(addr) {
			return false
		}
	}
	return true
}

// anyPort: "If this field is empty or missing, this rule matches all ports
// (traffic not restricted by port)." Names are those of the target's ports.
func anyPort(ports []networkingv1.NetworkPolicyPort, target *corev1.Pod, f flow) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(port networkingv1.NetworkPolicyPort) bool {
		protocol := corev1.ProtocolTCP // "If not specified, this field defaults to TCP."
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		switch {
		case protocol != f.protocol:
			return false
		case port.Port == nil: // "matches all port names and numbers"
			return port.EndPort == nil // "cannot be defined if the port field is not defined"
		case port.Port.Type == intstr.String: // nor "if the port field is defined as a named (string) port"
			return port.EndPort == nil && target != nil && hasPort(target, port.Port.StrVal, f)
		case port.Port.IntVal < 1 || port.Port.IntVal > 65535:
			return false
		case port.EndPort == nil:
			return f.port == port.Port.IntVal
		}
		// "The endPort must be equal or greater than port."
		return port.Port.IntVal <= f.port && f.port <= *port.EndPort && *port.EndPort <= 65535
	})
}

// hasPort asks the containers that run beside each other: sidecars are init
// containers with restartPolicy Always.
func hasPort(pod *corev1.Pod, name string, f flow) bool {
	running := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			running = append(running, c)
		}
	}
	for _, c := range running {
		for _, port := range c.Ports {
			protocol := port.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			if port.Name == name && protocol == f.protocol && port.ContainerPort == f.port {
				return true
			}
		}
	}
	return false
}

// selected: "The result of matchLabels and matchExpressions are ANDed. An empty
// label selector matches all objects." valid says that the API server takes it.
func selected(s *metav1.LabelSelector, labels map[string]string) (chosen, valid bool) {
	chosen, valid = true, true
	for key, value := range s.MatchLabels {
		has, there := labels[key]
		chosen = chosen && there && has == value
	}
	for _, e := range s.MatchExpressions {
		value, there := labels[e.Key]
		listed := there && slices.Contains(e.Values, value)
		switch e.Operator {
		case metav1.LabelSelectorOpIn: // "If the operator is In or NotIn, the values array must be non-empty."
			chosen, valid = chosen && listed, valid && len(e.Values) > 0
		case metav1.LabelSelectorOpNotIn:
			chosen, valid = chosen && !listed, valid && len(e.Values) > 0
		case metav1.LabelSelectorOpExists: // "the values array must be empty"
			chosen, valid = chosen && there, valid && len(e.Values) == 0
		case metav1.LabelSelectorOpDoesNotExist:
			chosen, valid = chosen && !there, valid && len(e.Values) == 0
		default:
			valid = false
		}
	}
	return chosen, valid
}
