package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/module"
)

const (
	tunnelTTL = 64 // hops; those of the packet inside are not counted between nodes
	// From linux/if_tunnel.h and linux/ip6_tunnel.h.
	encapGUE          = 2
	encapFlagCsum6    = 1 << 1
	ignoreEncapLimit  = 1 << 0 // no destination option of 8 bytes in each packet
	defaultEncapLimit = 4
	discoverPathMTU   = 1
	protocolIPv4InIP  = unix.IPPROTO_IPIP
	protocolIPv6InIP  = unix.IPPROTO_IPV6
	addrGenModeNone   = 1
	permanent         = netlink.NUD_PERMANENT
	selfEntry         = netlink.NTF_SELF
)

// EnsureTunnel implements Interface.
func (k *Kernel) EnsureTunnel(t Tunnel) (changed bool, err error) {
	if err := t.check(); err != nil {
		return false, err
	}
	opened := false
	if t.Kind != VXLAN && t.Port != 0 {
		if opened, err = openGUE(t); err != nil {
			return false, err
		}
	}
	link, changed, err := k.tunnel(t)
	changed = changed || opened
	if err != nil {
		return changed, err
	}
	if link.Attrs().MTU != t.MTU {
		if err := k.handle.LinkSetMTU(link, t.MTU); err != nil {
			return changed, fmt.Errorf("ip link set %s mtu %d: %w", t.Name(), t.MTU, err)
		}
		changed = true
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		// Nothing is multicast there, so that an address of the link's own is
		// of no use, and what looks for duplicates of it neither.
		_ = k.handle.LinkSetIP6AddrGenMode(link, addrGenModeNone)
		if err := k.handle.LinkSetUp(link); err != nil {
			return changed, fmt.Errorf("ip link set %s up: %w", t.Name(), err)
		}
		changed = true
	}
	moved, err := k.setSources(link, t)
	return changed || moved, err
}

// setSources gives the link the Sources and takes other ones away, but not what
// the kernel gave it itself.
func (k *Kernel) setSources(link netlink.Link, t Tunnel) (changed bool, err error) {
	list, err := dump(func() ([]netlink.Addr, error) { return k.handle.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return false, fmt.Errorf("ip address show dev %s: %w", t.Name(), err)
	}
	missing := slices.DeleteFunc(slices.Clone(t.Sources[:]), func(a netip.Addr) bool { return !a.IsValid() })
	for _, a := range list {
		ip := toPrefix(a.IPNet)
		if slices.Contains(missing, ip.Addr()) && ip.IsSingleIP() {
			missing = slices.DeleteFunc(missing, func(m netip.Addr) bool { return m == ip.Addr() })
			continue
		}
		if !ip.IsSingleIP() {
			continue // fe80::/64, and ::/96 of SIT
		}
		if err := k.handle.AddrDel(link, &a); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return changed, fmt.Errorf("ip address delete %s dev %s: %w", ip, t.Name(), err)
		}
		changed = true
	}
	for _, a := range missing {
		add := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
		if a.Is6() {
			add.Flags = unix.IFA_F_NODAD // the other link with it answers
		}
		if err := k.handle.AddrAdd(link, add); err != nil {
			return changed, fmt.Errorf("ip address add %s dev %s: %w", a, t.Name(), err)
		}
		changed = true
	}
	return changed, nil
}

// tunnel finds the link as it should be, changes it, or makes it. The kernel
// cannot change a VXLAN: it goes, and the routes over it until they are put
// back.
func (k *Kernel) tunnel(t Tunnel) (link netlink.Link, changed bool, err error) {
	want := t.link()
	link, err = k.byName(t.Name())
	switch {
	case err == nil && link.Type() != string(t.Kind):
		return nil, false, t.taken(link.Type())
	case err == nil && t.matches(link):
		return link, false, nil
	case err == nil && t.Kind != VXLAN:
		old := gueOf(link)
		if err := k.handle.LinkModify(want); err != nil {
			return nil, false, fmt.Errorf("ip link change %s: %w", t, t.explain(err))
		}
		if old != 0 && old != t.Port {
			k.closePort(t.Kind, old)
		}
		link, err = k.byName(t.Name())
		return link, true, err
	case err == nil:
		if err := k.handle.LinkDel(link); err != nil {
			return nil, false, fmt.Errorf("ip link delete %s: %w", t.Name(), err)
		}
	case !errors.Is(err, ErrNotFound):
		return nil, false, err
	}
	if err := module.Load(moduleOf(t.Kind)); err != nil {
		return nil, false, fmt.Errorf("tunnel %s: %w", t.Name(), err)
	}
	if err := k.handle.LinkAdd(want); err != nil {
		return nil, false, fmt.Errorf("ip link add %s: %w", t, t.explain(err))
	}
	link, err = k.byName(t.Name())
	return link, true, err
}

