package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/kube-router/kube-router/internal/kernel/record"
)

// Kernel is the links of the network namespace in which it was opened. It is
// safe for concurrent use.
type Kernel struct {
	// Record keeps what links were before EnsureFallbackTunnel and EnsureHairpin
	// changed them. It is set before first use, or nil.
	Record *record.File

	handle *netlink.Handle

	mu      sync.Mutex
	hairpin map[int]struct{} // ports that were put into hairpin mode, by index
}

var _ Interface = (*Kernel)(nil)

// Open returns the links of the calling thread's network namespace.
func Open() (*Kernel, error) {
	handle, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket for links: %w", err)
	}
	return &Kernel{handle: handle}, nil
}

// Close frees the socket.
func (k *Kernel) Close() { k.handle.Close() }

// EnsureBridge implements Interface.
func (k *Kernel) EnsureBridge(ctx context.Context, name string, mtu int) (changed bool, err error) {
	if err := checkBridge(ctx, name, mtu); err != nil {
		return false, err
	}
	bridge, created, err := k.bridge(name, mtu)
	if err != nil {
		return false, err
	}
	changed = created
	if mtu != 0 && bridge.Attrs().MTU != mtu {
		if err := k.handle.LinkSetMTU(bridge, mtu); err != nil {
			return changed, fmt.Errorf("ip link set %s mtu %d: %w", name, mtu, err)
		}
		changed = true
	}
	if bridge.Attrs().Flags&net.FlagUp == 0 {
		if err := k.handle.LinkSetUp(bridge); err != nil {
			return changed, fmt.Errorf("ip link set %s up: %w", name, err)
		}
		changed = true
	}
	return changed, nil
}

// bridge finds or makes the bridge. Another process that makes it at the same
// time (the CNI plugin) is no error.
func (k *Kernel) bridge(name string, mtu int) (bridge netlink.Link, created bool, err error) {
	bridge, err = k.byName(name)
	if errors.Is(err, ErrNotFound) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, mtu
		err = k.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return nil, false, fmt.Errorf("ip link add %s type bridge: %w", name, err)
		}
		created = err == nil
		bridge, err = k.byName(name)
	}
	if err != nil {
		return nil, created, err
	}
	if bridge.Type() != "bridge" {
		return nil, false, notBridge(name, bridge.Type())
	}
	return bridge, created, nil
}

func notBridge(name, kind string) error {
	return fmt.Errorf("link %s is a %s, not a bridge: remove or rename it", name, kind)
}

func (k *Kernel) byName(name string) (netlink.Link, error) {
	link, err := k.handle.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, syscall.ENODEV) {
		return nil, fmt.Errorf("link %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("ip link show %s: %w", name, err)
	}
	return link, nil
}

// EnsureLinkUp implements Interface.
func (k *Kernel) EnsureLinkUp(name string) error {
	link, err := k.byName(name)
	if err != nil || link.Attrs().Flags&net.FlagUp != 0 {
		return err
	}
	if err := k.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("ip link set %s up: %w", name, err)
	}
	return nil
}

// EnsureLinkDown implements Interface.
func (k *Kernel) EnsureLinkDown(name string) error {
	link, err := k.byName(name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
		return err
	}
	if err := k.handle.LinkSetDown(link); err != nil {
		return fmt.Errorf("ip link set %s down: %w", name, err)
	}
	return k.Record.Forget(upEntry + name)
}

// dumpAttempts is how often a dump is repeated that changes interrupted, as
// where Pods come and go.
const dumpAttempts = 5

// dump repeats a dump that was interrupted: it may lack what was there all the
// time.
func dump[T any](list func() ([]T, error)) (result []T, err error) {
	for range dumpAttempts {
		if result, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return result, err
}

// Addrs implements Interface.
func (k *Kernel) Addrs() ([]Addr, error) {
	links, err := dump(k.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("ip link show: %w", err)
	}
	type named struct {
		*netlink.LinkAttrs
		kind string
	}
	byIndex := make(map[int]*named, len(links))
	for _, link := range links {
		byIndex[link.Attrs().Index] = &named{link.Attrs(), link.Type()}
	}
	list, err := dump(func() ([]netlink.Addr, error) { return k.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("ip address show: %w", err)
	}
	var addrs []Addr
	for _, a := range list {
		link, prefix := byIndex[a.LinkIndex], toPrefix(a.IPNet)
		if link == nil || !prefix.IsValid() { // came or went between the two dumps
			continue
		}
		if isOurTunnel(link.Name, link.kind) { // its addresses are another link's
			continue
		}
		addrs = append(addrs, Addr{Link: link.Name, Index: link.Index, MTU: link.MTU, Prefix: prefix})
	}
	slices.SortStableFunc(addrs, func(a, b Addr) int { return a.Index - b.Index })
	return addrs, nil
}

func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}

// Find implements Interface.
func (k *Kernel) Find(addr netip.Addr) (Link, error) {
	addrs, err := k.Addrs()
	if err != nil {
		return Link{}, err
	}
	return find(addrs, addr)
}
