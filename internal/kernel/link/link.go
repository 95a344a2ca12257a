// Package link reads the host's network links and keeps the bridge of the
// pods, through rtnetlink.
package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

// ErrNotFound means that there is no such link, or none with that address.
var ErrNotFound = errors.New("no such link")

// ErrInUse means that a bridge has ports: links of Pods, which would lose their
// network with it.
var ErrInUse = errors.New("the bridge has ports")

// Addr is an address of a link, with the length of its network.
type Addr struct {
	Link   string
	Index  int
	MTU    int // bytes
	Prefix netip.Prefix
}

// Link is a link, with the address and network by which it was found.
type Link struct {
	Name   string
	Index  int
	MTU    int // bytes
	Prefix netip.Prefix
}

// Bridge is a bridge, with the networks of its addresses.
type Bridge struct {
	Name     string
	Networks []netip.Prefix // masked; that of link-local addresses is every link's
	// Others are its ports that are no end of a veth, and so no Pod's: an
	// interface of the host, a virtual machine.
	Others []string
}

// Interface is the links of one network namespace.
type Interface interface {
	// EnsureBridge makes the bridge exist, be up and have the MTU in bytes
	// (0 leaves it as it is), and says whether anything had to change. A link
	// of that name that is no bridge is an error and stays.
	EnsureBridge(ctx context.Context, name string, mtu int) (changed bool, err error)
	// EnsureLinkUp sets the link up if it is not. ErrNotFound if it is away.
	EnsureLinkUp(name string) error
	// EnsureLinkDown sets the link down if it is up. One that is away is down.
	EnsureLinkDown(name string) error
	// EnsureFallbackTunnel makes the FallbackTunnel of a family exist, with its
	// kernel module, and be up, and says whether anything had to change.
	// EnsureLinkDown ends what it began; the module stays.
	EnsureFallbackTunnel(inet.Family) (changed bool, err error)
	// EnsureHairpin puts the ports of the bridges that have an address in one of
	// the networks into hairpin mode, so that a bridge hands a frame out where
	// it came in, and says how many it changed. A port is asked for once: who
	// takes it out of that mode again means it.
	EnsureHairpin(networks []netip.Prefix) (changed int, err error)
	// Exists says whether there is a link of that kind ("bridge", "dummy").
	Exists(name, kind string) (bool, error)
	// Delete removes a link if it is of that kind ("bridge", "dummy"), and says
	// whether it was there. A bridge with ports stays: ErrInUse.
	Delete(name, kind string) (deleted bool, err error)
	// Restore puts back what the record tells of links, and says what it did.
	Restore(*record.File) (done []string, err error)
	// EnsureTunnel makes the Tunnel exist as it is described and be up, with its
	// kernel modules and its UDP port, and says whether anything had to change.
	// A link of its name that is of another kind is an error and stays.
	EnsureTunnel(Tunnel) (changed bool, err error)
	// SetTunnelNodes makes a VXLAN know how to reach the nodes, and no others,
	// and says how many entries it changed.
	SetTunnelNodes(t Tunnel, nodes []netip.Addr) (changed int, err error)
	// DeleteTunnels removes the Tunnels that keep does not claim, and those that
	// earlier releases made.
	DeleteTunnels(keep func(name string) bool) (deleted []string, err error)
	// Bridges returns all bridges, in their order.
	Bridges() ([]Bridge, error)
	// Addrs returns the addresses of all links but Tunnels, both families, in the
	// order of the links and, within a link, of the kernel.
	Addrs() ([]Addr, error)
	// Find returns the link that holds an address and is no Tunnel, or ErrNotFound.
	Find(netip.Addr) (Link, error)
}

// find is Find over the addresses of all links.
func find(addrs []Addr, want netip.Addr) (Link, error) {
	for _, a := range addrs {
		if a.Prefix.Addr() == want {
			return Link{Name: a.Link, Index: a.Index, MTU: a.MTU, Prefix: a.Prefix}, nil
		}
	}
	return Link{}, fmt.Errorf("no link holds the address %s: %w", want, ErrNotFound)
}

const (
	maxNameLen = 15 // bytes, IFNAMSIZ less the terminating zero
	// The limits of a bridge's MTU in bytes (ETH_MIN_MTU, ETH_MAX_MTU).
	minMTU = 68
	maxMTU = 65535
)

func checkBridge(ctx context.Context, name string, mtu int) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("bridge %s: %w", name, ctx.Err())
	case name == "" || len(name) > maxNameLen:
		return fmt.Errorf("bridge %q: a link's name has 1 to %d letters", name, maxNameLen)
	case mtu != 0 && (mtu < minMTU || mtu > maxMTU):
		return fmt.Errorf("bridge %s: MTU %d is not from %d to %d", name, mtu, minMTU, maxMTU)
	}
	return nil
}
