package services

import (
	"hash/fnv"

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

// marker is a virtual server of a role.
type marker struct {
	id   ipvs.ID
	role role
}

// marks gives each marker a mark of its own. It is the hash of what it stands
// for, or the next free one, and after a restart the one that the kernel has.
type marks struct {
	of map[marker]uint32
	by map[uint32]marker
}

func newMarks() marks { return marks{of: map[marker]uint32{}, by: map[uint32]marker{}} }

// adopt takes over a mark of a former run.
func (m marks) adopt(k marker, mark uint32) {
	_, taken := m.by[mark]
	_, marked := m.of[k]
	if !taken && !marked && mark>>markShift != 0 && mark<<(32-markShift) == 0 {
		m.of[k], m.by[mark] = mark, k
	}
}

// get returns the mark of k, and false where all are taken.
func (m marks) get(k marker) (uint32, bool) {
	if mark, ok := m.of[k]; ok {
		return mark, true
	}
	if len(m.by) == mostMarks {
		return 0, false
	}
	h := fnv.New32a()
	h.Write([]byte{byte(k.role)})
	h.Write([]byte(k.id.String()))
	for n := h.Sum32() % mostMarks; ; n = (n + 1) % mostMarks {
		mark := (n + 1) << markShift
		if _, taken := m.by[mark]; !taken {
			m.of[k], m.by[mark] = mark, k
			return mark, true
		}
	}
}

// free gives a mark back.
func (m marks) free(k marker) {
	delete(m.by, m.of[k])
	delete(m.of, k)
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
