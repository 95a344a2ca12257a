package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// EnsureTunnel implements Interface.
func (f *Fake) EnsureTunnel(t Tunnel) (changed bool, err error) {
	if err := t.check(); err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.byName(t.Name())
	if l != nil && l.kind != string(t.Kind) {
		return false, t.taken(l.kind)
	}
	if l == nil {
		l = f.add(t.Name(), string(t.Kind), t.MTU, false)
	}
	if l.up && l.tunnel == t {
		return false, nil
	}
	if before := l.tunnel; t.Kind == VXLAN && (before.Local != t.Local || before.Port != t.Port) {
		l.entries = nil // it was made anew
	}
	l.up, l.tunnel, l.MTU = true, t, t.MTU
	f.changes++
	return true, nil
}

// SetTunnelNodes implements Interface.
func (f *Fake) SetTunnelNodes(t Tunnel, nodes []netip.Addr) (changed int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.Kind != VXLAN {
		return 0, fmt.Errorf("tunnel %s: %w", t.Name(), errNoPeers)
	}
	l := f.byName(t.Name())
	if l == nil {
		return 0, fmt.Errorf("link %s: %w", t.Name(), ErrNotFound)
	}
	want := map[string]bool{} // the lines of bridge fdb and of ip neighbour
	for _, node := range nodes {
		want[fmt.Sprintf("%s dst %s", hardwareAddr(node), node)] = true
		for _, hop := range t.peer(node).hops {
			if f.WithoutIPv6 && hop.Is6() {
				return 0, fmt.Errorf("neighbour %s for %s: %w", hop, t.Name(), syscall.EAFNOSUPPORT)
			}
			want[fmt.Sprintf("%s lladdr %s", hop, hardwareAddr(node))] = true
		}
	}
	changed = len(want) + len(l.entries)
	for entry := range want {
		if l.entries[entry] {
			changed -= 2
		}
	}
	if changed > 0 {
		f.changes++
	}
	l.entries = want
	return changed, nil
}

// TunnelText is a Tunnel as it is there, with the nodes that it knows, or "".
func (f *Fake) TunnelText(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.byName(name)
	if l == nil {
		return ""
	}
	lines := []string{l.tunnel.String()}
	for entry := range l.entries {
		lines = append(lines, entry)
	}
	slices.Sort(lines[1:])
	return strings.Join(lines, "\n")
}

// DeleteTunnels implements Interface.
func (f *Fake) DeleteTunnels(keep func(name string) bool) (deleted []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links = slices.DeleteFunc(f.links, func(l *fakeLink) bool {
		gone := isOurTunnel(l.Name, l.kind) && !keep(l.Name)
		if gone {
			deleted = append(deleted, l.Name)
			f.changes++
		}
		return gone
	})
	return deleted, nil
}
