package route

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// settleTime is how long several changes may take to be one call.
	settleTime = 100 * time.Millisecond
	// resubscribeDelay keeps a socket that fails at once from a busy loop.
	resubscribeDelay = time.Second
)

// Watch implements Interface. It must be called in the network namespace of
// the Kernel, and returns an error only if the first subscription fails.
func (k *Kernel) Watch(ctx context.Context, fn func()) error {
	socket, err := subscribe()
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	var caller sync.WaitGroup
	caller.Go(func() { coalesce(ctx, changed, settleTime, fn) })
	watchAll(ctx, socket, changed) // here, since it subscribes in this thread's namespace
	caller.Wait()
	return nil
}

func subscribe() (*nl.NetlinkSocket, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil, fmt.Errorf("cannot subscribe to changes of routes and addresses: %w", err)
	}
	if err := filter(socket.GetFd()); err != nil {
		socket.Close()
		return nil, fmt.Errorf("cannot choose among changes of routes: %w", err)
	}
	return socket, nil
}

// onlyReplaced lets the kernel leave out what does not matter and is most of
// what there is: routes that are added, our own thousands among them. It sees
// the header of a message (struct nlmsghdr) with numbers in network order.
var onlyReplaced = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 4, Size: 2}, // nlmsg_type
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: network(unix.RTM_NEWROUTE), SkipTrue: 2},
	bpf.LoadAbsolute{Off: 6, Size: 2}, // nlmsg_flags
	bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: network(unix.NLM_F_REPLACE), SkipTrue: 1},
	bpf.RetConstant{Val: 0xffffffff},
	bpf.RetConstant{Val: 0},
}

// network is a number of this machine as a filter loads it.
func network(n uint16) uint32 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], n)
	return uint32(binary.BigEndian.Uint16(b[:]))
}

// filter attaches onlyReplaced to a socket.
func filter(fd int) error {
	raw, err := bpf.Assemble(onlyReplaced)
	if err != nil {
		return err
	}
	instructions := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		instructions[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]})
}

// coalesce calls fn after the settle time since the first of several changes.
func coalesce(ctx context.Context, changed <-chan struct{}, settle time.Duration, fn func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
		select {
		case <-changed:
		default:
		}
		fn()
	}
}

// watchAll reads notifications until ctx ends. Those that got lost, because
// the socket's buffer was full or the socket failed, count as a change.
func watchAll(ctx context.Context, socket *nl.NetlinkSocket, changed chan<- struct{}) {
	for {
		watchOne(ctx, socket, changed)
		note(changed)
		var err error
		for socket, err = subscribe(); err != nil; socket, err = subscribe() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(resubscribeDelay):
			}
		}
		if ctx.Err() != nil {
			socket.Close()
			return
		}
	}
}

// watchOne reads from one socket until that fails or ctx ends, and closes it.
func watchOne(ctx context.Context, socket *nl.NetlinkSocket, changed chan<- struct{}) {
	var once sync.Once
	end := func() { once.Do(socket.Close) }
	stop := context.AfterFunc(ctx, end)
	defer func() { stop(); end() }()
	for {
		messages, _, err := socket.Receive()
		if errors.Is(err, syscall.ENOBUFS) {
			note(changed)
			continue
		}
		if err != nil {
			return
		}
		for _, m := range messages {
			if matters(m) {
				note(changed)
			}
		}
	}
}

func note(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// matters says that a route of ours may be gone after a notification, or that
// one may be possible now that was refused before. IPv4 routes that go with
// their link or address are not notified of, the link and address are.
func matters(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_DELRULE:
		return true
	case unix.RTM_DELROUTE:
		return protocol(m) == Protocol
	case unix.RTM_NEWROUTE:
		return m.Header.Flags&unix.NLM_F_REPLACE != 0 && protocol(m) != Protocol
	}
	return false
}

// protocol is the rtm_protocol of a message about a route.
func protocol(m syscall.NetlinkMessage) int {
	if len(m.Data) < unix.SizeofRtMsg {
		return unix.RTPROT_UNSPEC
	}
	return int(nl.DeserializeRtMsg(m.Data).Protocol)
}