// explain adds why a kernel most probably refuses a tunnel.
func (t Tunnel) explain(err error) error {
	if t.Kind != VXLAN && t.Port != 0 && errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("the kernel cannot put tunnels into UDP (it was built without CONFIG_NET_FOU_IP_TUNNELS); use --overlay-encap=vxlan: %w", err)
	}
	return err
}

func moduleOf(kind TunnelKind) string {
	if kind == IP6IP6 {
		return "ip6_tunnel"
	}
	return string(kind)
}

// link is the Tunnel as the library writes it.
func (t Tunnel) link() netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = t.Name(), t.MTU
	local, encap := net.IP(t.Local.AsSlice()), uint16(0)
	if t.Port != 0 {
		encap = encapGUE
	}
	switch t.Kind {
	case IPIP:
		return &netlink.Iptun{LinkAttrs: attrs, Local: local, Ttl: tunnelTTL, PMtuDisc: discoverPathMTU,
			Proto: protocolIPv4InIP, EncapType: encap, EncapDport: t.Port}
	case SIT:
		return &netlink.Sittun{LinkAttrs: attrs, Local: local, Ttl: tunnelTTL, PMtuDisc: discoverPathMTU,
			Proto: protocolIPv6InIP, EncapType: encap, EncapDport: t.Port}
	case IP6IP6:
		return &netlink.Ip6tnl{LinkAttrs: attrs, Local: local, Remote: t.Remote.AsSlice(), Ttl: tunnelTTL, Flags: ignoreEncapLimit, EncapLimit: defaultEncapLimit,
			Proto: protocolIPv6InIP, EncapType: encap, EncapDport: t.Port, EncapFlags: encapFlagCsum6}
	}
	attrs.HardwareAddr = hardwareAddr(t.Local)
	return &netlink.Vxlan{LinkAttrs: attrs, SrcAddr: local, VxlanId: t.vni(), Port: int(t.Port), TTL: tunnelTTL,
		UDP6ZeroCSumRx: t.Local.Is6()}
}

// matches says whether the kernel's link is the Tunnel, but for MTU and state.
func (t Tunnel) matches(link netlink.Link) bool {
	local, remote, port := netip.Addr{}, netip.Addr{}, uint16(0)
	switch l := link.(type) {
	case *netlink.Vxlan:
		local, port = toAddr(l.SrcAddr), uint16(l.Port)
		if l.VxlanId != t.vni() || l.Learning || l.HardwareAddr.String() != hardwareAddr(t.Local).String() {
			return false
		}
	case *netlink.Iptun:
		local, remote, port = toAddr(l.Local), toAddr(l.Remote), gueOf(link)
	case *netlink.Sittun:
		local, remote, port = toAddr(l.Local), toAddr(l.Remote), gueOf(link)
	case *netlink.Ip6tnl:
		local, remote, port = toAddr(l.Local), toAddr(l.Remote), gueOf(link)
	}
	if remote.IsUnspecified() {
		remote = netip.Addr{}
	}
	return local == t.Local && remote == t.Remote && port == t.Port
}

