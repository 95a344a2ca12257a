package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The ways that connections are made: to a Pod that no policy isolates, and to
// one that is isolated and whose last policy allows the client.
const (
	unaffected = "unaffected"
	affected   = "affected"
)

// order is a line to a connecting process: that many connections to a Pod.
type order struct {
	Pair  string `json:"pair"`
	Count int    `json:"count"`
}

// connector is the process that has a node's network namespace with rules in
// force, a client, and two servers.
type connector struct {
	client  *podNetwork
	servers map[string]unix.SockaddrInet4
	listens map[string]int // file descriptors
}

// serveConnections prepares the network of a layout and then makes the
// connections that it is asked for. Its first answer is the time that
// programming took, the others are the times of connections.
func serveConnections(ctx context.Context, l layout, in io.Reader, out io.Writer) error {
	runtime.LockOSThread() // the thread moves into the client's namespace in the end
	w, client, servers := connectWorkload(l)
	c := &connector{servers: map[string]unix.SockaddrInet4{}, listens: map[string]int{}}
	if err := sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	var err error
	if c.client, err = newPodNetwork(client.ip, 0); err != nil {
		return err
	}
	port := firstPort + max(l.perPod, 1) - 1
	for name, p := range servers {
		network, err := newPodNetwork(p.ip, len(c.servers)+1)
		if err != nil {
			return err
		}
		if c.listens[name], err = network.listen(p.ip, port); err != nil {
			return err
		}
		c.servers[name] = unix.SockaddrInet4{Addr: p.ip.As4(), Port: port}
	}
	took, err := l.program(ctx, w)
	if err != nil {
		return err
	}
	answers := json.NewEncoder(out)
	if err := answers.Encode(took); err != nil {
		return err
	}
	if err := c.client.enter(); err != nil {
		return err
	}
	for orders := json.NewDecoder(in); ; {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		times, err := c.connect(o)
		if err != nil {
			return err
		}
		if err := answers.Encode(times); err != nil {
			return err
		}
	}
}

// connectWorkload is the layout's cluster, in which the client and the servers
// are among this node's Pods.
func connectWorkload(l layout) (w *workload, client pod, servers map[string]pod) {
	w = standard(l.policies, max(l.perPod, 1))
	extra := func(namespace, name string, i int, labels map[string]string) pod {
		p := pod{namespace: namespace, name: name, node: localNode, labels: labels, ip: podAddr(0, podsPerNode+i)}
		w.pods = append(w.pods, p)
		return p
	}
	w.namespaces = append(w.namespaces, namespace{"free", nil})
	client = extra(namespaceName(0), "client", 0, map[string]string{"app": "client", "tier": only(l.perPod - 1)})
	servers = map[string]pod{affected: w.pods[0], unaffected: extra("free", "server", 1, map[string]string{"app": "server"})}
	return w, client, servers
}

// connect makes connections one after the other. The handshake needs no other
// process: the kernel of the server answers within the client's system call.
func (c *connector) connect(o order) ([]time.Duration, error) {
	to, listener := c.servers[o.Pair], c.listens[o.Pair]
	times := make([]time.Duration, 0, o.Count)
	for len(times) < o.Count {
		took, err := connectOnce(&to, listener)
		if errors.Is(err, unix.EINTR) {
			continue // a signal of Go's scheduler: another one, from the start
		}
		if err != nil {
			return nil, fmt.Errorf("connecting to the %s pod: %w", o.Pair, err)
		}
		times = append(times, took)
	}
	return times, nil
}

func connectOnce(to *unix.SockaddrInet4, listener int) (time.Duration, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(socket)
	// A reset ends the connection, so that no port is left waiting.
	if err := unix.SetsockoptLinger(socket, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, err
	}
	// No answer is an error after this time.
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := unix.Connect(socket, to); err != nil {
		return 0, err
	}
	took := time.Since(began)
	accepted, _, err := unix.Accept(listener)
	if err != nil {
		return 0, err
	}
	return took, unix.Close(accepted)
}

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

func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
}
