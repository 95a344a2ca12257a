package policy

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/cluster/watch"
)

// objects is a cluster as the API has it.
type objects struct {
	namespaces []*corev1.Namespace
	pods       []*corev1.Pod
	policies   []*networkingv1.NetworkPolicy
}

// nodeAddrs are the addresses of the nodes. The agent runs on node1.
var nodeAddrs = map[string][]netip.Addr{
	"node1": {
		netip.MustParseAddr("192.168.50.1"), netip.MustParseAddr("fd00:50::1"),
		netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:244:0:1::1"), // of its bridge
	},
	"node2": {netip.MustParseAddr("192.168.50.2"), netip.MustParseAddr("fd00:50::2")},
}

// yaml is the cluster as kubectl takes it: namespaces, Pods, policies. What
// kubectl apply leaves out of it is the Pods' status.
func (o *objects) yaml() string {
	var documents []string
	add := func(object any) {
		text, err := yaml.Marshal(object)
		if err != nil {
			text = []byte("# " + err.Error())
		}
		documents = append(documents, string(text))
	}
	for _, ns := range o.namespaces {
		ns = ns.DeepCopy()
		ns.APIVersion, ns.Kind = "v1", "Namespace"
		add(ns)
	}
	for _, pod := range o.pods {
		pod = pod.DeepCopy()
		pod.APIVersion, pod.Kind = "v1", "Pod"
		add(pod)
	}
	for _, np := range o.policies {
		np = np.DeepCopy()
		np.APIVersion, np.Kind = "networking.k8s.io/v1", "NetworkPolicy"
		add(np)
	}
	return strings.Join(documents, "---\n")
}

// clone copies the lists, not the objects: those are never changed in place.
func (o *objects) clone() *objects {
	return &objects{slices.Clone(o.namespaces), slices.Clone(o.pods), slices.Clone(o.policies)}
}

// The API's objects go to the agent through the conversion that the watches
// use.

func (w *world) setNamespace(o *corev1.Namespace) { w.namespace(watch.ConvertNamespace(o)) }
func (w *world) setPod(o *corev1.Pod)             { w.pod(watch.ConvertPod(o)) }
func (w *world) setPolicy(o *networkingv1.NetworkPolicy) {
	w.policy(watch.ConvertNetworkPolicy(o))
}

// publish sends a whole cluster.
func (w *world) publish(o *objects) {
	for _, ns := range o.namespaces {
		w.setNamespace(ns)
	}
	for _, pod := range o.pods {
		w.setPod(pod)
	}
	for _, np := range o.policies {
		w.setPolicy(np)
	}
}

// replace makes the feeds hold a cluster and nothing else.
func (w *world) replace(o *objects) {
	namespaces, pods, policies := map[cluster.Key]*cluster.Namespace{}, map[cluster.Key]*cluster.Pod{}, map[cluster.Key]*cluster.NetworkPolicy{}
	for _, ns := range o.namespaces {
		c := watch.ConvertNamespace(ns)
		namespaces[c.Key] = c
	}
	for _, pod := range o.pods {
		c := watch.ConvertPod(pod)
		pods[c.Key] = c
	}
	for _, np := range o.policies {
		c := watch.ConvertNetworkPolicy(np)
		policies[c.Key] = c
	}
	w.feeds.Namespaces.Replace(namespaces)
	w.feeds.Pods.Replace(pods)
	w.feeds.NetworkPolicies.Replace(policies)
}
