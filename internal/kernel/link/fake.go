package link

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

// Fake is an Interface in memory. It is safe for concurrent use.
type Fake struct {
	// Record is as Kernel has it.
	Record *record.File
	// WithoutIPv6 is a host that was booted with ipv6.disable=1.
	WithoutIPv6 bool

	mu      sync.Mutex
	links   []*fakeLink // in the order of their indexes
	index   int
	changes int
}

type fakeLink struct {
	Link
	kind  string
	up    bool
	addrs []netip.Prefix
	// bridge is the name of the bridge that the link is a port of, if any.
	bridge  string
	hairpin bool
	tunnel  Tunnel
	entries map[string]bool // of the nodes that a VXLAN knows
}

var _ Interface = (*Fake)(nil)

// NewFake returns a Fake with a loopback link that is up.
func NewFake() *Fake {
	f := &Fake{}
	f.add("lo", "device", 65536, true, netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128"))
	return f
}

// AddLink adds a link that is up, or adds addresses to the one there is.
func (f *Fake) AddLink(name string, mtu int, addrs ...netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.byName(name); l != nil {
		l.addrs = append(l.addrs, addrs...)
		return
	}
	f.add(name, "device", mtu, true, addrs...)
}

// AddDummy adds a dummy link that is up.
func (f *Fake) AddDummy(name string, addrs ...netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(name, "dummy", 1500, true, addrs...)
}

// AddVeth adds one end of a veth that is up.
func (f *Fake) AddVeth(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(name, "veth", 1500, true)
}

func (f *Fake) add(name, kind string, mtu int, up bool, addrs ...netip.Prefix) *fakeLink {
	f.index++
	l := &fakeLink{Link: Link{Name: name, Index: f.index, MTU: mtu}, kind: kind, up: up, addrs: addrs}
	f.links = append(f.links, l)
	return l
}

// SetDown sets a link down.
func (f *Fake) SetDown(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.byName(name); l != nil {
		l.up = false
	}
}

// DelLink removes a link with its addresses.
func (f *Fake) DelLink(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links = slices.DeleteFunc(f.links, func(l *fakeLink) bool { return l.Name == name })
}

// Changes is the number of operations that changed something.
func (f *Fake) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// String is one line a link: "2: kube-bridge bridge mtu 1500 up".
func (f *Fake) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s string
	for _, l := range f.links {
		state := map[bool]string{true: "up", false: "down"}[l.up]
		s += fmt.Sprintf("%d: %s %s mtu %d %s\n", l.Index, l.Name, l.kind, l.MTU, state)
	}
	return s
}

func (f *Fake) byName(name string) *fakeLink {
	for _, l := range f.links {
		if l.Name == name {
			return l
		}
	}
	return nil
}

// defaultMTU is what the kernel gives a bridge, in bytes.
const defaultMTU = 1500

// EnsureBridge implements Interface.
func (f *Fake) EnsureBridge(ctx context.Context, name string, mtu int) (changed bool, err error) {
	if err := checkBridge(ctx, name, mtu); err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.byName(name)
	if l == nil {
		l, changed = f.add(name, "bridge", defaultMTU, false), true
	}
	if l.kind != "bridge" {
		return false, notBridge(name, l.kind)
	}
	if mtu != 0 && l.MTU != mtu {
		l.MTU, changed = mtu, true
	}
	if !l.up {
		l.up, changed = true, true
	}
	if changed {
		f.changes++
	}
	return changed, nil
}

// EnsureLinkUp implements Interface.
func (f *Fake) EnsureLinkUp(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.byName(name)
	if l == nil {
		return fmt.Errorf("link %s: %w", name, ErrNotFound)
	}
	if !l.up {
		l.up = true
		f.changes++
	}
	return nil
}

// EnsureLinkDown implements Interface.
func (f *Fake) EnsureLinkDown(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.byName(name); l != nil && l.up {
		l.up = false
		f.changes++
		return f.Record.Forget(upEntry + name)
	}
	return nil
}

// EnsureFallbackTunnel implements Interface.
func (f *Fake) EnsureFallbackTunnel(family inet.Family) (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := fallbackOf(family)
	l := f.byName(t.name)
	if l == nil {
		l = f.add(t.name, t.kind, t.mtu, false)
	}
	if l.kind != t.kind {
		return false, t.taken(l.kind)
	}
	if l.up {
		return false, nil
	}
	f.Record.Note(map[string]record.Entry{upEntry + t.name: {Before: "down", Set: "up"}})
	l.up = true
	f.changes++
	return true, nil
}

// AddPort makes a link a port of a bridge.
func (f *Fake) AddPort(bridge, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byName(name).bridge = bridge
}

// Hairpin says whether a port is in hairpin mode.
func (f *Fake) Hairpin(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.byName(name)
	return l != nil && l.hairpin
}

// EnsureHairpin implements Interface.
func (f *Fake) EnsureHairpin(networks []netip.Prefix) (changed int, err error) {
	addrs, err := f.Addrs()
	f.mu.Lock()
	defer f.mu.Unlock()
	bridges := bridgesIn(addrs, networks)
	for _, l := range f.links {
		if b := f.byName(l.bridge); b != nil && bridges[b.Index] && !l.hairpin {
			f.Record.Note(map[string]record.Entry{hairpinEntry + l.Name: {Before: "off", Set: "on"}})
			l.hairpin = true
			changed++
			f.changes++
		}
	}
	return changed, err
}

// Addrs implements Interface.
func (f *Fake) Addrs() ([]Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var addrs []Addr
	for _, l := range f.links {
		for _, p := range l.addrs {
			addrs = append(addrs, Addr{Link: l.Name, Index: l.Index, MTU: l.MTU, Prefix: p})
		}
	}
	return addrs, nil
}

// Find implements Interface.
func (f *Fake) Find(addr netip.Addr) (Link, error) {
	addrs, err := f.Addrs()
	if err != nil {
		return Link{}, err
	}
	return find(addrs, addr)
}
