package main

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The cluster that is measured: each node has as many Pods of each namespace
// as the others.
const (
	namespaceCount = 50
	podCount       = 10000
	podsPerNode    = 100
	policyCount    = 1000
	policiesPerPod = 10
	teams, tiers   = 10, 10
)

// localNode is the node that the measured agent is on.
const (
	localNode = "node-000"
	localCIDR = "10.244.0.0/24"
)

// pod is a Pod with one address.
type pod struct {
	namespace, name, node string
	labels                map[string]string
	ip                    netip.Addr
}

// workload is the cluster's objects.
type workload struct {
	namespaces []namespace
	pods       []pod
	policies   []*networkingv1.NetworkPolicy
}

type namespace struct {
	name   string
	labels map[string]string
}

// standard is the cluster with a number of policies, of which the first
// perPod select the first local Pod, the next the second, and so on.
func standard(policies, perPod int) *workload {
	w := &workload{}
	for i := range namespaceCount {
		w.namespaces = append(w.namespaces, namespace{namespaceName(i), map[string]string{"team": fmt.Sprint("team-", i%teams)}})
	}
	for i := range podCount {
		w.pods = append(w.pods, pod{
			namespace: namespaceName(i % namespaceCount), name: fmt.Sprintf("pod-%05d", i), node: nodeName(i / podsPerNode),
			labels: map[string]string{"app": appName(i / namespaceCount), "tier": tierName(i / namespaceCount % tiers)},
			ip:     podAddr(i/podsPerNode, i%podsPerNode),
		})
	}
	for i := range policies {
		w.policies = append(w.policies, standardPolicy(i, i/perPod%podsPerNode, i%perPod))
	}
	return w
}

func namespaceName(i int) string { return fmt.Sprintf("ns-%02d", i) }
func nodeName(i int) string      { return fmt.Sprintf("node-%03d", i) }
func appName(i int) string       { return fmt.Sprintf("app-%d", i) }
func tierName(i int) string      { return fmt.Sprintf("tier-%d", i) }

// podAddr is an address of a node's range 10.244.NODE.0/24.
func podAddr(node, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(node), byte(i + 1)})
}

// firstPort is the port that a Pod's first policy opens, with its first rule.
const firstPort = 8000

// only is the label of who is selected by the policies of that number alone.
func only(k int) string { return fmt.Sprint("only-", k) }

// standardPolicy is the i-th policy, the k-th of a local Pod. What it allows:
// a tier of its own namespace, a tier of some namespaces, and every second one
// in the other direction a tier of its own namespace and networks outside.
func standardPolicy(i, local, k int) *networkingv1.NetworkPolicy {
	tier := tierName(k % tiers)
	p := newPolicy(namespaceName(local%namespaceCount), fmt.Sprintf("policy-%05d", i), appName(local/namespaceCount))
	own := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "tier", Operator: metav1.LabelSelectorOpIn, Values: []string{tier, only(k)}}}}}
	others := networkingv1.NetworkPolicyPeer{NamespaceSelector: matching("team", fmt.Sprint("team-", (local+k)%teams)), PodSelector: matching("tier", tier)}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{
		{From: []networkingv1.NetworkPolicyPeer{own}, Ports: []networkingv1.NetworkPolicyPort{tcp(firstPort + k)}},
		{From: []networkingv1.NetworkPolicyPeer{others}, Ports: []networkingv1.NetworkPolicyPort{tcp(firstPort + policyCount + k)}},
	}
	if k%2 == 1 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		outside := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("198.18.%d.0/24", k%256), Except: []string{fmt.Sprintf("198.18.%d.128/25", k%256)}}}
		p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{own, outside}, Ports: []networkingv1.NetworkPolicyPort{tcp(443)}}}
	}
	return p
}

// newPolicy isolates the Pods of an app for ingress.
func newPolicy(namespace, name, app string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: *matching("app", app), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}},
	}
}

func matching(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

func tcp(port int) networkingv1.NetworkPolicyPort {
	protocol, number := corev1.ProtocolTCP, intstr.FromInt32(int32(port))
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &number}
}

// withPort is a policy whose first rule allows another port.
func withPort(p *networkingv1.NetworkPolicy, port int) *networkingv1.NetworkPolicy {
	p = p.DeepCopy()
	p.Spec.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{tcp(port)}
	return p
}

// withTier is a policy whose first rule allows another tier.
func withTier(p *networkingv1.NetworkPolicy, tier string) *networkingv1.NetworkPolicy {
	p = p.DeepCopy()
	p.Spec.Ingress[0].From = []networkingv1.NetworkPolicyPeer{{PodSelector: matching("tier", tier)}}
	return p
}

// The cluster of the published benchmark: small namespaces, each with an
// application of two tiers.
const (
	manyNamespaces   = 25000
	podsPerNamespace = 4
	polsPerNamespace = 3
)

// many has 100,000 Pods and 75,000 policies in namespaces of their own. All
// that are in a namespace are denied; its first tier is open to Pods of a
// label in namespaces of a label, its second to its first.
func many() *workload {
	w := &workload{}
	for i := range manyNamespaces {
		name := fmt.Sprintf("namespace-%05d", i)
		w.namespaces = append(w.namespaces, namespace{name, map[string]string{"group": fmt.Sprint("group-", i)}})
		for k := range podsPerNamespace {
			n := i*podsPerNamespace + k
			w.pods = append(w.pods, pod{
				namespace: name, name: fmt.Sprintf("pod-%d", k), node: nodeName(n / podsPerNode),
				labels: map[string]string{"app": appName(k % 2)},
				ip:     netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}),
			})
		}
		deny := newPolicy(name, "deny-all", "")
		deny.Spec.PodSelector = metav1.LabelSelector{}
		front := newPolicy(name, "front", appName(0))
		front.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
			From:  []networkingv1.NetworkPolicyPeer{{NamespaceSelector: matching("group", fmt.Sprint("group-", (i+1)%manyNamespaces)), PodSelector: matching("app", appName(1))}},
			Ports: []networkingv1.NetworkPolicyPort{tcp(80)}}}
		back := newPolicy(name, "back", appName(1))
		back.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
			From:  []networkingv1.NetworkPolicyPeer{{PodSelector: matching("app", appName(0))}},
			Ports: []networkingv1.NetworkPolicyPort{tcp(5432)}}}
		w.policies = append(w.policies, slices.Clip([]*networkingv1.NetworkPolicy{deny, front, back})...)
	}
	return w
}
