package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// list reads our routes of a table, or of all (RT_TABLE_UNSPEC), message by
// message: the node's links come and go with its Pods, each time some thousand
// routes are looked at, and the library makes a kilobyte or two of each.
func (k *Kernel) list(table int) (map[Key]Route, error) {
	l := listing{kernel: k, table: table, routes: make(map[Key]Route, len(k.ours)), names: map[int]string{}, nameOf: k.linkName}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		err := l.read(family)
		for n := 1; errors.Is(err, nlsock.ErrInterrupted) && n < dumpAttempts; n++ {
			err = l.read(family)
		}
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP) {
			continue // the table has no route yet, or the kernel not the family
		}
		if err != nil {
			return nil, err
		}
	}
	return l.routes, nil
}

// listing gathers our routes.
type listing struct {
	kernel *Kernel
	table  int // RT_TABLE_UNSPEC for all
	routes map[Key]Route
	names  map[int]string // of links, as far as they were asked for
	nameOf func(link int) string
}

// read asks for the routes of a family. One that is read again replaces itself.
func (l *listing) read(family byte) error {
	socket, err := l.kernel.dial()
	if err != nil {
		return err
	}
	e := nlsock.Encoder{B: make([]byte, unix.SizeofRtMsg)}
	e.B[0], e.B[rtmProtocol] = family, Protocol
	if l.table != unix.RT_TABLE_UNSPEC {
		e.Put32(unix.RTA_TABLE, uint32(l.table))
	}
	err = socket.Query(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request | netlink.Dump}, Data: e.B,
	}, l.message)
	if refused := (*nlsock.Refusal)(nil); err != nil && !errors.As(err, &refused) && !errors.Is(err, nlsock.ErrInterrupted) {
		_ = socket.Close()
		l.kernel.socket = nil
	}
	return err
}

// Where the fields of a struct rtmsg are (rtnetlink(7)).
const (
	rtmDstLen   = 1
	rtmTable    = 4
	rtmProtocol = 5
	rtmType     = 7
	rtmFlags    = 8
)

// message takes a route that is ours.
func (l *listing) message(body []byte) error {
	if len(body) < unix.SizeofRtMsg {
		return fmt.Errorf("a route of %d bytes: %w", len(body), nlsock.ErrMalformed)
	}
	flags := binary.NativeEndian.Uint32(body[rtmFlags:])
	if body[rtmProtocol] != Protocol || flags&unix.RTM_F_CLONED != 0 {
		return nil
	}
	r := Route{Key: Key{Table: int(body[rtmTable])}, Type: Type(body[rtmType])}
	dst := netip.IPv4Unspecified() // is left out of a default route
	if body[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	only := hop{flags: byte(flags)}
	err := nlsock.Attributes(body[unix.SizeofRtMsg:], func(kind uint16, data []byte) (err error) {
		switch kind {
		case unix.RTA_TABLE:
			r.Table, err = number(data)
		case unix.RTA_DST:
			dst, err = address(data)
		case unix.RTA_PREFSRC:
			r.Src, err = address(data)
		case unix.RTA_OIF:
			only.link, err = number(data)
		case unix.RTA_GATEWAY:
			only.via, err = address(data)
		case unix.RTA_MULTIPATH:
			r.NextHops, err = l.hops(data)
		}
		return err
	})
	if r.Dst = netip.PrefixFrom(dst, int(body[rtmDstLen])); err != nil || !r.Dst.IsValid() || l.table != unix.RT_TABLE_UNSPEC && r.Table != l.table {
		return err
	}
	switch {
	case r.Type == Unreachable:
		r.NextHops = nil // IPv6 shows lo as the link
	case len(r.NextHops) == 0:
		r.NextHops = []NextHop{l.nextHop(only)}
	}
	l.routes[r.Key] = r
	return nil
}

// hop is a next hop as the kernel tells it.
type hop struct {
	via   netip.Addr
	link  int
	flags byte // RTNH_F_*
}

// hops reads structs rtnexthop.
func (l *listing) hops(b []byte) (hops []NextHop, err error) {
	for len(b) > 0 {
		if len(b) < unix.SizeofRtNexthop {
			return nil, fmt.Errorf("a next hop of %d bytes: %w", len(b), nlsock.ErrMalformed)
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			return nil, fmt.Errorf("a next hop of %d bytes, %d are left: %w", size, len(b), nlsock.ErrMalformed)
		}
		h := hop{flags: b[2], link: int(int32(binary.NativeEndian.Uint32(b[4:])))}
		err := nlsock.Attributes(b[unix.SizeofRtNexthop:size], func(kind uint16, data []byte) (err error) {
			if kind == unix.RTA_GATEWAY {
				h.via, err = address(data)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		hops = append(hops, l.nextHop(h))
		b = b[min((size+3)&^3, len(b)):]
	}
	return slices.Clip(hops), nil
}

func (l *listing) nextHop(h hop) NextHop {
	return NextHop{Via: h.via, Link: l.linkName(h.link), OnLink: h.flags&unix.RTNH_F_ONLINK != 0}
}

// linkName is a link's name. There are few links that routes of ours lead to.
func (l *listing) linkName(index int) string {
	name, known := l.names[index]
	if !known && index != 0 {
		name = l.nameOf(index)
		l.names[index] = name
	}
	return name
}

// linkName is a link's name, or "" where it is gone.
func (k *Kernel) linkName(index int) string {
	link, err := k.handle.LinkByIndex(index)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}

func number(b []byte) (int, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("a number of %d bytes: %w", len(b), nlsock.ErrMalformed)
	}
	return int(binary.NativeEndian.Uint32(b)), nil
}

func address(b []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return a, fmt.Errorf("an address of %d bytes: %w", len(b), nlsock.ErrMalformed)
	}
	return a, nil
}
