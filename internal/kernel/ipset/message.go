package ipset

import (
	"encoding/binary"
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// Commands, attributes and flags of include/uapi/linux/netfilter/ipset/ip_set.h.
const (
	protocolVersion = 6

	cmdProtocol = 1
	cmdCreate   = 2
	cmdDestroy  = 3
	cmdSwap     = 6
	cmdList     = 7
	cmdAdd      = 9
	cmdDel      = 10

	attrProtocol    = 1
	attrSetName     = 2
	attrTypeName    = 3
	attrSetName2    = 3
	attrRevision    = 4
	attrFamily      = 5
	attrFlags       = 6
	attrData        = 7
	attrADT         = 8
	attrLineNo      = 9
	attrProtocolMin = 10

	// Inside of attrData.
	attrIP      = 1
	attrCIDR    = 3
	attrPort    = 4
	attrProto   = 7
	attrFlagsAD = 8
	attrMaxElem = 19
	attrIP2     = 20
	attrCIDR2   = 21
	attrSkbMark = 27

	// Inside of attrIP and attrIP2.
	attrIPv4 = 1
	attrIPv6 = 2

	flagListSetName = 1 << 1
	flagListHeader  = 1 << 2
	flagNoMatch     = 1 << 2
	flagWithSkbInfo = 1 << 6

	// nla_type's flags (include/uapi/linux/netlink.h).
	nested       = 1 << 15
	netByteOrder = 1 << 14

	afINET  = 2
	afINET6 = 10
)

// revisions are those in which the types learned nothing more that is used
// here; Linux 3.18 and later have them. The tool ipset prints an entry as the
// revision tells it, so they must not be older than "nomatch" is.
var revisions = map[Type]uint8{HashIP: 4, HashNet: 6, HashIPPort: 5, HashIPPortIP: 5, HashIPPortNet: 7}

// encoder appends netlink attributes. Numbers of ipset are big-endian, and
// marked as such.
type encoder struct{ nlsock.Encoder }

func (e *encoder) put16(typ, v uint16) {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	e.Put(typ|netByteOrder, b[:]...)
}

func (e *encoder) put32(typ uint16, v uint32) {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	e.Put(typ|netByteOrder, b[:]...)
}

func (e *encoder) put64(typ uint16, v uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	e.Put(typ|netByteOrder, b[:]...)
}

func (e *encoder) putAddr(typ uint16, a netip.Addr) {
	e.Nest(typ, func() {
		if a.Is4() {
			b := a.As4()
			e.Put(attrIPv4|netByteOrder, b[:]...)
		} else {
			b := a.As16()
			e.Put(attrIPv6|netByteOrder, b[:]...)
		}
	})
}

// header begins a request: nfgenmsg (family, version, resource id), then what
// every command has.
func header(name string) *encoder {
	e := &encoder{nlsock.Encoder{B: []byte{afINET, 0, 0, 0}}}
	e.Put(attrProtocol, protocolVersion)
	if name != "" {
		e.PutString(attrSetName, name)
	}
	return e
}

func familyNumber(f inet.Family) byte {
	if f == inet.IPv4 {
		return afINET
	}
	return afINET6
}

// encode is the payload of the message of a single change, Add and Delete
// aside.
func (c Change) encode() (command uint16, payload []byte) {
	e := header(c.Name)
	switch c.Op {
	case Create:
		e.PutString(attrTypeName, string(c.Spec.Type))
		e.Put(attrRevision, revisions[c.Spec.Type])
		e.Put(attrFamily, familyNumber(c.Spec.Family))
		e.Nest(attrData, func() { e.putOptions(c.Spec.withDefaults()) })
		return cmdCreate, e.B
	case Destroy:
		return cmdDestroy, e.B
	default:
		e.PutString(attrSetName2, c.Other)
		return cmdSwap, e.B
	}
}

func (e *encoder) putOptions(s Spec) {
	e.put32(attrMaxElem, s.MaxElem)
	if s.SkbInfo {
		e.put32(attrFlagsAD, flagWithSkbInfo)
	}
}

// entryBytes is at least what one entry takes in a message.
const entryBytes = 128

// encodeEntries is the payload that adds or deletes entries of one set.
// attrLineNo must be there for several of them to be taken (IPSET_ATTR_ADT).
func encodeEntries(name string, entries []Entry) []byte {
	e := header(name)
	e.put32(attrLineNo, 0)
	e.Nest(attrADT, func() {
		for _, entry := range entries {
			e.Nest(attrData, func() { e.putEntry(entry) })
		}
	})
	return e.B
}

func (e *encoder) putEntry(entry Entry) {
	e.putAddr(attrIP, entry.Prefix.Addr())
	if !entry.Prefix.IsSingleIP() {
		e.Put(attrCIDR, byte(entry.Prefix.Bits()))
	}
	if entry.Protocol != 0 {
		e.put16(attrPort, entry.Port)
		e.Put(attrProto, byte(entry.Protocol))
	}
	if entry.Second.IsValid() {
		e.putAddr(attrIP2, entry.Second)
	}
	if entry.SecondBits != 0 {
		e.Put(attrCIDR2, entry.SecondBits)
	}
	if entry.Mark != 0 || entry.Mask != 0 {
		e.put64(attrSkbMark, uint64(entry.Mark)<<32|uint64(entry.Mask))
	}
	if entry.NoMatch {
		e.put32(attrFlagsAD, flagNoMatch)
	}
}
