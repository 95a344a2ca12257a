package route

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// Kernel is the routes of the network namespace in which it was opened. It is
// safe for concurrent use.
type Kernel struct {
	// Ceding are dummy links of predecessors, whose addresses' routes in the
	// table Local ours may stand before: both deliver here, and ours stays when
	// the link goes. It is set before first use.
	Ceding []string

	handle *netlink.Handle
	rules  *netlink.Handle // not strict: the library's request for rules has another header
	socket *nlsock.Socket  // for batches; nil after an answer got lost
	mu     sync.Mutex
	// ours are the keys under which the kernel held a route of ours when we
	// last looked or wrote. Only these may be replaced.
	ours map[Key]struct{}
}

var _ Interface = (*Kernel)(nil)

// Open returns the routes of the calling thread's network namespace.
func Open() (*Kernel, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket for routes: %w", err)
	}
	// Since Linux 4.20 the kernel itself can leave out of a dump what is not
	// ours. Before, it is left out here.
	_ = handle.SetStrictCheck(true)
	rules, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("cannot open a netlink socket for rules: %w", err)
	}
	k := &Kernel{handle: handle, rules: rules, ours: map[Key]struct{}{}}
	if _, err := k.dial(); err != nil {
		handle.Close()
		rules.Close()
		return nil, err
	}
	return k, nil
}

// Close frees the sockets.
func (k *Kernel) Close() {
	k.handle.Close()
	k.rules.Close()
	if k.socket != nil {
		_ = k.socket.Close()
	}
}

// List implements Interface.
func (k *Kernel) List(table int) (map[Key]Route, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	routes, err := k.list(table)
	if err != nil {
		return nil, fmt.Errorf("ip route show table %d proto %d: %w", table, Protocol, err)
	}
	k.remember(table, routes)
	return routes, nil
}

// ListAll implements Interface.
func (k *Kernel) ListAll() (map[Key]Route, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	routes, err := k.list(unix.RT_TABLE_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("ip route show table all proto %d: %w", Protocol, err)
	}
	return routes, nil
}

func (k *Kernel) remember(table int, routes map[Key]Route) {
	for key := range k.ours {
		if key.Table == table {
			delete(k.ours, key)
		}
	}
	for key := range routes {
		k.ours[key] = struct{}{}
	}
}

// dumpAttempts is how often a dump is repeated that changes interrupted.
const dumpAttempts = 5

// dump returns the routes of a table in both families. Protocol 0 stands for
// all of them.
func (k *Kernel) dump(table, protocol int) ([]netlink.Route, error) {
	filter, mask := &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE
	if protocol != 0 {
		filter.Protocol = netlink.RouteProtocol(protocol)
		mask |= netlink.RT_FILTER_PROTOCOL
	}
	var routes []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := k.handle.RouteListFiltered(family, filter, mask)
		for n := 1; errors.Is(err, netlink.ErrDumpInterrupted) && n < dumpAttempts; n++ {
			list, err = k.handle.RouteListFiltered(family, filter, mask)
		}
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP) {
			continue // the table has no route yet, or the kernel not the family
		}
		if err != nil {
			return nil, err
		}
		routes = append(routes, list...)
	}
	return routes, nil
}

