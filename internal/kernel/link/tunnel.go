package link

import (
	"errors"
	"fmt"
	"net"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

// fallback is a tunnel that the kernel makes in every network namespace as it
// loads the module: it takes the encapsulated packets that no other tunnel of
// its kind takes.
type fallback struct {
	name, kind, module string
	mtu                int // bytes, over a link of 1500
}

func fallbackOf(f inet.Family) fallback {
	if f == inet.IPv4 {
		return fallback{name: "tunl0", kind: "ipip", module: "ipip", mtu: 1480}
	}
	return fallback{name: "ip6tnl0", kind: "ip6tnl", module: "ip6_tunnel", mtu: 1452}
}

func (t fallback) taken(kind string) error {
	return fmt.Errorf("link %s is a %s, not the kernel's %s: remove or rename it", t.name, kind, t.kind)
}

// FallbackTunnel is the name of the tunnel that takes the packets of a family
// in packets of the same family (RFC 2003, RFC 2473) which no other takes.
func FallbackTunnel(f inet.Family) string { return fallbackOf(f).name }

// EnsureFallbackTunnel implements Interface.
func (k *Kernel) EnsureFallbackTunnel(f inet.Family) (changed bool, err error) {
	t := fallbackOf(f)
	link, err := k.byName(t.name)
	if errors.Is(err, ErrNotFound) {
		if err := module.Load(t.module); err != nil {
			return false, fmt.Errorf("link %s: %w", t.name, err)
		}
		if link, err = k.byName(t.name); errors.Is(err, ErrNotFound) {
			return false, fmt.Errorf("%w (set net.core.fb_tunnels_only_for_init_net to 0 and load the module %s again)", err, t.module)
		}
	}
	if err != nil {
		return false, err
	}
	if link.Type() != t.kind {
		return false, t.taken(link.Type())
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		return false, nil
	}
	k.Record.Note(map[string]record.Entry{upEntry + t.name: {Before: "down", Set: "up"}})
	if err := k.handle.LinkSetUp(link); err != nil {
		return false, fmt.Errorf("ip link set %s up: %w", t.name, err)
	}
	return true, nil
}
