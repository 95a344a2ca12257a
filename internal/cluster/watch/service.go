package watch

import (
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// proxyName is what the label service-proxy-name says of a Service that is
// left to this agent.
const proxyName = "kube-router"

// The bounds of the session affinity's timeout, and what holds without one.
const (
	defaultAffinity = 10800
	longestAffinity = 86400
)

// serviceFrom returns nil for a Service that this agent does not serve.
func serviceFrom(s *corev1.Service) (cluster.Key, *cluster.Service) {
	key := keyOf(&s.ObjectMeta)
	if !served(s) {
		return key, nil
	}
	var p problems
	service := &cluster.Service{
		ClusterIPs:      serviceAddrs("spec.clusterIPs", clusterIPs(&s.Spec), &p),
		ExternalIPs:     serviceAddrs("spec.externalIPs", s.Spec.ExternalIPs, &p),
		LoadBalancerIPs: loadBalancerIPs(s, &p),
		Ports:           servicePorts(&s.Spec, &p),
		ExternalLocal:   s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		AffinityTimeout: affinityTimeout(&s.Spec, &p),
		Annotations:     withPrefix(s.Annotations, annotationPrefix),
		LoadBalancer:    loadBalancer(s, &p),
	}
	service.Restricted, service.SourceRanges = sourceRanges(s, &p)
	service.HealthCheckNodePort = healthCheckNodePort(&s.Spec, &p)
	if policy := s.Spec.InternalTrafficPolicy; policy != nil {
		service.InternalLocal = *policy == corev1.ServiceInternalTrafficPolicyLocal
	}
	service.Meta = metaOf(&s.ObjectMeta, &p)
	return key, service
}

// served says whether a Service has a virtual address that is this agent's to
// serve.
func served(s *corev1.Service) bool {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return false
	}
	if _, headless := s.Labels[corev1.IsHeadlessService]; headless {
		return false
	}
	proxy, labelled := s.Labels[serviceProxyNameLabel]
	return !labelled || proxy == proxyName
}

func clusterIPs(spec *corev1.ServiceSpec) []string {
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		return []string{spec.ClusterIP}
	}
	return spec.ClusterIPs
}

// loadBalancerIPs reads the addresses that a load balancer hands on unchanged.
// With ipMode Proxy it sends to node ports instead, and traffic to its address
// has to reach it (KEP-1860).
func loadBalancerIPs(s *corev1.Service, p *problems) []netip.Addr {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var list []string
	for _, ingress := range s.Status.LoadBalancer.Ingress {
		proxied := ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy
		if ingress.IP != "" && !proxied {
			list = append(list, ingress.IP)
		}
	}
	return serviceAddrs("status.loadBalancer.ingress", list, p)
}

// sourceRanges reads who may use the load balancer IPs, and false where that is
// everybody. Where nothing can be read it is nobody.
func sourceRanges(s *corev1.Service, p *problems) (restricted bool, ranges []netip.Prefix) {
	field, list := "spec.loadBalancerSourceRanges", s.Spec.LoadBalancerSourceRanges
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false, nil
	}
	if annotated := strings.TrimSpace(s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]); len(list) == 0 && annotated != "" {
		field, list = "annotation "+corev1.AnnotationLoadBalancerSourceRangesKey, strings.Split(annotated, ",")
	}
	for i, text := range list {
		prefix, ok := parsePrefix(strings.TrimSpace(text))
		if !ok {
			p.add("%s[%d]: %s is not a CIDR; it is left out", field, i, quote(text))
			continue
		}
		ranges = append(ranges, prefix)
	}
	return len(list) > 0, distinct(ranges)
}

// healthCheckNodePort is 0 for a Service without one.
func healthCheckNodePort(spec *corev1.ServiceSpec, p *problems) uint16 {
	local := spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if spec.HealthCheckNodePort == 0 || spec.Type != corev1.ServiceTypeLoadBalancer || !local {
		return 0
	}
	number, ok := parsePort(spec.HealthCheckNodePort)
	if !ok {
		p.add("spec.healthCheckNodePort: %d is not a port; it is left out", spec.HealthCheckNodePort)
		return 0
	}
	return number
}

func servicePorts(spec *corev1.ServiceSpec, p *problems) []cluster.ServicePort {
	type socket struct {
		protocol inet.Protocol
		port     uint16
	}
	taken := map[socket]bool{}
	var ports []cluster.ServicePort
	for i := range spec.Ports {
		sp := &spec.Ports[i]
		protocol, err := parseProtocol(sp.Protocol)
		if err != nil {
			p.add("spec.ports[%d].protocol: %s is not TCP, UDP or SCTP; the port is left out", i, quote(string(sp.Protocol)))
			continue
		}
		number, ok := parsePort(sp.Port)
		if !ok {
			p.add("spec.ports[%d].port: %d is not a port; it is left out", i, sp.Port)
			continue
		}
		if taken[socket{protocol, number}] {
			p.add("spec.ports[%d]: port %d/%s is there already; it is left out", i, number, protocol)
			continue
		}
		taken[socket{protocol, number}] = true
		ports = append(ports, cluster.ServicePort{Name: sp.Name, Protocol: protocol, Port: number, NodePort: nodePort(spec, i, p)})
	}
	return ports
}

// nodePort is 0 where a port has none.
func nodePort(spec *corev1.ServiceSpec, i int, p *problems) uint16 {
	n := spec.Ports[i].NodePort
	if n == 0 || spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer {
		return 0
	}
	number, ok := parsePort(n)
	if !ok {
		p.add("spec.ports[%d].nodePort: %d is not a port; it is left out", i, n)
		return 0
	}
	return number
}

// affinityTimeout is 0 without session affinity.
func affinityTimeout(spec *corev1.ServiceSpec, p *problems) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(defaultAffinity)
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	if seconds < 1 || seconds > longestAffinity {
		p.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds: %d is not within 1 to %d; %d is taken", seconds, longestAffinity, defaultAffinity)
		seconds = defaultAffinity
	}
	return time.Duration(seconds) * time.Second
}
