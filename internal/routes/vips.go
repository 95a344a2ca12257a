package routes

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// VIPs says which addresses of Services routers outside of the cluster are
// told.
type VIPs struct {
	// Watch says that there may be any to tell. Without it Services are not
	// watched.
	Watch bool
	// ClusterIPs, ExternalIPs and LoadBalancerIPs are what holds for Services
	// without an annotation.
	ClusterIPs, ExternalIPs, LoadBalancerIPs bool
	// The ranges are those of the service proxy: what it does not serve is not
	// told. AnyIP says that external and load balancer IPs need no range.
	ClusterIPRanges, ExternalIPRanges, LoadBalancerIPRanges []netip.Prefix
	AnyIP                                                   bool
	// ExcludedCIDRs hold addresses that the service proxy leaves to others: they
	// are not told, whatever range they are in.
	ExcludedCIDRs []netip.Prefix
	// Guessed says that nobody set ClusterIPRanges, which may be others': they are
	// never told as such, and what is in them is told all the same.
	Guessed bool
	// Aggregate tells a range instead of the addresses in it. Discard says that
	// this node answers for the addresses of such a range that nobody has.
	Aggregate, Discard bool
	// Served is closed when the service proxy serves the addresses; nil where
	// that is not known. A node that starts fresh does not tell them before.
	Served <-chan struct{}
}

// The annotations of Services.
const (
	advertiseClusterIP      = "kube-router.io/service.advertise.clusterip"
	advertiseExternalIP     = "kube-router.io/service.advertise.externalip"
	advertiseLoadBalancerIP = "kube-router.io/service.advertise.loadbalancerip"
	serviceLocal            = "kube-router.io/service.local"
	serviceSkipsIPs         = "kube-router.io/service.skiplbips"
)

// aggregates are the ranges that are told in place of the addresses in them. One
// that has an address of a node, or of what is left to others, is not, because a
// range has no holes: it would lead their traffic here, where it ends.
func (v VIPs) aggregates(ofNodes []netip.Addr) []netip.Prefix {
	if !v.Aggregate {
		return nil
	}
	ranges := slices.Concat(v.ExternalIPRanges, v.LoadBalancerIPRanges)
	if !v.Guessed {
		ranges = slices.Concat(v.ClusterIPRanges, ranges)
	}
	return slices.DeleteFunc(ranges, func(p netip.Prefix) bool {
		return slices.ContainsFunc(ofNodes, p.Contains) || slices.ContainsFunc(v.ExcludedCIDRs, p.Overlaps)
	})
}

// place is where an address is served.
type place struct {
	families []inet.Family
	addrs    []netip.Addr // of this node
}

// mayTell says whether any address of a Service may ever be told, as the Service
// is now.
func (v VIPs) mayTell(s *cluster.Service) bool {
	if v.ClusterIPs || v.ExternalIPs || v.LoadBalancerIPs {
		return true
	}
	for _, name := range []string{advertiseClusterIP, advertiseExternalIP, advertiseLoadBalancerIP} {
		if _, ok := s.Annotations[name]; ok {
			return true
		}
	}
	return false
}

// vips are the addresses of a Service that are to be told from a node now, and
// of each whether that depends on an endpoint there; ready are the families in
// which there is one. problems are annotations that cannot be read.
func (v VIPs) vips(s *cluster.Service, ready families, here place) (told map[netip.Addr]bool, problems []string) {
	told = map[netip.Addr]bool{}
	local := s.ExternalLocal || s.Annotations[serviceLocal] == "true"
	add := func(annotation string, otherwise, local bool, addrs []netip.Addr, allowed func(netip.Addr) bool) {
		on, err := advertised(s, annotation, otherwise)
		if err != nil {
			problems = append(problems, err.Error())
		}
		for _, a := range addrs {
			if on && here.tells(a) && allowed(a) && !within(v.ExcludedCIDRs, a) && (!local || ready[index(inet.FamilyOf(a))]) {
				told[a] = local
			}
		}
	}
	internal := s.InternalLocal && s.Annotations[serviceLocal] != "true"
	add(advertiseClusterIP, v.ClusterIPs, local || internal, s.ClusterIPs, func(netip.Addr) bool { return true })
	add(advertiseExternalIP, v.ExternalIPs, local, s.ExternalIPs, v.admits(v.ExternalIPRanges))
	if _, skip := s.Annotations[serviceSkipsIPs]; !skip {
		add(advertiseLoadBalancerIP, v.LoadBalancerIPs, local, s.LoadBalancerIPs, v.admits(v.LoadBalancerIPRanges))
	}
	return told, problems
}

