package watch

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/kube-router/kube-router/internal/cluster"
)

// FuzzConversions: no object, however malformed, stops the agent, and nothing
// of it is in the model that the kernel would not understand.
func FuzzConversions(f *testing.F) {
	f.Add([]byte(`{metadata: {name: a}, spec: {podCIDRs: ["10.0.0.0/33"], podSelector: {matchLabels: {"": ""}}, ports: [{port: -1}]}}`))
	f.Add([]byte(`{addressType: IPv6, metadata: {labels: {kubernetes.io/service-name: x}}, endpoints: [{addresses: ["::1"]}]}`))
	f.Add([]byte(`{spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "1.2.3.4/0", except: [""]}}], ports: [{port: "x", endPort: 1}]}]}}`))
	f.Add([]byte(`{spec: {clusterIP: "::ffff:1.2.3.4", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var (
			node      corev1.Node
			service   corev1.Service
			slice     discoveryv1.EndpointSlice
			pod       corev1.Pod
			namespace corev1.Namespace
			policy    networkingv1.NetworkPolicy
		)
		if yaml.Unmarshal(data, &node) == nil {
			_, n := nodeFrom(&node)
			plain(t, n.InternalIPs, n.ExternalIPs)
			masked(t, n.PodCIDRs...)
		}
		if yaml.Unmarshal(data, &service) == nil {
			if _, s := serviceFrom(&service); s != nil {
				plain(t, s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs)
			}
		}
		if yaml.Unmarshal(data, &slice) == nil {
			if _, s := endpointSliceFrom(&slice); s != nil {
				for _, e := range s.Endpoints {
					plain(t, []netip.Addr{e.Addr})
				}
			}
		}
		if yaml.Unmarshal(data, &pod) == nil {
			_, p := podFrom(&pod)
			plain(t, p.IPs)
		}
		if yaml.Unmarshal(data, &namespace) == nil {
			namespaceFrom(&namespace)
		}
		if yaml.Unmarshal(data, &policy) == nil {
			_, p := networkPolicyFrom(&policy)
			wellFormed(t, p)
		}
	})
}

func plain(t *testing.T, lists ...[]netip.Addr) {
	for _, addrs := range lists {
		for _, a := range addrs {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				t.Errorf("address %v", a)
			}
		}
	}
}

func masked(t *testing.T, prefixes ...netip.Prefix) {
	for _, p := range prefixes {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			t.Errorf("prefix %v", p)
		}
	}
}

func wellFormed(t *testing.T, p *cluster.NetworkPolicy) {
	if p.Pods == nil || !p.IsolatesIngress && !p.IsolatesEgress {
		t.Error("the policy isolates nothing")
	}
	for _, r := range append(p.Ingress, p.Egress...) {
		if r.AnyPeer != (len(r.Peers) == 0) || r.AnyPort != (len(r.Ports) == 0) {
			t.Errorf("rule %+v", r)
		}
		for _, peer := range r.Peers {
			if (peer.Block == nil) == (peer.Pods == nil) || peer.Block != nil && peer.Namespaces != nil {
				t.Errorf("peer %+v", peer)
			}
			if peer.Block != nil {
				masked(t, append(peer.Block.Except, peer.Block.CIDR)...)
			}
		}
		for _, port := range r.Ports {
			if port.End < port.Port || port.Port == 0 && port.End != 0 || port.Name != "" && port.Port != 0 {
				t.Errorf("port %+v", port)
			}
		}
	}
}
