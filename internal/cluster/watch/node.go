package watch

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kube-router/kube-router/internal/cluster"
)

// topologyPrefix is that of the labels for zone and region.
const topologyPrefix = "topology.kubernetes.io/"

func nodeFrom(n *corev1.Node) (cluster.Key, *cluster.Node) {
	var p problems
	node := &cluster.Node{
		Created:     n.CreationTimestamp.Time,
		PodCIDRs:    podCIDRs(n, &p),
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
		if addr, ok := parseAddr(a.Address); ok && !addr.IsUnspecified() && !addr.IsMulticast() {
			*list = append(*list, addr)
		} else {
			p.add("status.addresses[%d]: %s is not the IP address of a host; it is left out", i, quote(a.Address))
		}
	}
	node.InternalIPs, node.ExternalIPs = distinct(node.InternalIPs), distinct(node.ExternalIPs)
	node.Meta = metaOf(&n.ObjectMeta, &p)
	return node.Key, node
}

// The annotations that stand in for a Node's Pod CIDRs. The first is the older
// form, of one CIDR.
const (
	podCIDRAnnotation  = annotationPrefix + "pod-cidr"
	podCIDRsAnnotation = annotationPrefix + "pod-cidrs"
)

// podCIDRs reads the pod CIDRs, at most one of a family: those of the
// annotations where there are any, else those of the spec. Nodes written
// before dual stack have the one of spec.podCIDR only.
func podCIDRs(n *corev1.Node, p *problems) []netip.Prefix {
	for _, name := range []string{podCIDRsAnnotation, podCIDRAnnotation} {
		if text := strings.TrimSpace(n.Annotations[name]); text != "" {
			if cidrs := onePerFamily("annotation "+name, strings.Split(text, ","), p); len(cidrs) > 0 {
				return cidrs
			}
		}
	}
	list := n.Spec.PodCIDRs
	if len(list) == 0 && n.Spec.PodCIDR != "" {
		list = []string{n.Spec.PodCIDR}
	}
	return onePerFamily("spec.podCIDRs", list, p)
}

// onePerFamily reads CIDRs, the first of each address family.
func onePerFamily(field string, list []string, p *problems) []netip.Prefix {
	var cidrs []netip.Prefix
	var have4, have6 bool
	for i, s := range list {
		cidr, ok := parsePrefix(strings.TrimSpace(s))
		if !ok {
			p.add("%s[%d]: %s is not a CIDR; it is left out", field, i, quote(s))
			continue
		}
		if cidr.Bits() == 0 {
			p.add("%s[%d]: %s is the whole world; it is left out", field, i, cidr)
			continue
		}
		have := &have4
		if !cidr.Addr().Is4() {
			have = &have6
		}
		if *have {
			p.add("%s[%d]: %s is the second of its address family; it is left out", field, i, cidr)
			continue
		}
		*have = true
		cidrs = append(cidrs, cidr)
	}
	return cidrs
}
