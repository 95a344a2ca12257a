package services

import (
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// A firewall mark leads a packet to another virtual server than that of its
// address and port. IPVS takes the whole mark, so a packet must come to it with
// ours and no other bit. Ours are above those that kubelets, policies and other
// proxies set (0x4000, 0x8000, 0x10000, 0x20000).
const (
	markShift = 18
	mostMarks = 1<<(32-markShift) - 1
	// markMask in the text of iptables.
	markMask = "0xfffc0000"
)

// role is why a virtual server has a mark.
type role uint8

const (
	inside    role = iota // for clients of this node: see virtual
	tunnelled             // for what comes out of a tunnel
	roles
)

// markSets hold the marks of each role, by address and port.
var markSets = [roles]string{insideSet, tunnelSet}

// tunnelReserve are the marks that only what comes out of tunnels may have:
// without one it is dropped, while clients of the node have another way.
const tunnelReserve = 1 << 12

// marker is an address and port whose packets get a mark in a role.
type marker struct {
	id   ipvs.ID
	role role
}

// group is what shares a virtual server and its mark: all addresses of a
// Service's port in one family, since they are for the same endpoints.
type group struct {
	service  cluster.Key
	protocol inet.Protocol
	port     uint16
	family   inet.Family
	role     role
}

// marks gives each group a mark of its own: its hash, or the next free one, and
// after a restart the one that the kernel has. The families have marks apart. A
// mark is named by its virtual server.
type marks struct {
	most int // in each family
	of   map[group]ipvs.ID
	by   map[ipvs.ID]group
	// at are the marks that the kernel may have for a marker: one, but for
	// a change that is not done. users counts the markers of a mark.
	at    map[marker][]uint32
	users map[ipvs.ID]int
	taken map[inet.Family]*[roles]int
}

func newMarks() marks {
	return marks{
		most: mostMarks, of: map[group]ipvs.ID{}, by: map[ipvs.ID]group{},
		at: map[marker][]uint32{}, users: map[ipvs.ID]int{}, taken: map[inet.Family]*[roles]int{inet.IPv4: {}, inet.IPv6: {}},
	}
}

// adopt takes over a mark of a former run. It has no group yet.
func (m marks) adopt(k marker, mark uint32) {
	if mark>>markShift != 0 && mark<<(32-markShift) == 0 {
		m.use(k, mark)
	}
}

// join returns the mark of a group, which k has from now on, and false where
// all are taken.
func (m marks) join(g group, k marker) (ipvs.ID, bool) {
	id, ok := m.of[g]
	for _, mark := range m.at[k] {
		former := ipvs.MarkID(mark, g.family)
		if _, taken := m.by[former]; !ok && !taken {
			id, ok = former, true
		}
	}
	if !ok {
		id, ok = m.fresh(g)
	}
	if ok {
		m.of[g], m.by[id] = id, g
		m.use(k, id.Mark)
	}
	return id, ok
}

// count is how many marks a Service has.
func (m marks) count(service cluster.Key) (n int) {
	for g := range m.of {
		if g.service == service {
			n++
		}
	}
	return n
}

// fresh is a mark that nobody has.
func (m marks) fresh(g group) (ipvs.ID, bool) {
	taken := m.taken[g.family]
	if taken[inside]+taken[tunnelled] >= m.most || g.role == inside && taken[inside] >= m.most-tunnelReserve {
		return ipvs.ID{}, false
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%d %s %d/%s", g.role, g.service, g.port, g.protocol)
	for n := h.Sum32() % mostMarks; ; n = (n + 1) % mostMarks {
		if id := ipvs.MarkID((n+1)<<markShift, g.family); m.users[id] == 0 {
			return id, true
		}
	}
}

func (m marks) use(k marker, mark uint32) {
	if slices.Contains(m.at[k], mark) {
		return
	}
	id := markedID(k, mark)
	m.at[k] = append(m.at[k], mark)
	if m.users[id]++; m.users[id] == 1 {
		m.taken[id.Family][k.role]++
	}
}

// leave ends that k has a mark, and says whether it was the last to have it.
func (m marks) leave(k marker, mark uint32) (free bool) {
	i := slices.Index(m.at[k], mark)
	if i < 0 {
		return false
	}
	if m.at[k] = slices.Delete(m.at[k], i, i+1); len(m.at[k]) == 0 {
		delete(m.at, k)
	}
	id := markedID(k, mark)
	if m.users[id]--; m.users[id] > 0 {
		return false
	}
	delete(m.users, id)
	m.taken[id.Family][k.role]--
	if g, ok := m.by[id]; ok {
		delete(m.by, id)
		delete(m.of, g)
	}
	return true
}

// marked is the virtual server of a role.
func (v virtual) marked(r role) *ipvs.Server {
	switch {
	case v.special == nil:
		return nil
	case r == inside:
		return v.special.inside
	}
	return v.special.tunnelled
}

// markedID is the name of a marker's virtual server in the kernel.
func markedID(k marker, mark uint32) ipvs.ID {
	return ipvs.MarkID(mark, familyOf(k.id))
}

func markEntry(k marker, mark uint32) ipset.Entry {
	e := portEntry(k.id)
	e.Mark, e.Mask = mark, ^uint32(0)
	return e
}
