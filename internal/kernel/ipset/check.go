package ipset

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
)

// DefaultMaxElem is the largest number of entries of a set whose Spec names
// none. It is a limit and allocates nothing: a hash set begins with 1024
// buckets and grows as entries come.
const DefaultMaxElem = 1 << 20

// withDefaults is the Spec as the kernel reports it.
func (s Spec) withDefaults() Spec {
	if s.MaxElem == 0 {
		s.MaxElem = DefaultMaxElem
	}
	return s
}

// sameKind says whether sets of the two Specs can be swapped
// (ip_set_swap compares features and family).
func (s Spec) sameKind(o Spec) bool { return s.Type == o.Type && s.Family == o.Family }

func (t Type) hasPort() bool { return t == HashIPPort || t.hasSecond() }

func (t Type) hasSecond() bool { return t == HashIPPortIP || t == HashIPPortNet }

func (t Type) known() bool { return t == HashIP || t == HashNet || t.hasPort() }

// checkName refuses what must never reach the kernel: IPSET_CMD_DESTROY
// without a name destroys every set of the namespace.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: a set without a name", ErrInvalid)
	case len(name) > MaxNameLen:
		return fmt.Errorf("%w: set name %q has %d bytes, the kernel takes at most %d", ErrInvalid, name, len(name), MaxNameLen)
	case strings.ContainsAny(name, " \t\n\x00"):
		return fmt.Errorf("%w: set name %q holds white space or a zero byte", ErrInvalid, name)
	}
	return nil
}

func (s Spec) check() error {
	if !s.Type.known() {
		return fmt.Errorf("%w: set type %q is not one of hash:ip, hash:net, hash:ip,port, hash:ip,port,ip, hash:ip,port,net", ErrInvalid, s.Type)
	}
	if s.Family != inet.IPv4 && s.Family != inet.IPv6 {
		return fmt.Errorf("%w: address family %s", ErrInvalid, s.Family)
	}
	return nil
}

// normalize is the Entry as a set of this Spec holds and reports it, or why
// the set cannot hold it.
func (s Spec) normalize(e Entry) (Entry, error) {
	bad := func(why string) (Entry, error) {
		return Entry{}, fmt.Errorf("%w: entry %q of a %s set of %s: %s", ErrInvalid, e, s.Family, s.Type, why)
	}
	switch {
	case !e.Prefix.IsValid():
		return bad("no address")
	case inet.FamilyOf(e.Prefix.Addr()) != s.Family:
		return bad("the address is of the other family")
	case e.Prefix.Addr().Zone() != "":
		return bad("an address with a zone")
	case s.Type != HashNet && !e.Prefix.IsSingleIP():
		return bad("the set holds single addresses only")
	case s.Type == HashNet && e.Prefix.Bits() == 0:
		return bad("the kernel keeps no /0: add its two halves (/1) instead")
	case s.Type == HashIP && e.Prefix.Addr().IsUnspecified():
		return bad("the kernel keeps no unspecified address")
	case e.NoMatch && s.Type != HashNet:
		return bad("nomatch belongs to hash:net")
	case !s.SkbInfo && (e.Mark != 0 || e.Mask != 0):
		return bad("a mark belongs to sets with skbinfo")
	}
	if why := s.checkPortAndSecond(e); why != "" {
		return bad(why)
	}
	e.Prefix = e.Prefix.Masked()
	if s.Type == HashIPPortNet {
		e.Second = netip.PrefixFrom(e.Second, int(e.SecondBits)).Masked().Addr()
	}
	return e, nil
}

func (s Spec) checkPortAndSecond(e Entry) string {
	switch {
	case s.Type.hasPort() && e.Protocol == 0:
		return "no protocol"
	case !s.Type.hasPort() && (e.Protocol != 0 || e.Port != 0):
		return "the set holds no ports"
	case s.Type.hasSecond() && (!e.Second.IsValid() || inet.FamilyOf(e.Second) != s.Family):
		return "the second address is missing or of the other family"
	case !s.Type.hasSecond() && e.Second.IsValid():
		return "the set holds no second address"
	case s.Type == HashIPPortNet && (e.SecondBits == 0 || int(e.SecondBits) > e.Second.BitLen()):
		return "the second address has no length of a net (the kernel keeps no /0: add its two halves)"
	case s.Type != HashIPPortNet && e.SecondBits != 0:
		return "the set holds no second net"
	}
	return ""
}

// place is the entry without what can differ while it takes the same place in
// a set: a net is there once, as a match or as an exception, and what has a
// mark is there once, with one mark.
func (e Entry) place() Entry {
	e.NoMatch, e.Mark, e.Mask = false, 0, 0
	return e
}

// holders returns a function that finds the entry of the set that takes the
// place of another. Making it costs a pass over a set with marks and nothing
// for others.
func (s Set) holders() func(Entry) (Entry, bool) {
	if !s.SkbInfo {
		return func(e Entry) (Entry, bool) {
			if _, ok := s.Entries[e]; ok {
				return e, true
			}
			e.NoMatch = !e.NoMatch
			_, ok := s.Entries[e]
			return e, ok
		}
	}
	held := make(map[Entry]Entry, len(s.Entries))
	for e := range s.Entries {
		held[e.place()] = e
	}
	return func(e Entry) (Entry, bool) {
		e, ok := held[e.place()]
		return e, ok
	}
}
