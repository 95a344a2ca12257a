package link

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/kube-router/kube-router/internal/kernel/record"
)

// bridgesIn are the indices of the links with an address in one of the networks.
func bridgesIn(addrs []Addr, networks []netip.Prefix) map[int]bool {
	found := map[int]bool{}
	for _, a := range addrs {
		if slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a.Prefix.Addr()) }) {
			found[a.Index] = true
		}
	}
	return found
}

// EnsureHairpin implements Interface.
func (k *Kernel) EnsureHairpin(networks []netip.Prefix) (changed int, err error) {
	addrs, err := k.Addrs()
	if err != nil {
		return 0, err
	}
	bridges := bridgesIn(addrs, networks)
	links, err := dump(k.handle.LinkList)
	if err != nil {
		return 0, fmt.Errorf("ip link show: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	ports := map[int]struct{}{}
	var errs []error
	for _, l := range links {
		index := l.Attrs().Index
		if !bridges[l.Attrs().MasterIndex] {
			continue
		}
		if _, done := k.hairpin[index]; !done {
			k.noteHairpin(l)
			err := k.handle.LinkSetHairpin(l, true)
			if errors.Is(err, syscall.ENODEV) || errors.As(err, &netlink.LinkNotFoundError{}) {
				continue // went meanwhile
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("bridge link set dev %s hairpin on: %w", l.Attrs().Name, err))
				continue
			}
			changed++
		}
		ports[index] = struct{}{}
	}
	k.hairpin = ports
	if changed > 0 {
		errs = append(errs, k.forgetPorts(links))
	}
	return changed, errors.Join(errs...)
}

// noteHairpin records a port that is not in hairpin mode yet.
func (k *Kernel) noteHairpin(port netlink.Link) {
	if k.Record == nil {
		return
	}
	if info, err := k.handle.LinkGetProtinfo(port); err == nil && !info.Hairpin {
		k.Record.Note(map[string]record.Entry{hairpinEntry + port.Attrs().Name: {Before: "off", Set: "on"}})
	}
}

// forgetPorts keeps the record from growing with the Pods that have gone.
func (k *Kernel) forgetPorts(links []netlink.Link) error {
	entries, err := k.Record.Entries(hairpinEntry)
	if err != nil {
		return nil // Note has told of it
	}
	for _, l := range links {
		delete(entries, hairpinEntry+l.Attrs().Name)
	}
	return k.Record.Forget(slices.Collect(maps.Keys(entries))...)
}
