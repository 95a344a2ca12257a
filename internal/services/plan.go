package services

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// plan is what all Services together want of the kernel. Several may want the
// same: an address, a hairpin, and, though they should not, an address and port.
type plan struct {
	services map[cluster.Key]*desired
	virtuals claims[ipvs.ID, virtual]
	vips     claims[netip.Addr, netip.Addr]
	hairpins claims[ipset.Entry, struct{}]
	reals    int
	directs  int // Services with direct server return
}

func newPlan() plan {
	return plan{
		services: map[cluster.Key]*desired{},
		virtuals: claims[ipvs.ID, virtual]{},
		vips:     claims[netip.Addr, netip.Addr]{},
		hairpins: claims[ipset.Entry, struct{}]{},
	}
}

// claims say who wants a resource and how. The claims on one resource are in
// order of the Services' names, and the first is granted: every node decides
// alike, whatever came first.
type claims[R comparable, V any] map[R][]claim[V]

type claim[V any] struct {
	by    cluster.Key
	value V
}

// granted is the claim that counts, and false where nobody wants the resource.
func (c claims[R, V]) granted(r R) (V, bool) {
	if list := c[r]; len(list) > 0 {
		return list[0].value, true
	}
	var none V
	return none, false
}

func (c claims[R, V]) put(r R, by cluster.Key, value V) {
	i, found := c.find(r, by)
	if found {
		c[r][i].value = value
		return
	}
	c[r] = slices.Insert(c[r], i, claim[V]{by, value})
}

func (c claims[R, V]) drop(r R, by cluster.Key) {
	i, found := c.find(r, by)
	switch {
	case !found:
	case len(c[r]) == 1:
		delete(c, r)
	default:
		c[r] = slices.Delete(c[r], i, i+1)
	}
}

func (c claims[R, V]) find(r R, by cluster.Key) (int, bool) {
	return slices.BinarySearchFunc(c[r], by, func(c claim[V], by cluster.Key) int { return compareKeys(c.by, by) })
}

func compareKeys(a, b cluster.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// resources are those that must be looked at in the kernel.
type resources struct {
	virtuals map[ipvs.ID]struct{}
	vips     map[netip.Addr]struct{}
	hairpins map[ipset.Entry]struct{}
}

func newResources() *resources {
	return &resources{
		virtuals: map[ipvs.ID]struct{}{}, vips: map[netip.Addr]struct{}{}, hairpins: map[ipset.Entry]struct{}{},
	}
}

// set makes want what a Service wants, nil for nothing, and adds all that it
// wanted before or wants now to touched.
func (p *plan) set(key cluster.Key, want *desired, touched *resources) {
	old := p.services[key]
	if old != nil {
		p.withdraw(key, old, want, touched)
	}
	if want == nil {
		delete(p.services, key)
		return
	}
	p.services[key] = want
	p.reals += want.reals
	if want.direct {
		p.directs++
	}
	for id, v := range want.virtuals {
		p.virtuals.put(id, key, v)
		touched.virtuals[id] = struct{}{}
	}
	for addr, source := range want.vips {
		p.vips.put(addr, key, source)
		touched.vips[addr] = struct{}{}
	}
	for entry := range want.hairpins {
		p.hairpins.put(entry, key, struct{}{})
		touched.hairpins[entry] = struct{}{}
	}
}

// withdraw drops the claims of old that want does not repeat.
func (p *plan) withdraw(key cluster.Key, old, want *desired, touched *resources) {
	if want == nil {
		want = &desired{}
	}
	p.reals -= old.reals
	if old.direct {
		p.directs--
	}
	for id := range old.virtuals {
		if _, ok := want.virtuals[id]; !ok {
			p.virtuals.drop(id, key)
			touched.virtuals[id] = struct{}{}
		}
	}
	for addr := range old.vips {
		if _, ok := want.vips[addr]; !ok {
			p.vips.drop(addr, key)
			touched.vips[addr] = struct{}{}
		}
	}
	for entry := range old.hairpins {
		if _, ok := want.hairpins[entry]; !ok {
			p.hairpins.drop(entry, key)
			touched.hairpins[entry] = struct{}{}
		}
	}
}

// conflict is a Service that does not get an address and port.
type conflict struct {
	id            ipvs.ID
	loser, winner cluster.Key
}

// conflicts are those about the given virtual servers.
func (p *plan) conflicts(ids map[ipvs.ID]struct{}) []conflict {
	var list []conflict
	for id := range ids {
		for i, c := range p.virtuals[id] {
			if i > 0 {
				list = append(list, conflict{id, c.by, p.virtuals[id][0].by})
			}
		}
	}
	slices.SortFunc(list, func(a, b conflict) int {
		return cmp.Or(compareKeys(a.loser, b.loser), cmp.Compare(a.id.String(), b.id.String()))
	})
	return list
}
