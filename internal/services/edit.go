package services

import (
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// closePorts takes out of the sets what IPVS is about to stop serving, and
// silences what is to be silent.
func (b *batch) closePorts() {
	var closed, silent []ipset.Entry
	for id := range b.resources.virtuals {
		v, _ := b.plan.virtuals.granted(id)
		if v.server == nil {
			closed = append(closed, portEntry(id))
		}
		if v.drop {
			silent = append(silent, portEntry(id))
		}
	}
	b.edit(dropSet, silent, nil, b.portFailed)
	b.edit(portSet, nil, closed, b.portFailed)
}

// openPorts lets packets through to what IPVS serves now.
func (b *batch) openPorts() {
	open, loud := make([]ipset.Entry, 0, len(b.resources.virtuals)), []ipset.Entry(nil)
	silenced := !b.empty(dropSet)
	for id := range b.resources.virtuals {
		v, _ := b.plan.virtuals.granted(id)
		if v.server != nil && b.failedVirtuals[id] == nil {
			open = append(open, portEntry(id))
		}
		if !v.drop && silenced {
			loud = append(loud, portEntry(id))
		}
	}
	b.edit(portSet, open, nil, b.portFailed)
	b.edit(dropSet, nil, loud, b.portFailed)
}

// sourceEdits are the sources that are let in beyond those of before, and those
// that are not any more.
func (b *batch) sourceEdits() (allow, deny []ipset.Entry) {
	for id := range b.resources.virtuals {
		v, _ := b.plan.virtuals.granted(id)
		for _, p := range v.sources() {
			allow = append(allow, sourceEntry(id, p))
		}
		for _, p := range b.sources[id] {
			if !slices.Contains(v.sources(), p) {
				deny = append(deny, sourceEntry(id, p))
			}
		}
	}
	return allow, deny
}

// restrict shuts what is for some sources only, and opens what is not. It comes
// before the port is opened and after its sources are let in.
func (b *batch) restrict() {
	var shut, open []ipset.Entry
	restricted := !b.empty(limitSet)
	for id := range b.resources.virtuals {
		if v, _ := b.plan.virtuals.granted(id); v.restricted() {
			shut = append(shut, portEntry(id))
		} else if restricted {
			open = append(open, portEntry(id))
		}
	}
	b.edit(limitSet, shut, open, b.portFailed)
}

// noteSources remembers the sources that are let in now.
func (b *batch) noteSources() {
	for id := range b.resources.virtuals {
		v, _ := b.plan.virtuals.granted(id)
		switch {
		case b.failedVirtuals[id] != nil: // tried again with what was there before
			for _, p := range v.sources() {
				if !slices.Contains(b.sources[id], p) {
					b.sources[id] = append(slices.Clone(b.sources[id]), p)
				}
			}
		case len(v.sources()) == 0:
			delete(b.sources, id)
		default:
			b.sources[id] = v.sources()
		}
	}
}

func sourceEntry(id ipvs.ID, p netip.Prefix) ipset.Entry {
	return ipset.IPPortNet(id.Protocol, id.Addr, p)
}

// makeRoutes makes addresses of Services the host's. Only those where that
// succeeded are guarded as such: an address that the host has for other
// reasons must go on to work.
func (b *batch) makeRoutes() {
	want := make(map[route.Key]*route.Route, len(b.resources.vips))
	for addr := range b.resources.vips {
		if _, ok := b.plan.vips.granted(addr); ok {
			r := vipRoute(addr, b.me.source[inet.FamilyOf(addr)])
			want[r.Key] = &r
		}
	}
	failed := b.routes.Set(want)
	guarded := make([]ipset.Entry, 0, len(want))
	for k := range want {
		if err := failed[k]; err != nil {
			b.failedVIPs[k.Dst.Addr()] = err
		} else {
			guarded = append(guarded, ipset.IP(k.Dst.Addr()))
		}
	}
	b.edit(vipSet, guarded, nil, b.vipFailed)
}

// removeRoutes is the way back: the guard stays until the route is gone.
func (b *batch) removeRoutes() {
	gone := map[route.Key]*route.Route{}
	for addr := range b.resources.vips {
		if _, ok := b.plan.vips.granted(addr); !ok {
			gone[vipRouteKey(addr)] = nil
		}
	}
	failed := b.routes.Set(gone)
	var unguarded []ipset.Entry
	for k := range gone {
		if err := failed[k]; err != nil {
			b.failedVIPs[k.Dst.Addr()] = err
		} else {
			unguarded = append(unguarded, ipset.IP(k.Dst.Addr()))
		}
	}
	b.edit(vipSet, nil, unguarded, b.vipFailed)
}

// reflect lets the bridge of the Pods hand a packet out where it came in: a new
// endpoint that may meet itself is a new port. The rule alone would do where the
// Pods are not on a bridge.
func (b *batch) reflect(fresh []ipset.Entry) {
	if len(fresh) == 0 {
		return
	}
	if _, err := b.drivers.Links.EnsureHairpin(b.me.podCIDRs); err != nil {
		for _, entry := range fresh {
			b.hairpinFailed(entry, err)
		}
	}
}

func (b *batch) hairpinEdits() (add, del []ipset.Entry) {
	for entry := range b.resources.hairpins {
		if _, ok := b.plan.hairpins.granted(entry); ok {
			add = append(add, entry)
		} else {
			del = append(del, entry)
		}
	}
	return add, del
}

// edit edits a set. A family's error is that of all its entries.
func (b *batch) edit(set string, add, del []ipset.Entry, fail func(ipset.Entry, error)) {
	failed := b.editSets(set, add, del)
	if len(failed) == 0 {
		return
	}
	for _, list := range [][]ipset.Entry{add, del} {
		for _, entry := range list {
			if err := failed[inet.FamilyOf(entry.Prefix.Addr())]; err != nil {
				fail(entry, err)
			}
		}
	}
}

func (b *batch) portFailed(e ipset.Entry, err error) {
	id := entryID(e)
	if b.failedVirtuals[id] == nil {
		b.failedVirtuals[id] = err
	}
}

func (b *batch) vipFailed(e ipset.Entry, err error) { b.failedVIPs[e.Prefix.Addr()] = err }

func (b *batch) hairpinFailed(e ipset.Entry, err error) { b.failedHairpins[e] = err }

// outcome is the first error that a Service met, or nil.
func (b *batch) outcome(k cluster.Key) error {
	touched := b.touched[k]
	for _, id := range touched.virtuals {
		if err := b.failedVirtuals[id]; err != nil {
			return err
		}
	}
	for _, addr := range touched.vips {
		if err := b.failedVIPs[addr]; err != nil {
			return err
		}
	}
	for _, entry := range touched.hairpins {
		if err := b.failedHairpins[entry]; err != nil {
			return err
		}
	}
	return nil
}

func portEntry(id ipvs.ID) ipset.Entry { return ipset.IPPort(id.Protocol, id.Addr) }

// entryID is the way back.
func entryID(e ipset.Entry) ipvs.ID {
	return ipvs.ID{Protocol: e.Protocol, Addr: netip.AddrPortFrom(e.Prefix.Addr(), e.Port)}
}

func familyOf(id ipvs.ID) inet.Family { return inet.FamilyOf(id.Addr.Addr()) }
