package services

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// state is what Services are compiled from: the present objects, by Service.
// It is safe for concurrent use.
type state struct {
	mu       sync.Mutex
	services map[cluster.Key]*cluster.Service
	slices   map[cluster.Key]map[string]*cluster.EndpointSlice // by Service and the slice's name
	node     *cluster.Node
}

func newState() *state {
	return &state{
		services: map[cluster.Key]*cluster.Service{},
		slices:   map[cluster.Key]map[string]*cluster.EndpointSlice{},
	}
}

// service takes note of a Service and returns its key.
func (s *state) service(change cluster.Change[cluster.Service]) cluster.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	if change.New == nil {
		delete(s.services, change.Old.Key)
		return change.Old.Key
	}
	s.services[change.New.Key] = change.New
	return change.New.Key
}

// slice takes note of an EndpointSlice and returns the Services it belongs to:
// two where its label was changed.
func (s *state) slice(change cluster.Change[cluster.EndpointSlice]) []cluster.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var dirty []cluster.Key
	if old := change.Old; old != nil && (change.New == nil || change.New.Service != old.Service) {
		delete(s.slices[old.Service], old.Name)
		if len(s.slices[old.Service]) == 0 {
			delete(s.slices, old.Service)
		}
		dirty = append(dirty, old.Service)
	}
	if slice := change.New; slice != nil {
		if s.slices[slice.Service] == nil {
			s.slices[slice.Service] = map[string]*cluster.EndpointSlice{}
		}
		s.slices[slice.Service][slice.Name] = slice
		dirty = append(dirty, slice.Service)
	}
	return dirty
}

// setNode takes note of this node, and says whether anything changed that
// matters here. A Node that is deleted stays as it was: what it made right is
// right until another Node says otherwise.
func (s *state) setNode(change cluster.Change[cluster.Node], name string) bool {
	if change.New == nil || change.New.Name != name {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.node
	s.node = change.New
	return old == nil || !slices.Equal(old.InternalIPs, s.node.InternalIPs) ||
		!slices.Equal(old.ExternalIPs, s.node.ExternalIPs) || !slices.Equal(old.PodCIDRs, s.node.PodCIDRs)
}

// self returns this node, and nil where it is not known yet.
func (s *state) self() *cluster.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// keys are the Services there are.
func (s *state) keys() []cluster.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.services))
}

// get returns a Service with its slices by name. The Service is nil where there
// is none.
func (s *state) get(key cluster.Key) (*cluster.Service, []*cluster.EndpointSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	service := s.services[key]
	if service == nil {
		return nil, nil
	}
	list := slices.SortedFunc(maps.Values(s.slices[key]), func(a, b *cluster.EndpointSlice) int {
		return strings.Compare(a.Name, b.Name)
	})
	return service, list
}

// self is this node as Services need it.
type self struct {
	name string
	// addrs are the addresses that node ports are served at: the InternalIPs
	// of the enabled families, or the ExternalIPs of a node that has no others.
	addrs []netip.Addr
	// source is what the host has for source when it speaks to a Service, by
	// family.
	source map[inet.Family]netip.Addr
	// podCIDRs are this node's Pods, of the enabled families.
	podCIDRs []netip.Prefix
}

// identify reads a Node.
func identify(node *cluster.Node, families []inet.Family) self {
	me := self{name: node.Name, source: map[inet.Family]netip.Addr{}}
	for _, f := range families {
		if ip := node.IP(f); ip.IsValid() {
			me.source[f] = ip
			me.addrs = append(me.addrs, ip)
		}
		for _, ip := range node.InternalIPs {
			if inet.FamilyOf(ip) == f && !slices.Contains(me.addrs, ip) {
				me.addrs = append(me.addrs, ip)
			}
		}
		for _, cidr := range node.PodCIDRs {
			if inet.FamilyOf(cidr.Addr()) == f {
				me.podCIDRs = append(me.podCIDRs, cidr)
			}
		}
	}
	return me
}

func (s self) equal(other self) bool {
	return s.name == other.name && slices.Equal(s.addrs, other.addrs) &&
		maps.Equal(s.source, other.source) && slices.Equal(s.podCIDRs, other.podCIDRs)
}

func (s self) has(a netip.Addr) bool { return slices.Contains(s.addrs, a) }
