package load

import (
	"context"
	"fmt"
	"net/netip"
)

// Port is the port of every Service and of every endpoint: a new address is
// what makes two of them different.
const Port = 8080

// Few is the number of Services that Shrink leaves.
const Few = 100

// The label that tells the first Few Services from the others.
const (
	size = "bench-size"
	few  = "few"
	many = "many"
)

func (s Service) size() string {
	if s.Number < Few {
		return few
	}
	return many
}

// namespace is where all Services are. It exists in every cluster.
const namespace = "default"

// Addresses of the node's side: the pod range of the lab's first node, of
// which the upper half answers (see package node).
var (
	// PodGateway is the node's own address among the pods.
	PodGateway = netip.MustParsePrefix("10.244.0.1/24")
	// PodNamespace is the address of the namespace that answers.
	PodNamespace = netip.MustParsePrefix("10.244.0.2/24")
	// Answering are the addresses on which a server listens.
	Answering = netip.MustParsePrefix("10.244.0.128/25")
	// PodRange is the range of all pods of the cluster.
	PodRange = netip.MustParsePrefix("10.244.0.0/16")
	// ServiceRange is the range of all Services' addresses.
	ServiceRange = netip.MustParsePrefix("10.96.0.0/16")
)

// firstVIP leaves room for the addresses that the cluster's own Services use.
var firstVIP = netip.MustParseAddr("10.96.16.0")

// usable is how many addresses of Answering endpoints take, all but both ends.
const usable = 126

// Service is the Service of a number, and its EndpointSlice: two endpoints,
// and a variant of them that has no endpoint in common with the other.
type Service struct {
	// Number orders Services by name: the last has the highest.
	Number int
	// Variant is 0 or 1.
	Variant int
}

// Name is the Service's name.
func (s Service) Name() string { return fmt.Sprintf("bench-%05d", s.Number) }

// VIP is the Service's address.
func (s Service) VIP() netip.AddrPort {
	b := firstVIP.As4()
	n := int(b[2])<<8 + int(b[3]) + s.Number
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{b[0], b[1], byte(n >> 8), byte(n)}), Port)
}

// Endpoints are the addresses behind the Service.
func (s Service) Endpoints() [2]netip.Addr {
	first := 2*s.Number + usable/2*s.Variant
	return [2]netip.Addr{answering(first), answering(first + 1)}
}

// Elsewhere answers, and is no endpoint of the Service in either variant: what
// goes there straight has no connection in common with what goes through it.
func (s Service) Elsewhere() netip.Addr { return answering(2*s.Number + usable/4) }

// answering is one of the addresses that endpoints take, in turns.
func answering(n int) netip.Addr {
	b := Answering.Addr().As4()
	b[3] = byte(129 + n%usable)
	return netip.AddrFrom4(b)
}

// fields is a JSON object.
type fields map[string]any

const (
	services = "/api/v1/namespaces/" + namespace + "/services"
	slices   = "/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices"
)

func (s Service) object() fields {
	return fields{
		"apiVersion": "v1", "kind": "Service", "metadata": fields{"name": s.Name(), "labels": fields{size: s.size()}},
		"spec": fields{
			"clusterIP": s.VIP().Addr().String(),
			"ports":     []fields{{"name": "web", "port": Port, "protocol": "TCP"}},
		},
	}
}

func (s Service) endpoints() []fields {
	var list []fields
	for _, a := range s.Endpoints() {
		list = append(list, fields{
			"addresses": []string{a.String()}, "nodeName": cluster1,
			"conditions": fields{"ready": true, "serving": true, "terminating": false},
		})
	}
	return list
}

// cluster1 is the name of the lab's first node, on which all endpoints are.
const cluster1 = "node1"

func (s Service) slice() fields {
	return fields{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata": fields{"name": s.Name(), "labels": fields{
			"kubernetes.io/service-name":             s.Name(),
			"endpointslice.kubernetes.io/managed-by": "bench",
			size:                                     s.size(),
		}},
		"ports":     []fields{{"name": "web", "port": Port, "protocol": "TCP"}},
		"endpoints": s.endpoints(),
	}
}

// CreateService creates the EndpointSlice and then the Service: once the
// second answer is there, nothing but the proxy is missing.
func (c *Client) CreateService(ctx context.Context, s Service) error {
	if err := c.Create(ctx, slices, s.slice()); err != nil {
		return err
	}
	return c.Create(ctx, services, s.object())
}

// ChangeEndpoints replaces the endpoints of a Service by those of its variant.
func (c *Client) ChangeEndpoints(ctx context.Context, s Service) error {
	return c.Patch(ctx, slices+"/"+s.Name(), fields{"endpoints": s.endpoints()})
}

// Shrink deletes all Services but the first Few and their EndpointSlices, in
// two requests: the API server does it faster than a guest can ask it to.
func (c *Client) Shrink(ctx context.Context) error {
	for _, collection := range []string{services, slices} {
		if err := c.deleteAll(ctx, collection+"?labelSelector="+size+"%3D"+many); err != nil {
			return err
		}
	}
	return nil
}

// Fill creates the Services from first to end-1.
func (c *Client) Fill(ctx context.Context, workers, first, end int) error {
	return Each(ctx, workers, first, end, func(ctx context.Context, i int) error {
		return c.CreateService(ctx, Service{Number: i})
	})
}