// gueOf is the UDP port of a link's Generic UDP Encapsulation, or 0.
func gueOf(link netlink.Link) uint16 {
	var kind, port uint16
	switch l := link.(type) {
	case *netlink.Iptun:
		kind, port = l.EncapType, l.EncapDport
	case *netlink.Sittun:
		kind, port = l.EncapType, l.EncapDport
	case *netlink.Ip6tnl:
		kind, port = l.EncapType, l.EncapDport
	}
	if kind != encapGUE {
		return 0
	}
	return port
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// closePort closes a port that no tunnel of ours sends to any more.
func (k *Kernel) closePort(kind TunnelKind, port uint16) {
	family, _ := gueFamily(kind)
	links, err := dump(k.handle.LinkList)
	for _, l := range links {
		other, _ := gueFamily(TunnelKind(l.Type()))
		if isOurTunnel(l.Attrs().Name, l.Type()) && other == family && gueOf(l) == port {
			return
		}
	}
	if err == nil {
		_ = closeGUE(family, port)
	}
}

// DeleteTunnels implements Interface.
func (k *Kernel) DeleteTunnels(keep func(name string) bool) (deleted []string, err error) {
	links, err := dump(k.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("ip link show: %w", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if !isOurTunnel(name, l.Type()) || keep(name) {
			continue
		}
		if err := k.handle.LinkDel(l); err != nil && !errors.Is(err, syscall.ENODEV) {
			return deleted, fmt.Errorf("ip link delete %s: %w", name, err)
		}
		if port := gueOf(l); port != 0 {
			k.closePort(TunnelKind(l.Type()), port)
		}
		deleted = append(deleted, name)
	}
	return deleted, nil
}

// SetTunnelNodes implements Interface.
func (k *Kernel) SetTunnelNodes(t Tunnel, nodes []netip.Addr) (changed int, err error) {
	if t.Kind != VXLAN {
		return 0, fmt.Errorf("tunnel %s: %w", t.Name(), errNoPeers)
	}
	link, err := k.byName(t.Name())
	if err != nil {
		return 0, err
	}
	index := link.Attrs().Index
	want := t.entries(index, nodes)
	have, err := k.entries(index)
	if err != nil {
		return 0, err
	}
	for key, entry := range want { // before others go: a hop may only have moved
		if have[key].HardwareAddr.String() == entry.HardwareAddr.String() && have[key].State&permanent != 0 {
			continue
		}
		if err := k.handle.NeighSet(&entry); err != nil {
			return changed, fmt.Errorf("%s for %s: %w", entryText(entry), t.Name(), err)
		}
		changed++
	}
	for key, entry := range have {
		if _, ok := want[key]; ok || entry.State&permanent == 0 {
			continue
		}
		if err := k.handle.NeighDel(&entry); err != nil && !errors.Is(err, syscall.ENOENT) {
			return changed, fmt.Errorf("%s of %s is gone and stays: %w", entryText(entry), t.Name(), err)
		}
		changed++
	}
	return changed, nil
}

// entryKey identifies an entry: the forwarding entry of a hardware address at
// a node, or the neighbour of an address.
type entryKey struct {
	family int
	addr   netip.Addr
	hw     string // of forwarding entries
}

func keyOf(n netlink.Neigh) entryKey {
	key := entryKey{family: n.Family, addr: toAddr(n.IP)}
	if n.Family == unix.AF_BRIDGE {
		key.hw = n.HardwareAddr.String()
	}
	return key
}

// entries are those that lead to the nodes.
func (t Tunnel) entries(index int, nodes []netip.Addr) map[entryKey]netlink.Neigh {
	all := map[entryKey]netlink.Neigh{}
	for _, node := range nodes {
		p := t.peer(node)
		hw := hardwareAddr(node)
		fdb := netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: permanent, Flags: selfEntry, IP: node.AsSlice(), HardwareAddr: hw}
		all[keyOf(fdb)] = fdb
		for _, hop := range p.hops {
			n := netlink.Neigh{LinkIndex: index, Family: familyNumber(hop), State: permanent, IP: hop.AsSlice(), HardwareAddr: hw}
			all[keyOf(n)] = n
		}
	}
	return all
}

func familyNumber(a netip.Addr) int {
	if inet.FamilyOf(a) == inet.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// entries are those that the kernel has for a link.
func (k *Kernel) entries(index int) (map[entryKey]netlink.Neigh, error) {
	all := map[entryKey]netlink.Neigh{}
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		list, err := dump(func() ([]netlink.Neigh, error) { return k.handle.NeighList(index, family) })
		if err != nil && !slices.Contains([]error{syscall.EAFNOSUPPORT, syscall.EOPNOTSUPP}, err) {
			return nil, fmt.Errorf("ip neighbour show: %w", err)
		}
		for _, n := range list {
			if n.LinkIndex == index && n.Family == family {
				all[keyOf(n)] = n
			}
		}
	}
	return all, nil
}

func entryText(n netlink.Neigh) string {
	if n.Family == unix.AF_BRIDGE {
		return fmt.Sprintf("bridge fdb entry %s dst %s", n.HardwareAddr, n.IP)
	}
	return fmt.Sprintf("neighbour %s lladdr %s", n.IP, n.HardwareAddr)
}
