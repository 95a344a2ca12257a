package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// dice draw random clusters. Equal seeds draw equal ones.
type dice struct{ *rand.Rand }

func newDice(seed, number uint64) dice { return dice{rand.New(rand.NewPCG(seed, number))} }

// one is true once in n times.
func (d dice) one(n int) bool { return d.IntN(n) == 0 }

// between draws from least to most, both included.
func (d dice) between(least, most int) int { return least + d.IntN(most-least+1) }

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

// What clusters are made of: few values of each, so that they meet. The first
// two Namespaces often have the same labels.
var (
	namespaceNames = []string{"red", "blue", "green"}
	labelValues    = map[string][]string{"app": {"web", "db", ""}, "tier": {"front", "back"}, "env": {"prod"}}
	labelKeys      = []string{"app", "tier", "env"}
	portNames      = []string{"http", "dns", "metrics"}
	portNumbers    = []int32{53, 80, 443, 8080, 8443}
	protocols      = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}

	cidrs = []string{
		"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.0/29", "10.244.1.4/30",
		"10.244.1.5/32", "10.244.2.0/25", "192.0.2.0/24", "192.0.2.128/25", "192.168.50.0/24", "192.168.50.1/32",
		"::/0", "::/1", "8000::/1", "fd00:244::/32", "fd00:244:0:1::/64", "fd00:244:0:1::/125", "fd00:244:0:1::4/126",
		"fd00:244:0:1::5/128", "fd00:244:0:2::/64", "2001:db8::/32", "2001:db8:0:1::/64", "fd00:50::/64", "fd00:50::1/128",
	}
	// outside are addresses of nobody in the cluster.
	outside = []netip.Addr{
		netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("203.0.113.7"),
		netip.MustParseAddr("10.244.3.9"), netip.MustParseAddr("2001:db8::5"), netip.MustParseAddr("2001:db8:0:1::5"),
		netip.MustParseAddr("fd00:244:0:3::9"),
	}
)

// drawCluster draws a whole one.
func (d dice) drawCluster() *objects {
	o := &objects{}
	same := d.labels(1)
	for i, name := range namespaceNames {
		labels := d.labels(2)
		if i < 2 && d.one(2) {
			labels = same
		}
		o.namespaces = append(o.namespaces, d.drawNamespace(name, labels))
	}
	for i := range d.between(2, 7) {
		o.pods = append(o.pods, d.drawPod(o, fmt.Sprint("pod", i)))
	}
	for i := range d.between(0, 5) {
		o.policies = append(o.policies, d.drawPolicy(fmt.Sprint("policy", i)))
	}
	return o
}

func (d dice) drawNamespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// labels draws some; each key is there once in n times or so.
func (d dice) labels(n int) map[string]string {
	labels := map[string]string{}
	for _, key := range labelKeys {
		if d.one(n + 1) {
			labels[key] = pick(d, labelValues[key]...)
		}
	}
	return labels
}

// drawPod draws a Pod whose address, unless it has ended, no other one uses.
func (d dice) drawPod(o *objects, name string) *corev1.Pod {
	node := pick(d, "node1", "node1", "node2")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, namespaceNames...), Name: name, Labels: d.labels(1)},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{d.container("main")}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if d.one(3) { // the same name may be another port there
		pod.Spec.Containers = append(pod.Spec.Containers, d.container("second"))
	}
	if d.one(4) {
		sidecar := d.container("sidecar")
		always := corev1.ContainerRestartPolicyAlways
		sidecar.RestartPolicy = &always
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, sidecar)
	}
	if d.one(6) { // has ended long ago
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, d.container("setup"))
	}
	switch d.IntN(12) {
	case 0:
		pod.Spec.HostNetwork = true
		setAddrs(pod, nodeAddrs[node][:2])
	case 1: // no address yet
		pod.Status.Phase = corev1.PodPending
		if d.one(2) {
			pod.Spec.NodeName = "" // nor a node
		}
	case 2:
		pod.Status.Phase = pick(d, corev1.PodSucceeded, corev1.PodFailed)
		setAddrs(pod, d.addrs(nil, node)) // that anybody may have
	default:
		setAddrs(pod, d.addrs(o, node))
	}
	return pod
}

// addrs draws addresses of a Pod, one a family or only one, that no Pod of o
// uses; o may be nil.
func (d dice) addrs(o *objects, node string) []netip.Addr {
	for {
		host := d.between(2, 12)
		v4 := netip.AddrFrom4([4]byte{10, 244, node[4] - '0', byte(host)})
		v6 := netip.MustParseAddr(fmt.Sprintf("fd00:244:0:%c::%x", node[4], host))
		if o != nil && slices.ContainsFunc(o.pods, func(p *corev1.Pod) bool {
			return slices.Contains(ownAddrs(p), v4) || slices.Contains(ownAddrs(p), v6)
		}) {
			continue
		}
		return pick(d, []netip.Addr{v4, v6}, []netip.Addr{v4, v6}, []netip.Addr{v6, v4}, []netip.Addr{v4}, []netip.Addr{v6})
	}
}

func setAddrs(pod *corev1.Pod, addrs []netip.Addr) {
	pod.Status.PodIP, pod.Status.PodIPs = addrs[0].String(), nil
	for _, a := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
}

