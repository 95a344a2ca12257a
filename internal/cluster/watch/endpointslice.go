package watch

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// serviceProxyNameLabel gives a Service to a proxy by its name. The controller
// of EndpointSlices copies the labels of the Service.
const serviceProxyNameLabel = "service.kubernetes.io/service-proxy-name"

// endpointSliceFrom returns nil for a slice that is of no served Service.
func endpointSliceFrom(s *discoveryv1.EndpointSlice) (cluster.Key, *cluster.EndpointSlice) {
	key := keyOf(&s.ObjectMeta)
	service := s.Labels[discoveryv1.LabelServiceName]
	_, headless := s.Labels[corev1.IsHeadlessService]
	if service == "" || headless || s.AddressType == discoveryv1.AddressTypeFQDN {
		return key, nil
	}
	var p problems
	slice := &cluster.EndpointSlice{
		Service:   cluster.Key{Namespace: s.Namespace, Name: service},
		Ports:     endpointPorts(s.Ports, &p),
		Endpoints: endpoints(s, &p),
	}
	slice.Meta = metaOf(&s.ObjectMeta, &p)
	return key, slice
}

// endpointPorts reads the ports. One without a number is of a slice that is
// not for proxies.
func endpointPorts(list []discoveryv1.EndpointPort, p *problems) []cluster.EndpointPort {
	var ports []cluster.EndpointPort
	for i, ep := range list {
		if ep.Port == nil {
			continue
		}
		port := cluster.EndpointPort{Protocol: inet.TCP}
		if ep.Name != nil {
			port.Name = *ep.Name
		}
		if ep.Protocol != nil {
			protocol, err := parseProtocol(*ep.Protocol)
			if err != nil {
				p.add("ports[%d].protocol: %s is not TCP, UDP or SCTP; the port is left out", i, quote(string(*ep.Protocol)))
				continue
			}
			port.Protocol = protocol
		}
		number, ok := parsePort(*ep.Port)
		if !ok {
			p.add("ports[%d].port: %d is not a port; it is left out", i, *ep.Port)
			continue
		}
		port.Port = number
		ports = append(ports, port)
	}
	return ports
}

// endpoints reads the first address of each endpoint; the API gives no meaning
// to further ones. A condition that is not set is the default of its API doc.
func endpoints(s *discoveryv1.EndpointSlice, p *problems) []cluster.Endpoint {
	family := inet.IPv4
	if s.AddressType == discoveryv1.AddressTypeIPv6 {
		family = inet.IPv6
	}
	var list []cluster.Endpoint
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if len(e.Addresses) == 0 {
			p.add("endpoints[%d].addresses: there is none; the endpoint is left out", i)
			continue
		}
		addr, err := serviceAddr(e.Addresses[0])
		if err != nil {
			p.add("endpoints[%d].addresses[0]: %v; it is left out", i, err)
			continue
		}
		if inet.FamilyOf(addr) != family {
			p.add("endpoints[%d].addresses[0]: %s is not of the slice's addressType %s; it is left out", i, addr, quote(string(s.AddressType)))
			continue
		}
		endpoint := cluster.Endpoint{
			Addr:        addr,
			Ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
			Serving:     e.Conditions.Serving == nil || *e.Conditions.Serving,
			Terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
		}
		if e.NodeName != nil {
			endpoint.Node = *e.NodeName
		}
		endpoint.Hints = hints(e.Hints)
		list = append(list, endpoint)
	}
	return list
}

// hints reads whom an endpoint is meant for. Names are compared only, so that
// whatever is written there does no harm.
func hints(h *discoveryv1.EndpointHints) *cluster.Hints {
	if h == nil || len(h.ForZones)+len(h.ForNodes) == 0 {
		return nil
	}
	found := &cluster.Hints{}
	for _, zone := range h.ForZones {
		found.Zones = append(found.Zones, zone.Name)
	}
	for _, node := range h.ForNodes {
		found.Nodes = append(found.Nodes, node.Name)
	}
	return found
}
