package route

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// batch collects changes as messages of rtnetlink(7). The library that reads
// routes writes one message a system call and waits for its answer, which for
// some thousand routes is most of the time that it takes.
type batch struct {
	kernel   *Kernel
	links    map[string]int // by name, as far as they were asked for
	ceded    map[netip.Prefix]bool
	messages []netlink.Message
	of       []int // which change each message is
}

// add encodes a change. Its error is that of a change that is not sent.
func (b *batch) add(i int, c Change) error {
	if c.Route == nil {
		if _, err := checkKey(c.Key); err != nil {
			return err
		}
		return b.append(i, unix.RTM_DELROUTE, 0, Route{Key: c.Key}, unix.RT_SCOPE_NOWHERE) // any scope and type
	}
	if err := check(*c.Route); err != nil {
		return err
	}
	flags := netlink.Create | netlink.Excl
	if _, ours := b.kernel.ours[c.Key]; ours {
		flags = netlink.Create | netlink.Replace
	} else if c.Route.Type == LocalType && c.Key.Table == Local && b.ceded[c.Key.Dst] {
		flags = netlink.Create // before theirs, "ip route prepend"
	}
	return b.append(i, unix.RTM_NEWROUTE, flags, *c.Route, byte(scope(*c.Route)))
}

func (b *batch) append(i int, command netlink.HeaderType, flags netlink.HeaderFlags, r Route, scope byte) error {
	body, err := b.encode(r, scope)
	if err != nil {
		return err
	}
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{Type: command, Flags: netlink.Request | flags}, Data: body,
	})
	b.of = append(b.of, i)
	return nil
}

// encode writes a struct rtmsg and its attributes.
func (b *batch) encode(r Route, scope byte) ([]byte, error) {
	family := byte(unix.AF_INET)
	if r.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	table := byte(unix.RT_TABLE_UNSPEC)
	if r.Table < 256 {
		table = byte(r.Table)
	}
	flags := 0
	if len(r.NextHops) == 1 {
		flags = hopFlags(r.NextHops[0])
	}
	e := nlsock.Encoder{B: make([]byte, 0, routeBytes)}
	e.B = append(e.B, family, byte(r.Dst.Bits()), 0, 0, table, Protocol, scope, byte(r.Type))
	e.B = binary.NativeEndian.AppendUint32(e.B, uint32(flags))
	e.Put(unix.RTA_DST, r.Dst.Addr().AsSlice()...)
	e.Put32(unix.RTA_TABLE, uint32(r.Table))
	if r.Src.IsValid() {
		e.Put(unix.RTA_PREFSRC, r.Src.AsSlice()...)
	}
	err := b.encodeHops(&e, r.NextHops)
	return e.B, err
}

// routeBytes is what a route with one next hop takes.
const routeBytes = 96

// encodeHops writes one next hop as attributes of the route, and several as
// structs rtnexthop: in one order always, so that one route has one text.
func (b *batch) encodeHops(e *nlsock.Encoder, hops []NextHop) error {
	if len(hops) == 1 {
		index, err := b.link(hops[0].Link)
		if err != nil {
			return err
		}
		if index != 0 {
			e.Put32(unix.RTA_OIF, uint32(index))
		}
		if hops[0].Via.IsValid() {
			e.Put(unix.RTA_GATEWAY, hops[0].Via.AsSlice()...)
		}
		return nil
	}
	var list []byte
	for _, hop := range sortedHops(hops) {
		index, err := b.link(hop.Link)
		if err != nil {
			return err
		}
		list = append(list, encodeHop(index, hop)...)
	}
	if len(list) > 0 {
		e.Put(unix.RTA_MULTIPATH, list...)
	}
	return nil
}

func encodeHop(link int, to NextHop) []byte {
	var gateway nlsock.Encoder
	if to.Via.IsValid() {
		gateway.Put(unix.RTA_GATEWAY, to.Via.AsSlice()...)
	}
	hop := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtNexthop+len(gateway.B)))
	hop = append(hop, byte(hopFlags(to)), 0) // the weight less 1
	hop = binary.NativeEndian.AppendUint32(hop, uint32(link))
	return append(hop, gateway.B...)
}

func (b *batch) link(name string) (int, error) {
	if index, ok := b.links[name]; ok {
		return index, nil
	}
	index, err := b.kernel.linkIndex(name)
	if err == nil {
		b.links[name] = index
	}
	return index, err
}

// send sends the messages and returns the kernel's answer to each change that
// has one.
func (b *batch) send() map[int]error {
	answers := make(map[int]error, len(b.messages))
	if len(b.messages) == 0 {
		return answers
	}
	socket, err := b.kernel.dial()
	var errnos []syscall.Errno
	if err == nil {
		errnos, err = socket.Exchange(b.messages)
	}
	for i, of := range b.of {
		switch {
		case i >= len(errnos):
			answers[of] = fmt.Errorf("the change may have taken effect: %w", err)
		case errnos[i] != 0:
			answers[of] = errnos[i]
		default:
			answers[of] = nil
		}
	}
	if err != nil && socket != nil {
		_ = socket.Close()
		b.kernel.socket = nil
	}
	return answers
}

// dial opens the socket for batches, unless it is open.
func (k *Kernel) dial() (*nlsock.Socket, error) {
	if k.socket != nil {
		return k.socket, nil
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket for routes: %w", err)
	}
	// Since Linux 4.20 the kernel itself can leave out of a list what is not
	// ours. Before, it is left out here.
	_ = conn.SetOption(netlink.GetStrictCheck, true)
	socket, err := nlsock.New(conn)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cannot use a netlink socket for routes: %w", err)
	}
	k.socket = socket
	return socket, nil
}
