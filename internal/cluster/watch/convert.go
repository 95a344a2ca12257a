package watch

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/kube-router/kube-router/internal/cluster"
)

// ConvertPod reads a Pod as the watches do, for those who have objects and no
// API server. What does not parse is left out and named in Problems; it never
// fails, and what is left of the object is never more open than the whole.
func ConvertPod(o *corev1.Pod) *cluster.Pod {
	_, pod := podFrom(o)
	return pod
}

// ConvertNamespace reads a Namespace, see ConvertPod.
func ConvertNamespace(o *corev1.Namespace) *cluster.Namespace {
	_, namespace := namespaceFrom(o)
	return namespace
}

// ConvertNetworkPolicy reads a NetworkPolicy, see ConvertPod.
func ConvertNetworkPolicy(o *networkingv1.NetworkPolicy) *cluster.NetworkPolicy {
	_, policy := networkPolicyFrom(o)
	return policy
}
