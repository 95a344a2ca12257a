// Package ipset drives the kernel's IP sets through netlink
// (include/uapi/linux/netfilter/ipset/ip_set.h).
package ipset

import (
	"fmt"
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
)

// Type is the type of a set, as "ipset create" writes it.
type Type string

// The types in use. HashIPPortIP matches "dst,dst,src" against an entry's
// Prefix, Protocol with Port, and Second; in HashIPPortNet Second is a net of
// SecondBits.
const (
	HashIP        Type = "hash:ip"
	HashNet       Type = "hash:net"
	HashIPPort    Type = "hash:ip,port"
	HashIPPortIP  Type = "hash:ip,port,ip"
	HashIPPortNet Type = "hash:ip,port,net"
)

// MaxNameLen is the longest name of a set in bytes (IPSET_MAXNAMELEN less the
// terminating zero).
const MaxNameLen = 31

// Spec is what a set is created with and cannot be changed afterwards.
type Spec struct {
	Type   Type
	Family inet.Family
	// MaxElem is the largest number of entries. 0 asks for the driver's
	// default, which is above the kernel's 65,536; Sets makes it larger where
	// there are more.
	MaxElem uint32
	// SkbInfo lets entries have a Mark.
	SkbInfo bool
}

// Entry is one member of a set. Prefix is a single address (/32, /128) but in
// HashNet. Protocol and Port belong to the types with a port, Second to
// HashIPPortIP and with SecondBits to HashIPPortNet, NoMatch (an exception
// inside a larger net) to HashNet.
//
// Mark and Mask belong to sets with SkbInfo: the rule "-j SET --map-set NAME
// dst,dst --map-mark" puts Mark in place of the bits of Mask in the firewall
// mark of a packet that matches. Entries that differ in nothing else take the
// same place, as those that differ in NoMatch do: the one that is added last
// is there.
type Entry struct {
	Prefix     netip.Prefix
	Second     netip.Addr
	SecondBits uint8
	Protocol   inet.Protocol
	Port       uint16
	NoMatch    bool
	Mark, Mask uint32
}

// IP is the Entry of a single address.
func IP(a netip.Addr) Entry { return Entry{Prefix: netip.PrefixFrom(a, a.BitLen())} }

// IPPort is the Entry of an address with a port.
func IPPort(p inet.Protocol, a netip.AddrPort) Entry {
	return Entry{Prefix: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Protocol: p, Port: a.Port()}
}

// IPPortNet is the Entry of an address with a port and a net.
func IPPortNet(p inet.Protocol, a netip.AddrPort, net netip.Prefix) Entry {
	e := IPPort(p, a)
	e.Second, e.SecondBits = net.Masked().Addr(), uint8(net.Bits())
	return e
}

// String is the form of "ipset save": "10.0.0.1,tcp:80".
func (e Entry) String() string {
	s := e.Prefix.String()
	if e.Prefix.IsSingleIP() {
		s = e.Prefix.Addr().String()
	}
	if e.Protocol != 0 {
		s += fmt.Sprintf(",%s:%d", e.Protocol, e.Port)
	}
	if e.Second.IsValid() {
		s += "," + e.Second.String()
		if e.SecondBits != 0 && int(e.SecondBits) != e.Second.BitLen() {
			s += fmt.Sprintf("/%d", e.SecondBits)
		}
	}
	if e.NoMatch {
		s += " nomatch"
	}
	switch {
	case e.Mark == 0 && e.Mask == 0:
	case e.Mask == ^uint32(0):
		s += fmt.Sprintf(" skbmark 0x%x", e.Mark)
	default:
		s += fmt.Sprintf(" skbmark 0x%x/0x%x", e.Mark, e.Mask)
	}
	return s
}

// Set is a set with its members.
type Set struct {
	Spec
	Entries map[Entry]struct{}
}

// Op is what a Change does.
type Op uint8

// The operations. Swap exchanges the contents of two sets of one type and
// family in one step, so that readers never see either half full.
const (
	Create Op = iota
	Destroy
	Add
	Delete
	Swap
)

// Change is one step of the state of the sets. Spec belongs to Create, Entry
// to Add and Delete, Other to Swap.
type Change struct {
	Op    Op
	Name  string
	Spec  Spec
	Entry Entry
	Other string
}

// Interface is the IP sets of one network namespace.
type Interface interface {
	// List returns the sets whose names begin with one of the prefixes, with
	// their entries.
	List(prefixes ...string) (map[string]Set, error)
	// Apply carries the changes out in order, many a message, and returns one
	// error a change, nil where it took effect. Adding an entry that is there,
	// deleting one that is not, creating a set that is there with the same
	// Spec and destroying one that is not are no errors.
	Apply(changes []Change) []error
}
