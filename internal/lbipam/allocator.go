package lbipam

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// allocator decides which Service has which address. It does no I/O, and what
// it decides counts from then on, whether or not the API server has heard of
// it: an address that it took away is given to nobody else before the status
// that shows it was written (see written).
//
// From the same Services it decides the same: the oldest is served first, and
// gets the lowest free address.
type allocator struct {
	pools   []*pool
	isOurs  func(class string) bool
	uses    map[netip.Addr]*use
	holders map[cluster.Key]*holder
	// waiting are those that lack an address they ask for.
	waiting map[cluster.Key]*holder
	// fresh are those of waiting that were not served since they changed.
	fresh map[cluster.Key]*holder
	// freed says that an address became free since all of waiting were served.
	freed bool
}

// use is who uses an address of a pool: the Service that it was given to, and
// those that just name it, as an external IP or otherwise.
type use struct {
	owner  *holder
	others int
}

// holder is a Service that uses addresses of the pools, or wants to.
type holder struct {
	key     cluster.Key
	service *cluster.Service // as it is now, or was before it went
	gone    bool
	// served says that the Service is ours to give addresses to.
	served bool
	// held are the addresses that it was given, by family.
	held map[inet.Family]netip.Addr
	// leaving are those that were taken away, and that its status may show yet.
	leaving []netip.Addr
	// named are those of the pools that it names itself.
	named []netip.Addr
	// shown is what its status shows, as far as is known.
	shown []netip.Addr
	// refusal says why it lacks an address; empty where that needs no words.
	refusal string
}

func newAllocator(ranges []netip.Prefix, isOurs func(class string) bool) *allocator {
	a := &allocator{
		isOurs: isOurs, uses: map[netip.Addr]*use{}, holders: map[cluster.Key]*holder{},
		waiting: map[cluster.Key]*holder{}, fresh: map[cluster.Key]*holder{},
	}
	for _, r := range ranges {
		a.pools = append(a.pools, newPool(r))
	}
	return a
}

// relevant says whether a Service can use an address of a pool.
func relevant(s *cluster.Service) bool {
	return s != nil && (s.LoadBalancer != nil || len(s.ExternalIPs) > 0)
}

// older orders Services: those that were created first, and of those of one
// second the one whose name is first.
func older(a, b *cluster.Service) int {
	if c := createdAt(a).Compare(createdAt(b)); c != 0 {
		return c
	}
	return strings.Compare(a.Key.String(), b.Key.String())
}

func createdAt(s *cluster.Service) time.Time {
	if s.LoadBalancer == nil {
		return time.Time{}
	}
	return s.LoadBalancer.Created
}

func (a *allocator) inPool(addr netip.Addr) bool {
	return slices.ContainsFunc(a.pools, func(p *pool) bool { return p.prefix.Contains(addr) })
}

func (a *allocator) taken(addr netip.Addr) bool { return a.uses[addr] != nil }

// set takes note of a Service as it is. What its status shows and nobody else
// was given stays its own.
func (a *allocator) set(s *cluster.Service) {
	h := a.holders[s.Key]
	if h != nil && h.service.UID != s.UID {
		a.drop(h) // the old one of that name is gone, and its status with it
		h = nil
	}
	if h == nil {
		h = &holder{key: s.Key, held: map[inet.Family]netip.Addr{}}
		a.holders[s.Key] = h
	}
	h.service, h.gone = s, false
	h.shown = nil
	if s.LoadBalancer != nil {
		h.shown = s.LoadBalancer.Ingress
	}
	h.served = a.serves(s)
	a.name(h)
	if h.served {
		a.adopt(h)
	} else {
		a.release(h)
	}
	a.settleWaiting(h)
	a.forget(h)
}

// serves says whether a Service is ours to give addresses to. One without a
// class of its own may have another controller: what that wrote is not touched.
func (a *allocator) serves(s *cluster.Service) bool {
	lb := s.LoadBalancer
	if lb == nil || !lb.Wanted || !a.isOurs(lb.Class) {
		return false
	}
	return lb.Class == Class || a.allInPools(lb.Ingress)
}

func (a *allocator) allInPools(addrs []netip.Addr) bool {
	return !slices.ContainsFunc(addrs, func(addr netip.Addr) bool { return !a.inPool(addr) })
}

// name counts the addresses of the pools that a Service names itself, and those
// that its status shows though it is not served: nobody else is given those.
func (a *allocator) name(h *holder) {
	before := h.named
	h.named = nil
	list := h.service.ExternalIPs
	if lb := h.service.LoadBalancer; lb != nil && !h.served {
		list = slices.Concat(list, lb.Ingress)
	}
	for _, addr := range list {
		if a.inPool(addr) && !slices.Contains(h.named, addr) {
			h.named = append(h.named, addr)
			a.use(addr).others++
		}
	}
	for _, addr := range before {
		a.uses[addr].others--
		a.unuse(addr)
	}
}

func (a *allocator) use(addr netip.Addr) *use {
	u := a.uses[addr]
	if u == nil {
		u = &use{}
		a.uses[addr] = u
	}
	return u
}

