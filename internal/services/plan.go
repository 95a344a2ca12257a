package services

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// plan is what all Services together want of the kernel. Several may want the
// same: an address, a hairpin, and, though they should not, an address and port.
type plan struct {
	services map[cluster.Key]*share
	virtuals claims[ipvs.ID, virtual]
	vips     claims[netip.Addr, struct{}]
	hairpins claims[ipset.Entry, struct{}]
	reals    int
	directs  int // Services with direct server return
}

// share is what one Service has claims on. How it wants it is in the claims:
// there are thousands of Services with little each, and maps are large.
type share struct {
	virtuals []ipvs.ID
	vips     []netip.Addr
	hairpins []ipset.Entry
	reals    int
	direct   bool
	health   *health
}

func (d *desired) share() *share {
	return &share{
		virtuals: keysOf(d.virtuals), vips: keysOf(d.vips), hairpins: keysOf(d.hairpins),
		reals: d.reals, direct: d.direct, health: d.health,
	}
}

// keysOf are the keys of a map, in a slice without room for more.
func keysOf[K comparable, V any](m map[K]V) []K {
	if len(m) == 0 {
		return nil
	}
	return slices.AppendSeq(make([]K, 0, len(m)), maps.Keys(m))
}

func newPlan() plan {
	return plan{
		services: map[cluster.Key]*share{},
		virtuals: claims[ipvs.ID, virtual]{},
		vips:     claims[netip.Addr, struct{}]{},
		hairpins: claims[ipset.Entry, struct{}]{},
	}
}

// claims say who wants a resource and how. The first claim on a resource is
// granted: one to what is the Service's own, and else that of the Service whose
// name comes first. So every node decides alike, whatever came first, and
// nobody takes a cluster IP away by wanting it for an external one.
type claims[R comparable, V any] map[R][]claim[V]

type claim[V any] struct {
	by    cluster.Key
	own   bool
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

func (c claims[R, V]) put(r R, by cluster.Key, own bool, value V) {
	next := claim[V]{by, own, value}
	if i := c.find(r, by); i >= 0 && c[r][i].own == own {
		c[r][i] = next
		return
	}
	c.drop(r, by)
	i, _ := slices.BinarySearchFunc(c[r], next, compareClaims[V])
	c[r] = slices.Insert(c[r], i, next)
}

func (c claims[R, V]) drop(r R, by cluster.Key) {
	i := c.find(r, by)
	switch {
	case i < 0:
	case len(c[r]) == 1:
		delete(c, r)
	default:
		c[r] = slices.Delete(c[r], i, i+1)
	}
}

// find is where in the list of a resource the claim of a Service is, -1 where
// there is none.
func (c claims[R, V]) find(r R, by cluster.Key) int {
	return slices.IndexFunc(c[r], func(c claim[V]) bool { return c.by == by })
}

func compareClaims[V any](a, b claim[V]) int {
	switch {
	case a.own == b.own:
		return compareKeys(a.by, b.by)
	case a.own:
		return -1
	}
	return 1
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

// newResources has room for those of a number of Services.
func newResources(services int) *resources {
	return &resources{
		virtuals: make(map[ipvs.ID]struct{}, services), vips: make(map[netip.Addr]struct{}, services),
		hairpins: map[ipset.Entry]struct{}{},
	}
}

// touched are the resources of one Service that must be looked at. One may be
// in a list twice.
type touched struct {
	virtuals []ipvs.ID
	vips     []netip.Addr
	hairpins []ipset.Entry
}

// add takes those of a Service in.
func (r *resources) add(t *touched) {
	addAll(r.virtuals, t.virtuals)
	addAll(r.vips, t.vips)
	addAll(r.hairpins, t.hairpins)
}

func addAll[K comparable](into map[K]struct{}, list []K) {
	for _, k := range list {
		into[k] = struct{}{}
	}
}

// and joins two, each resource once.
func (t *touched) and(other *touched) *touched {
	if other == nil {
		return t
	}
	both := newResources(1)
	both.add(t)
	both.add(other)
	return &touched{keysOf(both.virtuals), keysOf(both.vips), keysOf(both.hairpins)}
}

// set makes want what a Service wants, nil for nothing, and returns all that it
// wanted before or wants now.
func (p *plan) set(key cluster.Key, want *desired) *touched {
	t := &touched{}
	if old := p.services[key]; old != nil {
		p.withdraw(key, old, want, t)
	}
	if want == nil {
		delete(p.services, key)
		return t
	}
	has := want.share()
	p.services[key] = has
	p.reals += want.reals
	if want.direct {
		p.directs++
	}
	for id, v := range want.virtuals {
		p.virtuals.put(id, key, v.own, v)
	}
	for addr := range want.vips {
		p.vips.put(addr, key, false, struct{}{})
	}
	for entry := range want.hairpins {
		p.hairpins.put(entry, key, false, struct{}{})
	}
	t.virtuals = append(t.virtuals, has.virtuals...)
	t.vips = append(t.vips, has.vips...)
	t.hairpins = append(t.hairpins, has.hairpins...)
	return t
}

// withdraw drops the claims of old that want does not repeat.
func (p *plan) withdraw(key cluster.Key, old *share, want *desired, t *touched) {
	if want == nil {
		want = &desired{}
	}
	p.reals -= old.reals
	if old.direct {
		p.directs--
	}
	t.virtuals = withdraw(p.virtuals, key, old.virtuals, want.virtuals)
	t.vips = withdraw(p.vips, key, old.vips, want.vips)
	t.hairpins = withdraw(p.hairpins, key, old.hairpins, want.hairpins)
}

// withdraw returns what was dropped.
func withdraw[R comparable, V, W any](from claims[R, V], key cluster.Key, old []R, want map[R]W) []R {
	var dropped []R
	for _, r := range old {
		if _, ok := want[r]; !ok {
			from.drop(r, key)
			dropped = append(dropped, r)
		}
	}
	return dropped
}

// datagrams are the virtual servers for UDP that a Service has claims on or
// wants.
func (p *plan) datagrams(key cluster.Key, want *desired) []ipvs.ID {
	var ids []ipvs.ID
	note := func(id ipvs.ID) {
		if id.Protocol == inet.UDP {
			ids = append(ids, id)
		}
	}
	if has := p.services[key]; has != nil {
		for _, id := range has.virtuals {
			note(id)
		}
	}
	if want != nil {
		for id := range want.virtuals {
			note(id)
		}
	}
	return ids
}

// served are those virtual servers that are granted, whoever has them, and have
// real servers.
func (p *plan) served(ids []ipvs.ID) map[ipvs.ID]*ipvs.Server {
	servers := map[ipvs.ID]*ipvs.Server{}
	for _, id := range ids {
		if v, _ := p.virtuals.granted(id); v.server != nil && len(v.server.Real) > 0 {
			servers[id] = v.server
		}
	}
	return servers
}

// conflict is a Service that does not get an address and port.
type conflict struct {
	id            ipvs.ID
	loser, winner cluster.Key
	own           bool // the address is the winner's cluster IP
}

// conflicts are those about the given virtual servers.
func (p *plan) conflicts(ids map[ipvs.ID]struct{}) []conflict {
	var list []conflict
	for id := range ids {
		for i, c := range p.virtuals[id] {
			if first := p.virtuals[id][0]; i > 0 {
				list = append(list, conflict{id, c.by, first.by, first.own && !c.own})
			}
		}
	}
	slices.SortFunc(list, func(a, b conflict) int {
		return cmp.Or(compareKeys(a.loser, b.loser), cmp.Compare(a.id.String(), b.id.String()))
	})
	return list
}