// container draws one with ports, some without a name.
func (d dice) container(name string) corev1.Container {
	c := corev1.Container{Name: name, Image: "pause"}
	names := slices.Concat(portNames, []string{""})
	for range d.between(0, 2) {
		i := d.IntN(len(names))
		c.Ports = append(c.Ports, corev1.ContainerPort{
			Name: names[i], ContainerPort: pick(d, portNumbers...), Protocol: pick(d, append([]corev1.Protocol{""}, protocols...)...),
		})
		names = slices.Delete(names, i, i+1)
	}
	return c
}

func (d dice) drawPolicy(name string) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, namespaceNames...), Name: name}}
	np.Spec.PodSelector = d.selector()
	in, out := networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress
	np.Spec.PolicyTypes = pick(d, nil, nil, []networkingv1.PolicyType{in}, []networkingv1.PolicyType{out}, []networkingv1.PolicyType{in, out}, []networkingv1.PolicyType{out, in})
	for range pick(d, 0, 1, 1, 2, 3) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: d.peers(), Ports: d.ports()})
	}
	for range pick(d, 0, 0, 1, 1, 2) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: d.peers(), Ports: d.ports()})
	}
	if np.Spec.Egress == nil && d.one(4) { // an empty list means what none does
		np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{}
	}
	return np
}

// selector draws from the empty one to several expressions; few are in error.
func (d dice) selector() (s metav1.LabelSelector) {
	if d.one(3) {
		return s
	}
	if d.one(2) {
		key := pick(d, labelKeys...)
		s.MatchLabels = map[string]string{key: pick(d, labelValues[key]...)}
	}
	for range pick(d, 0, 1, 1, 2) {
		s.MatchExpressions = append(s.MatchExpressions, d.expression())
	}
	return s
}

func (d dice) expression() metav1.LabelSelectorRequirement {
	e := metav1.LabelSelectorRequirement{Key: pick(d, labelKeys...)}
	values := slices.Clone(labelValues[e.Key][:d.between(1, len(labelValues[e.Key]))])
	switch d.IntN(60) {
	case 0:
		e.Operator, e.Values = "Like", values // in error
	case 1:
		e.Operator = metav1.LabelSelectorOpIn // in error: without values
	default:
		e.Operator = pick(d, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = values
		}
	}
	return e
}

// peers draws a rule's: none, or up to four.
func (d dice) peers() []networkingv1.NetworkPolicyPeer {
	if d.one(4) {
		return pick(d, nil, []networkingv1.NetworkPolicyPeer{})
	}
	var peers []networkingv1.NetworkPolicyPeer
	for range d.between(1, 4) {
		peers = append(peers, d.peer())
	}
	return peers
}

func (d dice) peer() (peer networkingv1.NetworkPolicyPeer) {
	pods, namespaces := d.selector(), d.selector()
	switch d.IntN(8) {
	case 0, 1:
		peer.PodSelector = &pods
	case 2, 3:
		peer.NamespaceSelector = &namespaces
	case 4:
		peer.PodSelector, peer.NamespaceSelector = &pods, &namespaces
	default:
		peer.IPBlock = d.block()
		if d.one(40) {
			peer.PodSelector = &pods // in error
		}
	}
	return peer
}

// block draws a block with exceptions that nest, overlap, or are all of it.
func (d dice) block() *networkingv1.IPBlock {
	block := &networkingv1.IPBlock{CIDR: pick(d, cidrs...)}
	cidr := netip.MustParsePrefix(block.CIDR)
	var inside []string
	for _, text := range cidrs {
		if p := netip.MustParsePrefix(text); p.Bits() >= cidr.Bits() && cidr.Contains(p.Addr()) {
			inside = append(inside, text)
		}
	}
	for range d.between(0, 3) {
		block.Except = append(block.Except, pick(d, inside...))
	}
	switch d.IntN(60) {
	case 0:
		block.CIDR = "10.244.1.0" // in error, as those that follow
	case 1:
		block.CIDR = "10.244.1.5/24"
	case 2:
		block.Except = append(block.Except, "172.16.0.0/12")
	}
	return block
}

// ports draws a rule's: none, or up to three.
func (d dice) ports() []networkingv1.NetworkPolicyPort {
	if d.one(3) {
		return nil
	}
	var ports []networkingv1.NetworkPolicyPort
	for range d.between(1, 3) {
		ports = append(ports, d.port())
	}
	return ports
}

func (d dice) port() (port networkingv1.NetworkPolicyPort) {
	if !d.one(4) {
		protocol := pick(d, protocols...)
		port.Protocol = &protocol
	}
	number, name := intstr.FromInt32(pick(d, portNumbers...)), intstr.FromString(pick(d, portNames...))
	end := pick(d, number.IntVal, number.IntVal+1, 8080, 65535)
	switch d.IntN(8) {
	case 0: // all of the protocol
	case 1, 2:
		port.Port = &number
	case 3:
		port.Port, port.EndPort = &number, &end // sometimes backwards
	case 4:
		all, last := intstr.FromInt32(1), int32(65535)
		port.Port, port.EndPort = &all, &last
	default:
		port.Port = &name
		if d.one(40) {
			port.EndPort = &end // in error
		}
	}
	return port
}
