package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kernel follows the kernel's routes of this process's network namespace that
// have the protocol of whom is measured. Each change of one is a message, also
// one that changes nothing.
type kernel struct {
	protocol netlink.RouteProtocol

	mu      sync.Mutex
	hops    map[netip.Prefix]netip.Addr
	touched map[netip.Prefix]int // operations since reset
	ops     int
	changed chan struct{}
}

// The protocols of the agent's routes and of BIRD's.
const (
	ourProtocol  = 17
	birdProtocol = unix.RTPROT_BIRD
)

func followKernel(ctx context.Context, protocol netlink.RouteProtocol) (*kernel, error) {
	k := &kernel{protocol: protocol, hops: map[netip.Prefix]netip.Addr{}, touched: map[netip.Prefix]int{}, changed: make(chan struct{}, 1)}
	updates := make(chan netlink.RouteUpdate, 1<<16)
	options := netlink.RouteSubscribeOptions{
		ReceiveBufferSize: 64 << 20, ReceiveBufferForceSize: true,
		ErrorCallback: func(err error) { // then the counts would be wrong
			if ctx.Err() == nil {
				panic(fmt.Errorf("following the kernel's routes: %w", err))
			}
		},
	}
	if err := netlink.RouteSubscribeWithOptions(updates, ctx.Done(), options); err != nil {
		return nil, fmt.Errorf("following the kernel's routes: %w", err)
	}
	go func() {
		for u := range updates {
			k.note(u)
		}
	}()
	return k, nil
}

func (k *kernel) note(u netlink.RouteUpdate) {
	if u.Protocol != k.protocol || u.Dst == nil {
		return
	}
	addr, _ := netip.AddrFromSlice(u.Dst.IP)
	bits, _ := u.Dst.Mask.Size()
	prefix := netip.PrefixFrom(addr.Unmap(), bits)
	k.mu.Lock()
	k.ops++
	k.touched[prefix]++
	if u.Type == unix.RTM_DELROUTE {
		delete(k.hops, prefix)
	} else {
		hop, _ := netip.AddrFromSlice(u.Gw)
		k.hops[prefix] = hop.Unmap()
	}
	k.mu.Unlock()
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// reset forgets what was counted.
func (k *kernel) reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ops = 0
	clear(k.touched)
}

// counted are the operations since reset, and those on prefixes with more of
// them than are needed.
func (k *kernel) counted(needed func(netip.Prefix) int) (ops, excess int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for prefix, n := range k.touched {
		excess += max(0, n-needed(prefix))
	}
	return k.ops, excess
}

var errLate = errors.New("it takes too long")

// await waits until a condition on the routes holds.
func (k *kernel) await(ctx context.Context, within time.Duration, ok func(map[netip.Prefix]netip.Addr) bool) error {
	deadline := time.After(within)
	for {
		k.mu.Lock()
		done := ok(k.hops)
		have := len(k.hops)
		k.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-k.changed:
		case <-deadline:
			return fmt.Errorf("the kernel has %d routes: %w", have, errLate)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
