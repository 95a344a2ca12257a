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
	slices   map[cluster.Key][]*cluster.EndpointSlice // by Service, in order of their names
	node     *cluster.Node
	peers    map[string]peer
}

func newState() *state {
	return &state{
		services: map[cluster.Key]*cluster.Service{},
		slices:   map[cluster.Key][]*cluster.EndpointSlice{},
		peers:    map[string]peer{},
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
		s.setSlice(old.Service, old.Name, nil)
		dirty = append(dirty, old.Service)
	}
	if slice := change.New; slice != nil {
		s.setSlice(slice.Service, slice.Name, slice)
		dirty = append(dirty, slice.Service)
	}
	return dirty
}

// setSlice puts a slice in its place, or removes it where it is nil. The list
// is a new one: compilers read the old.
func (s *state) setSlice(service cluster.Key, name string, slice *cluster.EndpointSlice) {
	var list []*cluster.EndpointSlice
	i, found := slices.BinarySearchFunc(s.slices[service], name, func(e *cluster.EndpointSlice, name string) int {
		return strings.Compare(e.Name, name)
	})
	list = append(list, s.slices[service][:i]...)
	if slice != nil {
		list = append(list, slice)
	}
	if found {
		i++
	}
	list = append(list, s.slices[service][i:]...)
	if len(list) == 0 {
		delete(s.slices, service)
	} else {
		s.slices[service] = list
	}
}

// setNode takes note of a node, and says whether anything changed that matters
// here. This node stays as it was when its Node is deleted: what it made right
// is right until another Node says otherwise.
func (s *state) setNode(change cluster.Change[cluster.Node], name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if change.New == nil {
		_, known := s.peers[change.Old.Name]
		delete(s.peers, change.Old.Name)
		return known && change.Old.Name != name
	}
	was, now := s.peers[change.New.Name], peerFrom(change.New)
	s.peers[change.New.Name] = now
	if change.New.Name != name {
		return !was.same(now)
	}
	old := s.node
	s.node = change.New
	return old == nil || !was.same(now) || !slices.Equal(old.PodCIDRs, s.node.PodCIDRs) ||
		old.Labels[zoneLabel] != s.node.Labels[zoneLabel]
}

// self returns this node, and nil where it is not known yet, with what counts
// of all nodes.
func (s *state) self() (*cluster.Node, map[string]peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node, maps.Clone(s.peers)
}

// keys are the Services there are.
func (s *state) keys() []cluster.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.services))
}

// at are the Services with one of the addresses.
func (s *state) at(addrs map[netip.Addr]bool) []cluster.Key {
	if len(addrs) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []cluster.Key
	has := func(a netip.Addr) bool { return addrs[a] }
	for k, service := range s.services {
		if slices.ContainsFunc(service.ClusterIPs, has) || slices.ContainsFunc(service.ExternalIPs, has) ||
			slices.ContainsFunc(service.LoadBalancerIPs, has) {
			keys = append(keys, k)
		}
	}
	return keys
}

// count is the number of Services.
func (s *state) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.services)
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
	return service, s.slices[key]
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
	zone     string
	// peers are all nodes, by name, and owners the nodes' names by address.
	peers  map[string]peer
	owners map[netip.Addr]string
}

// zoneLabel is the Node's label for its zone.
const zoneLabel = "topology.kubernetes.io/zone"

// peer is what counts of any node.
type peer struct {
	ip4, ip6 netip.Addr
	addrs    []netip.Addr // all of its Node object
	// endpoints is the annotated weight of its endpoints, as it is written.
	endpoints string
}

func peerFrom(n *cluster.Node) peer {
	return peer{
		ip4: n.IP(inet.IPv4), ip6: n.IP(inet.IPv6), addrs: slices.Concat(n.InternalIPs, n.ExternalIPs),
		endpoints: n.Annotations[weightAnnotation],
	}
}

func (p peer) same(other peer) bool {
	return p.ip4 == other.ip4 && p.ip6 == other.ip6 && p.endpoints == other.endpoints && slices.Equal(p.addrs, other.addrs)
}

func (p peer) addr(f inet.Family) netip.Addr {
	if f == inet.IPv6 {
		return p.ip6
	}
	return p.ip4
}

// weight is that of the endpoints on a node.
func (s self) weight(node string) uint32 {
	w, _ := readWeight(s.peers[node].endpoints)
	return w
}

// identify reads a Node.
func identify(node *cluster.Node, peers map[string]peer, families []inet.Family) self {
	me := self{
		name: node.Name, source: map[inet.Family]netip.Addr{}, zone: node.Labels[zoneLabel],
		peers: peers, owners: ownersOf(node.Name, peers),
	}
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

// ownersOf are the nodes' names by address. What this node and another both
// have is this node's.
func ownersOf(name string, peers map[string]peer) map[netip.Addr]string {
	owners := make(map[netip.Addr]string, len(peers))
	for other, p := range peers {
		for _, a := range p.addrs {
			owners[a] = max(other, owners[a])
		}
	}
	for _, a := range peers[name].addrs {
		owners[a] = name
	}
	return owners
}

// owner is the node that has an address, "" for none. The addresses of node
// ports are this node's, whoever else may have them.
func (s self) owner(a netip.Addr) string {
	if s.has(a) {
		return s.name
	}
	return s.owners[a]
}

// moved are the addresses that have another owner than before.
func moved(old, now map[netip.Addr]string) map[netip.Addr]bool {
	addrs := map[netip.Addr]bool{}
	for a, name := range now {
		if old[a] != name {
			addrs[a] = true
		}
	}
	for a := range old {
		if now[a] == "" {
			addrs[a] = true
		}
	}
	return addrs
}

// same says that nothing is other about this node itself.
func (s self) same(other self) bool {
	return s.name == other.name && slices.Equal(s.addrs, other.addrs) && s.zone == other.zone &&
		maps.Equal(s.source, other.source) && slices.Equal(s.podCIDRs, other.podCIDRs)
}

// knowsPods says that the addresses of this node's Pods can be told.
func (s self) knowsPods(f inet.Family) bool {
	return slices.ContainsFunc(s.podCIDRs, func(p netip.Prefix) bool { return inet.FamilyOf(p.Addr()) == f })
}

func (s self) has(a netip.Addr) bool { return slices.Contains(s.addrs, a) }
