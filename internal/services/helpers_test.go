package services

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// warnings is a cluster.Reporter that keeps what it was told, each once.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) Warn(kind string, object *cluster.Meta, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := fmt.Sprintf("%s %s: %s: %s", kind, object.Key, reason, message)
	if !slices.Contains(w.list, line) {
		w.list = append(w.list, line)
	}
}

func (w *warnings) sorted() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(w.list))
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

func meta(name string) cluster.Meta {
	return cluster.Meta{Key: cluster.Key{Namespace: "default", Name: name}}
}

// node is a Node with an InternalIP and a Pod CIDR.
func node(name, ip, cidr string) *cluster.Node {
	return &cluster.Node{
		Meta: cluster.Meta{Key: cluster.Key{Name: name}}, InternalIPs: addrs(ip),
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix(cidr)},
	}
}

// service is a Service of namespace default, with one unnamed port.
func service(name, ip string, ports ...cluster.ServicePort) *cluster.Service {
	return &cluster.Service{Meta: meta(name), ClusterIPs: addrs(ip), Ports: ports}
}

func tcp(port, nodePort uint16) cluster.ServicePort {
	return cluster.ServicePort{Protocol: inet.TCP, Port: port, NodePort: nodePort}
}

func udp(port, nodePort uint16) cluster.ServicePort {
	return cluster.ServicePort{Name: "udp", Protocol: inet.UDP, Port: port, NodePort: nodePort}
}

// slice is an EndpointSlice of a Service, at one port for TCP and UDP.
func slice(service string, port uint16, endpoints ...cluster.Endpoint) *cluster.EndpointSlice {
	return &cluster.EndpointSlice{
		Meta: meta(service + "-1"), Service: meta(service).Key,
		Ports:     []cluster.EndpointPort{{Protocol: inet.TCP, Port: port}, {Name: "udp", Protocol: inet.UDP, Port: port}},
		Endpoints: endpoints,
	}
}

func ready(ip, node string) cluster.Endpoint {
	return cluster.Endpoint{Addr: addr(ip), Node: node, Ready: true, Serving: true}
}

func terminating(ip, node string) cluster.Endpoint {
	return cluster.Endpoint{Addr: addr(ip), Node: node, Serving: true, Terminating: true}
}

func unready(ip, node string) cluster.Endpoint { return cluster.Endpoint{Addr: addr(ip), Node: node} }
