// Package cluster is the agent's model of the Kubernetes cluster: the API's
// objects, trimmed to what the controllers use and parsed once, at the edge.
//
// Nothing here does I/O and nothing here knows client-go; package watch fills
// the Feeds from the API server, and tests fill them by hand. Objects are
// immutable once published: a change is a new object.
package cluster

import (
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/inet"
)

// Key names an object. Namespace is empty for Nodes and Namespaces.
type Key struct{ Namespace, Name string }

// String is "namespace/name", or the name alone.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Meta is what every object has. Problems lists the parts of the API object
// that could not be parsed and were left out, each in words a user can act on.
type Meta struct {
	Key
	UID      string
	Problems []string
}

// Identity returns the object's Meta; it makes every object an Object.
func (m *Meta) Identity() *Meta { return m }

// Object is any object of the model.
type Object interface{ Identity() *Meta }

// Node is a node of the cluster.
type Node struct {
	Meta
	// Created orders the Nodes that want the same.
	Created     time.Time
	InternalIPs []netip.Addr
	ExternalIPs []netip.Addr
	// PodCIDRs are spec.podCIDRs, or the annotation in their place, masked, at
	// most one a family.
	PodCIDRs []netip.Prefix
	// Labels holds the topology labels, Annotations those of kube-router.io.
	Labels      map[string]string
	Annotations map[string]string
}

// IP is the node's address of a family: its first InternalIP, else its first
// ExternalIP, else the zero Addr.
func (n *Node) IP(f inet.Family) netip.Addr {
	for _, list := range [][]netip.Addr{n.InternalIPs, n.ExternalIPs} {
		for _, a := range list {
			if inet.FamilyOf(a) == f {
				return a
			}
		}
	}
	return netip.Addr{}
}

// Service is a Service that this proxy serves: neither headless nor
// ExternalName nor given to another proxy by label.
type Service struct {
	Meta
	ClusterIPs      []netip.Addr
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	Ports           []ServicePort
	// InternalLocal and ExternalLocal say that the traffic policy is Local.
	InternalLocal bool
	ExternalLocal bool
	// AffinityTimeout is the ClientIP session affinity; 0 means none.
	AffinityTimeout time.Duration
	// Restricted says that only clients in SourceRanges may use the load
	// balancer IPs.
	Restricted   bool
	SourceRanges []netip.Prefix
	// HealthCheckNodePort is where load balancers ask whether this node has an
	// endpoint; 0 means nowhere.
	HealthCheckNodePort uint16
	// Annotations holds those of kube-router.io.
	Annotations map[string]string
	// LoadBalancer is nil for a Service that is not of type LoadBalancer and
	// has nothing left of one in its status.
	LoadBalancer *LoadBalancer
}

// LoadBalancer is what a Service asks of a load balancer's controller, and what
// it was given.
type LoadBalancer struct {
	// Wanted says that the Service is of type LoadBalancer.
	Wanted bool
	// Class is spec.loadBalancerClass; empty is the cluster's default.
	Class string
	// Created orders the Services that ask for addresses.
	Created time.Time
	// Families are spec.ipFamilies, the first of them the preferred one.
	// AllFamilies says that one without the other is of no use
	// (RequireDualStack), AnyFamily that one alone will do (PreferDualStack).
	Families               []inet.Family
	AllFamilies, AnyFamily bool
	// Requested are the addresses that the user asks for.
	Requested []netip.Addr
	// Ingress is status.loadBalancer.ingress, entry by entry. One without an
	// address, that has a host name, is the zero Addr.
	Ingress []netip.Addr
}

// ServicePort is one port of a Service. The target port is in the slices.
type ServicePort struct {
	Name     string
	Protocol inet.Protocol
	Port     uint16
	NodePort uint16
}

// EndpointSlice is part of a Service's endpoints.
type EndpointSlice struct {
	Meta
	Service   Key
	Ports     []EndpointPort
	Endpoints []Endpoint
}

// EndpointPort is a port of every endpoint in its slice.
type EndpointPort struct {
	Name     string
	Protocol inet.Protocol
	Port     uint16
}

// Endpoint is one backend address with its conditions.
type Endpoint struct {
	Addr        netip.Addr
	Node        string
	Ready       bool
	Serving     bool
	Terminating bool
	// Hints is nil where the endpoint is for clients everywhere.
	Hints *Hints
}

// Hints are the zones and nodes whose clients an endpoint is meant for
// (KEP-2433, KEP-3015).
type Hints struct{ Zones, Nodes []string }

// Pod is a pod, as policies see it.
type Pod struct {
	Meta
	Labels      labels.Set
	IPs         []netip.Addr
	Node        string
	HostNetwork bool
	// Finished pods (Succeeded, Failed) no longer own their addresses.
	Finished bool
	// Ports holds the named container ports, sidecars included.
	Ports []ContainerPort
}

// ContainerPort is a container's named port.
type ContainerPort struct {
	Name     string
	Protocol inet.Protocol
	Port     uint16
}

// Namespace is a namespace.
type Namespace struct {
	Meta
	Labels labels.Set
}

// NetworkPolicy is a parsed networking.k8s.io/v1 NetworkPolicy. Where a part
// of it did not parse, the rule of that part is left out (so it allows
// nothing) and Problems says so: a policy in error never opens a pod.
type NetworkPolicy struct {
	Meta
	// Pods selects the pods of the policy's namespace that it isolates.
	Pods labels.Selector
	// IsolatesIngress and IsolatesEgress are policyTypes, defaults resolved.
	IsolatesIngress bool
	IsolatesEgress  bool
	Ingress         []PolicyRule
	Egress          []PolicyRule
}

// PolicyRule allows traffic that matches one of its peers and one of its ports.
type PolicyRule struct {
	// AnyPeer is set where the API's list of peers is empty or missing.
	AnyPeer bool
	Peers   []PolicyPeer
	// AnyPort is set where the API's list of ports is empty or missing.
	AnyPort bool
	Ports   []PolicyPort
}

// PolicyPeer is a set of pods or a block of addresses.
type PolicyPeer struct {
	// Block is set for an ipBlock, and then the selectors are nil.
	Block *IPBlock
	// Namespaces is nil where the peer is in the policy's own namespace.
	Namespaces labels.Selector
	// Pods is never nil for a peer without a block.
	Pods labels.Selector
}

// IPBlock is an ipBlock: every address of CIDR that is in none of Except.
type IPBlock struct {
	CIDR   netip.Prefix
	Except []netip.Prefix
}

// PolicyPort is a port, a range of ports, or a named port.
type PolicyPort struct {
	Protocol inet.Protocol
	// Name is set for a named port, and then Port and End are 0.
	Name string
	// Port 0 means every port of the protocol. End is the last port of a
	// range and equals Port for a single one.
	Port, End uint16
}
