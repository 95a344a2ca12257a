package ipset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// errTruncated is what a reply ends with that is shorter than it says.
var errTruncated = errors.New("truncated")

// listing gathers the messages of a dump. The kernel splits a set over several
// messages; only the first has its type.
type listing struct {
	want func(name string) bool
	sets map[string]Set
}

// message reads one message of a dump: nfgenmsg, then attributes.
func (l *listing) message(payload []byte) error {
	if len(payload) < 4 {
		return fmt.Errorf("reply of %d bytes: %w", len(payload), errTruncated)
	}
	var m struct {
		name, typ     string
		family        byte
		options, data []byte
	}
	err := nlsock.Attributes(payload[4:], func(typ uint16, data []byte) (err error) {
		switch typ {
		case attrSetName:
			m.name, err = text(data)
		case attrTypeName:
			m.typ, err = text(data)
		case attrFamily:
			m.family, err = number8(data)
		case attrData:
			m.options = data
		case attrADT:
			m.data = data
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case m.name == "":
		return errors.New("a set without a name")
	case !l.want(m.name):
		return nil
	}
	if m.typ != "" {
		if err := l.begin(m.name, Type(m.typ), m.family, m.options); err != nil {
			return fmt.Errorf("set %s: %w", m.name, err)
		}
	}
	if err := l.entries(m.name, m.data); err != nil {
		return fmt.Errorf("set %s: %w", m.name, err)
	}
	return nil
}

func (l *listing) begin(name string, typ Type, family byte, options []byte) error {
	set := Set{Spec: Spec{Type: typ, Family: inet.IPv4}, Entries: map[Entry]struct{}{}}
	switch {
	case family == afINET6:
		set.Family = inet.IPv6
	case family != afINET && typ.known():
		return fmt.Errorf("address family %d", family)
	}
	err := nlsock.Attributes(options, func(typ uint16, data []byte) (err error) {
		var flags uint32
		switch typ {
		case attrMaxElem:
			set.MaxElem, err = number32(data)
		case attrFlagsAD:
			flags, err = number32(data)
			set.SkbInfo = flags&flagWithSkbInfo != 0
		}
		return err
	})
	l.sets[name] = set
	return err
}

func (l *listing) entries(name string, data []byte) error {
	set, ok := l.sets[name]
	if !ok && len(data) > 0 {
		return errors.New("entries came before the type of the set")
	}
	if !set.Type.known() {
		return nil // a set of ours that we did not make: its Spec says enough
	}
	return nlsock.Attributes(data, func(typ uint16, data []byte) error {
		if typ != attrData {
			return fmt.Errorf("attribute %d among entries", typ)
		}
		e, err := set.parseEntry(data)
		if err != nil {
			return err
		}
		set.Entries[e] = struct{}{}
		return nil
	})
}

func (s Set) parseEntry(b []byte) (Entry, error) {
	var e Entry
	var addr netip.Addr
	bits := -1
	err := nlsock.Attributes(b, func(typ uint16, data []byte) (err error) {
		var n8 byte
		var n32 uint32
		var n64 uint64
		switch typ {
		case attrIP:
			addr, err = address(data)
		case attrIP2:
			e.Second, err = address(data)
		case attrCIDR:
			n8, err = number8(data)
			bits = int(n8)
		case attrPort:
			e.Port, err = number16(data)
		case attrProto:
			n8, err = number8(data)
			e.Protocol = inet.Protocol(n8)
		case attrFlagsAD:
			n32, err = number32(data)
			e.NoMatch = n32&flagNoMatch != 0
		case attrCIDR2:
			e.SecondBits, err = number8(data)
		case attrSkbMark:
			n64, err = number64(data)
			e.Mark, e.Mask = uint32(n64>>32), uint32(n64)
		}
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	if bits < 0 {
		bits = addr.BitLen()
	}
	e.Prefix = netip.PrefixFrom(addr, bits)
	return s.normalize(e)
}

func text(b []byte) (string, error) {
	if len(b) == 0 || b[len(b)-1] != 0 {
		return "", errors.New("a name that does not end in zero")
	}
	return string(b[:len(b)-1]), nil
}

func number8(b []byte) (byte, error) {
	if len(b) != 1 {
		return 0, fmt.Errorf("a number of 1 byte has %d", len(b))
	}
	return b[0], nil
}

func number16(b []byte) (uint16, error) {
	if len(b) != 2 {
		return 0, fmt.Errorf("a number of 2 bytes has %d", len(b))
	}
	return binary.BigEndian.Uint16(b), nil
}

func number32(b []byte) (uint32, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("a number of 4 bytes has %d", len(b))
	}
	return binary.BigEndian.Uint32(b), nil
}

func number64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("a number of 8 bytes has %d", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func address(b []byte) (netip.Addr, error) {
	var addr netip.Addr
	err := nlsock.Attributes(b, func(typ uint16, data []byte) error {
		a, ok := netip.AddrFromSlice(data)
		if !ok || a.Is4() != (typ == attrIPv4) || a.Is6() != (typ == attrIPv6) {
			return fmt.Errorf("address attribute %d of %d bytes", typ, len(data))
		}
		addr = a
		return nil
	})
	if err == nil && !addr.IsValid() {
		err = errors.New("an address attribute without an address")
	}
	return addr, err
}
