package lbipam

import (
	"container/heap"
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
)

// pool is a range of addresses to give out, the lowest free one first. What it
// costs does not depend on the size of the range: addresses above next were
// never looked at, and those below it that are free are in freed.
type pool struct {
	prefix      netip.Prefix
	first, last netip.Addr
	next        netip.Addr // the zero Addr after the last address of the family
	freed       addrHeap
	isFreed     map[netip.Addr]bool
}

// newPool leaves out the network and the broadcast address of an IPv4 range,
// which hosts of that network would not send to. Ranges of one or two
// addresses have neither (RFC 3021).
func newPool(prefix netip.Prefix) *pool {
	prefix = prefix.Masked()
	p := &pool{prefix: prefix, first: prefix.Addr(), last: lastOf(prefix), isFreed: map[netip.Addr]bool{}}
	if p.first.Is4() && prefix.Bits() < 31 {
		p.first, p.last = p.first.Next(), p.last.Prev()
	}
	p.next = p.first
	return p
}

func lastOf(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Addr().AsSlice()
	for i := range bytes {
		host := 8*(i+1) - prefix.Bits() // bits of this byte beyond the prefix
		if host > 0 {
			bytes[i] |= byte(1<<min(host, 8) - 1)
		}
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func (p *pool) family() inet.Family { return inet.FamilyOf(p.first) }

// gives says whether an address is one that the pool gives out.
func (p *pool) gives(a netip.Addr) bool {
	return inet.FamilyOf(a) == p.family() && !a.Less(p.first) && !p.last.Less(a)
}

// lowest is the lowest address that is not taken, or the zero Addr. Taken
// addresses that it passes over are not looked at again until they are freed.
func (p *pool) lowest(taken func(netip.Addr) bool) netip.Addr {
	for len(p.freed) > 0 {
		if a := p.freed[0]; !taken(a) {
			return a
		}
		delete(p.isFreed, heap.Pop(&p.freed).(netip.Addr))
	}
	for p.next.IsValid() && !p.last.Less(p.next) {
		if !taken(p.next) {
			return p.next
		}
		p.next = p.next.Next()
	}
	return netip.Addr{}
}

// free takes note that an address is free again.
func (p *pool) free(a netip.Addr) {
	passed := !p.next.IsValid() || a.Less(p.next)
	if p.gives(a) && passed && !p.isFreed[a] {
		p.isFreed[a] = true
		heap.Push(&p.freed, a)
	}
}

// addrHeap is a heap of addresses, the lowest first.
type addrHeap []netip.Addr

func (h addrHeap) Len() int           { return len(h) }
func (h addrHeap) Less(i, j int) bool { return h[i].Less(h[j]) }
func (h addrHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *addrHeap) Push(a any)        { *h = append(*h, a.(netip.Addr)) }

func (h *addrHeap) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	*h = (*h)[:last]
	return a
}