// linkNames returns the names of all links, unless no route asks for them.
func (k *Kernel) linkNames(list []netlink.Route) (map[int]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	links, err := k.handle.LinkList()
	for n := 1; errors.Is(err, netlink.ErrDumpInterrupted) && n < dumpAttempts; n++ {
		links, err = k.handle.LinkList()
	}
	if err != nil {
		return nil, fmt.Errorf("ip link show: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return names, nil
}

// Apply implements Interface. The kernel holds one route for a destination,
// table, type of service and priority, and NLM_F_REPLACE does not ask whose it
// is. So what we don't know to be ours is added with NLM_F_EXCL.
func (k *Kernel) Apply(changes []Change) []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	errs := make([]error, len(changes))
	b := batch{kernel: k, links: map[string]int{}, ceded: k.ceded(changes)}
	for i, c := range changes {
		errs[i] = b.add(i, c)
	}
	for i, err := range b.send() {
		errs[i] = k.settle(changes[i], err)
	}
	for i, c := range changes {
		if errs[i] == nil {
			continue
		}
		if c.Route == nil {
			errs[i] = deleteError(c.Key, errs[i])
		} else {
			errs[i] = replaceError(*c.Route, errs[i])
		}
	}
	return errs
}

// ceded are the addresses of the links in Ceding, if one of the changes may need
// to know them. IPv6's routes have other priorities than ours and are not in
// the way.
func (k *Kernel) ceded(changes []Change) map[netip.Prefix]bool {
	links := map[int]bool{}
	if slices.ContainsFunc(changes, func(c Change) bool {
		_, ours := k.ours[c.Key]
		return !ours && c.Route != nil && c.Route.Type == LocalType && c.Key.Dst.Addr().Is4()
	}) {
		for _, name := range k.Ceding {
			if link, err := k.handle.LinkByName(name); err == nil && link.Type() == "dummy" {
				links[link.Attrs().Index] = true
			}
		}
	}
	if len(links) == 0 {
		return nil
	}
	list, err := k.dump(Local, 0)
	if err != nil {
		return nil // then they are in the way, and the caller tries again
	}
	found := map[netip.Prefix]bool{}
	for i := range list {
		if links[list[i].LinkIndex] && list[i].Type == int(LocalType) && list[i].Protocol != Protocol {
			found[prefixOf(&list[i])] = true
		}
	}
	return found
}

// settle takes note of the kernel's answer to a change.
func (k *Kernel) settle(c Change, err error) error {
	switch {
	case c.Route == nil && (err == nil || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENOENT)):
		delete(k.ours, c.Key)
		return nil
	case c.Route != nil && errors.Is(err, syscall.EEXIST):
		if err = k.replaceExisting(*c.Route); err == nil {
			k.ours[c.Key] = struct{}{}
		}
	case c.Route != nil && err == nil:
		k.ours[c.Key] = struct{}{}
	}
	return err
}

// replaceExisting replaces what is there if it is ours.
func (k *Kernel) replaceExisting(r Route) error {
	list, err := k.dump(r.Table, 0)
	if err != nil {
		return err
	}
	for i := range list {
		theirs := &list[i]
		if prefixOf(theirs) != r.Dst || theirs.Protocol == Protocol || theirs.Priority != priority(r) {
			continue
		}
		return foreignError(k.foreignText(theirs))
	}
	msg, err := k.toKernel(r)
	if err != nil {
		return err
	}
	return k.handle.RouteReplace(msg)
}

// foreignText is another owner's route in the form of ip route.
func (k *Kernel) foreignText(r *netlink.Route) string {
	text := dstText(prefixOf(r))
	for _, hop := range append([]*netlink.NexthopInfo{{Gw: r.Gw, LinkIndex: r.LinkIndex}}, r.MultiPath...) {
		h := NextHop{Via: toAddr(hop.Gw)}
		if link, err := k.handle.LinkByIndex(hop.LinkIndex); err == nil {
			h.Link = link.Attrs().Name
		}
		text += h.String()
	}
	return fmt.Sprintf("%s proto %s", text, r.Protocol)
}

// priority is the one that our routes have: ip6_route_add makes IPv6's 0 into
// IP6_RT_PRIO_USER.
func priority(r Route) int {
	if r.Dst.Addr().Is4() {
		return 0
	}
	return 1024
}

func (k *Kernel) linkIndex(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	link, err := k.handle.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return 0, fmt.Errorf("link %s: %w", name, syscall.ENODEV)
	}
	if err != nil {
		return 0, fmt.Errorf("link %s: %w", name, err)
	}
	return link.Attrs().Index, nil
}

// prefixOf is a route's destination; the kernel leaves the default one out.
func prefixOf(r *netlink.Route) netip.Prefix {
	if r.Dst == nil {
		if r.Family == netlink.FAMILY_V4 {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(toAddr(r.Dst.IP), bits)
}
