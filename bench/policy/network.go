package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// podNetwork is a Pod's network namespace, routed to by the node's.
type podNetwork struct {
	node, own int // file descriptors of namespaces
}

// gateway is the address of the node's end of all links, as Pods see it.
const gateway = "169.254.1.1/32"

// newPodNetwork makes a namespace with a link to the calling thread's.
func newPodNetwork(addr netip.Addr, index int) (*podNetwork, error) {
	n := &podNetwork{}
	var err error
	if n.node, err = openNamespace(); err != nil {
		return nil, err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	defer func() { _ = unix.Setns(n.node, unix.CLONE_NEWNET) }()
	if n.own, err = openNamespace(); err != nil {
		return nil, err
	}
	host := fmt.Sprint("pod", index)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: host, PeerNamespace: netlink.NsFd(n.node)}); err != nil {
		return nil, fmt.Errorf("making a pair of links: %w", err)
	}
	if err := inPod(addr.String() + "/32"); err != nil {
		return nil, err
	}
	if err := unix.Setns(n.node, unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	return n, onNode(host, addr.String()+"/32")
}

func openNamespace() (int, error) {
	return unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// inPod gives the Pod its address and routes.
func inPod(addr string) error {
	link, err := up("eth0", addr)
	if err != nil {
		return err
	}
	via, err := netlink.ParseIPNet(gateway)
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: via, Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("route to the node: %w", err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.IP}); err != nil {
		return fmt.Errorf("default route of a pod: %w", err)
	}
	return nil
}

// onNode gives the node a route to the Pod.
func onNode(name, addr string) error {
	link, err := up(name, gateway)
	if err != nil {
		return err
	}
	to, err := netlink.ParseIPNet(addr)
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("route to a pod: %w", err)
	}
	return nil
}

func up(name, addr string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return nil, fmt.Errorf("address %s of %s: %w", addr, name, err)
	}
	return link, netlink.LinkSetUp(link)
}

func (n *podNetwork) enter() error { return unix.Setns(n.own, unix.CLONE_NEWNET) }

// listen makes a listening socket in the Pod. The thread goes back.
func (n *podNetwork) listen(addr netip.Addr, port int) (int, error) {
	if err := n.enter(); err != nil {
		return 0, err
	}
	defer func() { _ = unix.Setns(n.node, unix.CLONE_NEWNET) }()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: addr.As4(), Port: port}); err != nil {
		return 0, err
	}
	return socket, unix.Listen(socket, 64)
}

func setParameter(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
}
