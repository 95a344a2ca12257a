package lbipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// settleWaiting takes note of whether a Service lacks anything.
func (a *allocator) settleWaiting(h *holder) {
	if h.served && a.lacks(h) {
		a.waiting[h.key], a.fresh[h.key] = h, h
		return
	}
	delete(a.waiting, h.key)
	delete(a.fresh, h.key)
	h.refusal = ""
}

// lacks says whether a Service has not got all that it asks for.
func (a *allocator) lacks(h *holder) bool {
	lb := h.service.LoadBalancer
	if lb.AllFamilies && len(lb.Families) < 2 {
		return true
	}
	for _, f := range lb.Families {
		if addr := h.held[f]; !addr.IsValid() || wish(lb, f).IsValid() && wish(lb, f) != addr {
			return true
		}
	}
	return len(lb.Families) == 0 || impossible(lb) != ""
}

// wish is the address of a family that a Service asks for, or the zero Addr.
func wish(lb *cluster.LoadBalancer, f inet.Family) netip.Addr {
	for _, addr := range lb.Requested {
		if inet.FamilyOf(addr) == f {
			return addr
		}
	}
	return netip.Addr{}
}

// serve gives addresses to those that wait, the oldest first, and returns all
// whom it looked at.
func (a *allocator) serve() []*holder {
	due := a.fresh
	if a.freed {
		due = a.waiting
	}
	list := make([]*holder, 0, len(due))
	for _, h := range due {
		list = append(list, h)
	}
	slices.SortFunc(list, func(x, y *holder) int { return older(x.service, y.service) })
	a.fresh, a.freed = map[cluster.Key]*holder{}, false
	for _, h := range list {
		h.refusal = a.satisfy(h)
		if !a.lacks(h) {
			delete(a.waiting, h.key)
		}
	}
	return list
}

// satisfy gives a Service what it lacks, as far as it is there, and says why it
// is not. With RequireDualStack it gives all or nothing.
func (a *allocator) satisfy(h *holder) (refusal string) {
	lb := h.service.LoadBalancer
	picks := map[inet.Family]netip.Addr{}
	var refusals []string
	for _, f := range lb.Families {
		addr, why := a.pick(h, f)
		if why != "" {
			refusals = append(refusals, why)
			continue
		}
		picks[f] = addr
	}
	if why := impossible(lb); why != "" {
		refusals = append(refusals, why)
	}
	if lb.AllFamilies && len(picks) < 2 {
		return strings.Join(refusals, "; ")
	}
	for f, addr := range picks {
		a.give(h, f, addr)
	}
	if lb.AnyFamily && len(h.held) > 0 && len(lb.Requested) == 0 {
		return "" // it does with what is there
	}
	return strings.Join(refusals, "; ")
}

// impossible says what a Service asks for that no free address can mend.
func impossible(lb *cluster.LoadBalancer) string {
	if len(lb.Families) == 0 {
		return "the Service has no spec.ipFamilies; set them"
	}
	if lb.AllFamilies && len(lb.Families) < 2 {
		return fmt.Sprintf("spec.ipFamilyPolicy is RequireDualStack, and spec.ipFamilies has %s only; add the other family", lb.Families[0])
	}
	for i, addr := range lb.Requested {
		f := inet.FamilyOf(addr)
		if !slices.Contains(lb.Families, f) {
			return fmt.Sprintf("the requested %s is %s, which is not in spec.ipFamilies; add the family, or do not request the address", addr, f)
		}
		if addr != wish(lb, f) {
			return fmt.Sprintf("%s is requested beside %s; request at most one address of %s", lb.Requested[i], wish(lb, f), f)
		}
	}
	return ""
}

// pick finds the address of a family that a Service is to have, or says why
// there is none.
func (a *allocator) pick(h *holder, f inet.Family) (addr netip.Addr, refusal string) {
	want := wish(h.service.LoadBalancer, f)
	if held := h.held[f]; held.IsValid() && (!want.IsValid() || want == held) {
		return held, ""
	}
	if want.IsValid() {
		return want, a.refuse(h, want)
	}
	known := false
	for _, p := range a.pools {
		if p.family() != f {
			continue
		}
		known = true
		if addr := p.lowest(a.taken); addr.IsValid() {
			return addr, ""
		}
	}
	if !known {
		return addr, fmt.Sprintf("no %s range to take an address from; give --loadbalancer-ip-range one, or leave %s out of spec.ipFamilies", f, f)
	}
	return addr, fmt.Sprintf("all %s addresses are in use; the next one that is freed is given, or give --loadbalancer-ip-range another range", f)
}

// refuse says why a Service cannot have the address that it requests.
func (a *allocator) refuse(h *holder, want netip.Addr) string {
	u := a.uses[want]
	switch {
	case !a.inPool(want):
		return fmt.Sprintf("the requested %s is in no range of --loadbalancer-ip-range; request another, or none", want)
	case !slices.ContainsFunc(a.pools, func(p *pool) bool { return p.gives(want) }):
		return fmt.Sprintf("the requested %s is the first or the last address of its range, which are not given; request another, or none", want)
	case u != nil && (u.others > 0 || u.owner != h):
		return fmt.Sprintf("the requested %s is in use by another Service, or as an external IP; it is given once it is free", want)
	}
	return ""
}

// give lets a Service have an address, in place of the one of that family that
// it had.
func (a *allocator) give(h *holder, f inet.Family, addr netip.Addr) {
	if h.held[f] == addr {
		return
	}
	a.leave(h, f)
	h.held[f] = addr
	h.leaving = slices.DeleteFunc(h.leaving, func(l netip.Addr) bool { return l == addr })
	a.use(addr).owner = h
}