// unuse frees an address that nobody uses any more.
func (a *allocator) unuse(addr netip.Addr) {
	if u := a.uses[addr]; u == nil || u.owner != nil || u.others > 0 {
		return
	}
	delete(a.uses, addr)
	a.freed = true
	for _, p := range a.pools {
		p.free(addr)
	}
}

// adopt lets a Service keep what its status shows, one address a family, and
// takes away what it no longer asks for.
func (a *allocator) adopt(h *holder) {
	lb := h.service.LoadBalancer
	for f := range maps.Clone(h.held) {
		if !slices.Contains(lb.Families, f) {
			a.leave(h, f)
		}
	}
	for _, addr := range h.shown {
		if !a.inPool(addr) || a.owned(addr, h) {
			continue
		}
		a.use(addr).owner = h
		h.leaving = slices.DeleteFunc(h.leaving, func(l netip.Addr) bool { return l == addr })
		if f := inet.FamilyOf(addr); slices.Contains(lb.Families, f) && !h.held[f].IsValid() {
			h.held[f] = addr
		} else {
			h.leaving = append(h.leaving, addr)
		}
	}
}

// owned says whether an address was given to somebody, and be it h, that keeps
// it.
func (a *allocator) owned(addr netip.Addr, h *holder) bool {
	u := a.uses[addr]
	return u != nil && u.owner != nil && (u.owner != h || h.held[inet.FamilyOf(addr)] == addr)
}

// leave takes a Service's address of a family away.
func (a *allocator) leave(h *holder, f inet.Family) {
	if addr := h.held[f]; addr.IsValid() {
		delete(h.held, f)
		h.leaving = append(h.leaving, addr)
	}
}

// release takes everything away from a Service. What its status shows of it is
// free once that was cleared; see clears.
func (a *allocator) release(h *holder) {
	for f := range maps.Clone(h.held) {
		a.leave(h, f)
	}
	if lb := h.service.LoadBalancer; lb != nil && !lb.Wanted {
		for _, addr := range h.shown {
			if a.inPool(addr) && a.use(addr).owner == nil {
				a.uses[addr].owner = h
				h.leaving = append(h.leaving, addr)
			}
		}
	}
	if !a.clears(h) {
		a.freeLeaving(h)
	}
}

// clears says whether the status of a Service that is not served is to be
// cleared: it shows addresses that were given to it, and nothing else.
func (a *allocator) clears(h *holder) bool {
	return len(h.leaving) > 0 && len(h.shown) > 0 && a.allInPools(h.shown)
}

// differs says whether the status of a Service is to be written. Addresses that
// are of no range stay where there is nothing to put in their place.
func (a *allocator) differs(h *holder) bool {
	if !h.served {
		return a.clears(h)
	}
	ingress := h.ingress()
	return !slices.Equal(ingress, h.shown) && (len(ingress) > 0 || len(h.leaving) > 0)
}

// ordered sorts the keys of Services by age, and leaves unknown ones last.
func (a *allocator) ordered(keys []cluster.Key) []cluster.Key {
	return slices.SortedStableFunc(slices.Values(keys), func(x, y cluster.Key) int {
		hx, hy := a.holders[x], a.holders[y]
		switch {
		case hx != nil && hy != nil:
			return older(hx.service, hy.service)
		case hx != nil:
			return -1
		case hy != nil:
			return 1
		}
		return 0
	})
}

func (a *allocator) freeLeaving(h *holder) {
	for _, addr := range h.leaving {
		if u := a.uses[addr]; u != nil && u.owner == h {
			u.owner = nil
			a.unuse(addr)
		}
	}
	h.leaving = nil
}

// remove takes note that a Service is gone, or out of sight: one that was given
// to another proxy by label still shows its addresses. So they are free when
// its status was cleared, which finds nothing to clear where it is gone.
func (a *allocator) remove(key cluster.Key) {
	h := a.holders[key]
	if h == nil {
		return
	}
	h.gone, h.served = true, false
	h.service = &cluster.Service{Meta: h.service.Meta}
	a.name(h)
	a.release(h)
	a.settleWaiting(h)
	a.forget(h)
}

// drop forgets a Service and frees what it had.
func (a *allocator) drop(h *holder) {
	h.shown = nil
	a.remove(h.key)
}

// forget drops what needs no memory.
func (a *allocator) forget(h *holder) {
	if !h.served && len(h.leaving) == 0 && len(h.named) == 0 {
		delete(a.holders, h.key)
	}
}

// written takes note that the status of a Service shows what it holds, so that
// what was taken away is free.
func (a *allocator) written(key cluster.Key) {
	h := a.holders[key]
	if h == nil {
		return
	}
	if h.served || len(h.leaving) > 0 {
		h.shown = h.ingress()
	}
	a.freeLeaving(h)
	a.forget(h)
}

// ingress is what the status of a Service is to show: the addresses that it
// holds, in the order of its families.
func (h *holder) ingress() []netip.Addr {
	lb := h.service.LoadBalancer
	if lb == nil || !h.served {
		return nil
	}
	var addrs []netip.Addr
	for _, f := range lb.Families {
		if addr := h.held[f]; addr.IsValid() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
