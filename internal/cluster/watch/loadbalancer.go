package watch

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// requestAnnotation asks for addresses, with a comma between, as
// spec.loadBalancerIP does for one: that is deprecated, for it says nothing of
// dual-stack.
const requestAnnotation = annotationPrefix + "service.loadbalancerip"

// loadBalancer is nil where there is nothing to give or to take back.
func loadBalancer(s *corev1.Service, p *problems) *cluster.LoadBalancer {
	wanted := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if !wanted && len(s.Status.LoadBalancer.Ingress) == 0 {
		return nil
	}
	lb := &cluster.LoadBalancer{Wanted: wanted, Created: s.CreationTimestamp.Time, Ingress: ingressAddrs(s)}
	if !wanted {
		return lb
	}
	if s.Spec.LoadBalancerClass != nil {
		lb.Class = *s.Spec.LoadBalancerClass
	}
	lb.Families = families(&s.Spec)
	if policy := s.Spec.IPFamilyPolicy; policy != nil {
		lb.AllFamilies = *policy == corev1.IPFamilyPolicyRequireDualStack
		lb.AnyFamily = *policy == corev1.IPFamilyPolicyPreferDualStack
	}
	lb.Requested = requested(s, p)
	return lb
}

// ingressAddrs reads the status as it is, whatever the mode of an entry.
func ingressAddrs(s *corev1.Service) []netip.Addr {
	addrs := make([]netip.Addr, len(s.Status.LoadBalancer.Ingress))
	for i, ingress := range s.Status.LoadBalancer.Ingress {
		addrs[i], _ = parseAddr(ingress.IP)
	}
	return addrs
}

// families reads spec.ipFamilies. Where the API server did not fill them in,
// the cluster IPs tell.
func families(spec *corev1.ServiceSpec) []inet.Family {
	var list []inet.Family
	for _, f := range spec.IPFamilies {
		switch f {
		case corev1.IPv4Protocol:
			list = appendNew(list, inet.IPv4)
		case corev1.IPv6Protocol:
			list = appendNew(list, inet.IPv6)
		}
	}
	if len(list) > 0 {
		return list
	}
	for _, ip := range clusterIPs(spec) {
		if addr, ok := parseAddr(ip); ok {
			list = appendNew(list, inet.FamilyOf(addr))
		}
	}
	return list
}

// requested reads the addresses that the user asks for.
func requested(s *corev1.Service, p *problems) []netip.Addr {
	if text, ok := s.Annotations[requestAnnotation]; ok {
		fields := strings.Split(text, ",")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		return serviceAddrs("annotation "+requestAnnotation, fields, p)
	}
	if s.Spec.LoadBalancerIP == "" {
		return nil
	}
	addr, err := serviceAddr(s.Spec.LoadBalancerIP)
	if err != nil {
		p.add("spec.loadBalancerIP: %v; it is left out", err)
		return nil
	}
	return []netip.Addr{addr}
}