// admits says which addresses the service proxy serves: those of the ranges,
// or any, but none of the range of cluster IPs where that is known.
func (v VIPs) admits(ranges []netip.Prefix) func(netip.Addr) bool {
	return func(a netip.Addr) bool {
		return (v.AnyIP || within(ranges, a)) && (v.Guessed || !within(v.ClusterIPRanges, a))
	}
}

func within(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// tells says whether an address may be told as one of a Service: it is of an
// enabled family, leads beyond a link, and is not this node's own.
func (p place) tells(a netip.Addr) bool {
	return slices.Contains(p.families, inet.FamilyOf(a)) && a.IsGlobalUnicast() && !slices.Contains(p.addrs, a)
}

// advertised reads an annotation of a Service.
func advertised(s *cluster.Service, annotation string, otherwise bool) (bool, error) {
	text, ok := s.Annotations[annotation]
	if !ok {
		return otherwise, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return otherwise, fmt.Errorf("annotation %s: %.64q is neither true nor false; the flag holds, which says %t", annotation, text, otherwise)
	}
	return on, nil
}

// families are some of the address families, by their index.
type families [2]bool

// localFamilies are those in which a node has a ready endpoint that does not
// terminate.
func localFamilies(slice *cluster.EndpointSlice, node string) (ready families) {
	for _, e := range slice.Endpoints {
		if e.Node == node && e.Ready && !e.Terminating {
			ready[index(inet.FamilyOf(e.Addr))] = true
		}
	}
	return ready
}

// vipState is the Services that may tell something, and what each of them has
// told. It is not safe for concurrent use.
type vipState struct {
	node     string
	services map[cluster.Key]*cluster.Service
	// owned are their addresses, told or not, and how many Services have each.
	owned map[netip.Addr]int
	// local are the EndpointSlices with a ready endpoint of this node, by
	// Service.
	local map[cluster.Key]map[cluster.Key]families
	dirty map[cluster.Key]struct{}
	// told are the addresses of each Service that has some, and claims the
	// Services that tell an address, with whether that depends on an endpoint.
	told   map[cluster.Key]map[netip.Addr]bool
	claims map[netip.Addr]map[cluster.Key]bool
}

func newVIPState(node string) *vipState {
	return &vipState{
		node:     node,
		services: map[cluster.Key]*cluster.Service{}, owned: map[netip.Addr]int{}, local: map[cluster.Key]map[cluster.Key]families{},
		dirty: map[cluster.Key]struct{}{},
		told:  map[cluster.Key]map[netip.Addr]bool{}, claims: map[netip.Addr]map[cluster.Key]bool{},
	}
}

// service takes note of a Service. It says whether anything is to be done, and
// which addresses came to be a Service's, or are none's any more.
func (s *vipState) service(change cluster.Change[cluster.Service], v VIPs) (dirty bool, moved []netip.Addr) {
	now := change.New
	if now != nil && !v.mayTell(now) {
		now = nil
	}
	key := cluster.Key{}
	if change.New != nil {
		key = change.New.Key
	} else {
		key = change.Old.Key
	}
	before := s.services[key]
	if before == nil && now == nil {
		return false, nil
	}
	moved = s.own(before, now)
	if s.services[key] = now; now == nil {
		delete(s.services, key)
	}
	s.dirty[key] = struct{}{}
	return true, moved
}

// own counts the addresses of a Service that changed.
func (s *vipState) own(before, now *cluster.Service) (moved []netip.Addr) {
	for _, a := range addresses(now) {
		if s.owned[a]++; s.owned[a] == 1 {
			moved = append(moved, a)
		}
	}
	for _, a := range addresses(before) {
		if s.owned[a]--; s.owned[a] == 0 {
			delete(s.owned, a)
			moved = append(moved, a)
		}
	}
	return moved
}

// addresses are all that a Service has, nil for none.
func addresses(s *cluster.Service) []netip.Addr {
	if s == nil {
		return nil
	}
	return slices.Concat(s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs)
}

// slice takes note of an EndpointSlice, and says whether anything is to be
// done: endpoints elsewhere are of no interest.
func (s *vipState) slice(change cluster.Change[cluster.EndpointSlice]) bool {
	changed := false
	for _, slice := range []*cluster.EndpointSlice{change.Old, change.New} {
		if slice == nil {
			continue
		}
		var ready families
		if slice == change.New {
			ready = localFamilies(slice, s.node)
		} else if change.New != nil && change.New.Service == slice.Service {
			continue // the new one says it all
		}
		changed = s.note(slice, ready) || changed
	}
	return changed
}

// note keeps what a slice has here.
func (s *vipState) note(slice *cluster.EndpointSlice, ready families) bool {
	list := s.local[slice.Service]
	if list[slice.Key] == ready {
		return false
	}
	before := s.ready(slice.Service)
	if list == nil {
		list = map[cluster.Key]families{}
		s.local[slice.Service] = list
	}
	if list[slice.Key] = ready; ready == (families{}) {
		delete(list, slice.Key)
	}
	if len(list) == 0 {
		delete(s.local, slice.Service)
	}
	if s.services[slice.Service] == nil || before == s.ready(slice.Service) {
		return false
	}
	s.dirty[slice.Service] = struct{}{}
	return true
}

// ready are the families in which a Service has a ready endpoint here.
func (s *vipState) ready(service cluster.Key) (all families) {
	for _, some := range s.local[service] {
		all[0], all[1] = all[0] || some[0], all[1] || some[1]
	}
	return all
}

// allDirty marks every Service.
func (s *vipState) allDirty() {
	for key := range s.services {
		s.dirty[key] = struct{}{}
	}
}

// set makes told what a Service tells, and says whether anything is other for
// those who listen: an address of two Services goes with the last of them.
func (s *vipState) set(key cluster.Key, told map[netip.Addr]bool) (changed bool) {
	before := s.told[key]
	if maps.Equal(before, told) {
		return false
	}
	for a := range before {
		if _, still := told[a]; still {
			continue
		}
		depended := s.depends(a)
		if delete(s.claims[a], key); len(s.claims[a]) == 0 {
			delete(s.claims, a)
			changed = true
		} else {
			changed = changed || s.depends(a) != depended
		}
	}
	for a, local := range told {
		if s.claims[a] == nil {
			s.claims[a] = map[cluster.Key]bool{key: local}
			changed = true
			continue
		}
		depended := s.depends(a)
		s.claims[a][key] = local
		changed = changed || s.depends(a) != depended
	}
	if s.told[key] = told; len(told) == 0 {
		delete(s.told, key)
	}
	return changed
}

// depends says whether an address is told only because of endpoints here.
func (s *vipState) depends(a netip.Addr) bool {
	for _, local := range s.claims[a] {
		if !local {
			return false
		}
	}
	return true
}

// prefixes are what is told for the addresses: each one, or with aggregation
// the range that it is in. An address that depends on endpoints is told in any
// case, because the range would lead to nodes without.
func (s *vipState) prefixes(aggregates []netip.Prefix) map[netip.Prefix]bool {
	all := make(map[netip.Prefix]bool, len(s.claims))
	for a := range s.claims {
		i := slices.IndexFunc(aggregates, func(p netip.Prefix) bool { return p.Contains(a) })
		if i >= 0 && !s.depends(a) {
			all[aggregates[i]] = true
			continue
		}
		all[netip.PrefixFrom(a, a.BitLen())] = false
	}
	return all
}
