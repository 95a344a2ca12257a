package watch

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/kube-router/kube-router/internal/cluster"
)

// topologyPrefix is that of the labels for zone and region.
const topologyPrefix = "topology.kubernetes.io/"

func nodeFrom(n *corev1.Node) (cluster.Key, *cluster.Node) {
	var p problems
	node := &cluster.Node{
		PodCIDRs:    podCIDRs(&n.Spec, &p),
		Labels:      withPrefix(n.Labels, topologyPrefix),
		Annotations: withPrefix(n.Annotations, annotationPrefix),
	}
	for i, a := range n.Status.Addresses {
		list := &node.InternalIPs
		switch a.Type {
		case corev1.NodeInternalIP:
		case corev1.NodeExternalIP:
			list = &node.ExternalIPs
		default: // names
			continue
		}
		if addr, ok := parseAddr(a.Address); ok {
			*list = appendNew(*list, addr)
		} else {
			p.add("status.addresses[%d]: %s is not an IP address; it is left out", i, quote(a.Address))
		}
	}
	node.Meta = metaOf(&n.ObjectMeta, &p)
	return node.Key, node
}

// podCIDRs reads the pod CIDRs, at most one of a family. Nodes written before
// dual stack have the one of spec.podCIDR only.
func podCIDRs(spec *corev1.NodeSpec, p *problems) []netip.Prefix {
	list := spec.PodCIDRs
	if len(list) == 0 && spec.PodCIDR != "" {
		list = []string{spec.PodCIDR}
	}
	var cidrs []netip.Prefix
	var have4, have6 bool
	for i, s := range list {
		cidr, ok := parsePrefix(s)
		if !ok {
			p.add("spec.podCIDRs[%d]: %s is not a CIDR; it is left out", i, quote(s))
			continue
		}
		have := &have4
		if !cidr.Addr().Is4() {
			have = &have6
		}
		if *have {
			p.add("spec.podCIDRs[%d]: %s is the second of its address family; it is left out", i, cidr)
			continue
		}
		*have = true
		cidrs = append(cidrs, cidr)
	}
	return cidrs
}
