//go:build guest

package services

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// network is a cluster's network of real namespaces:
//
//	pods a, b ─ kube-bridge ─ n1 ─┐
//	                pod c ─── n2 ─┼─ switch ─ outside
//
// The controller runs in n1. outside and the Pods know no way to each other,
// but by the nodes.
type network struct {
	t     *testing.T
	hosts map[string]*host
}

// host is a namespace with one address that counts.
type host struct {
	*nstest.Namespace
	t      *testing.T
	name   string
	addr   netip.Addr
	handle netns.NsHandle
	links  *netlink.Handle
}

// The addresses of the network.
const (
	n1Addr, n2Addr, outsideAddr = "192.168.7.11", "192.168.7.12", "192.168.7.100"
	aAddr, bAddr, cAddr         = "10.244.1.2", "10.244.1.3", "10.244.2.2"
)

func newNetwork(t *testing.T) *network {
	n := &network{t: t, hosts: map[string]*host{}}
	for _, h := range []struct{ name, addr string }{
		{"switch", "192.168.7.1"}, {"outside", outsideAddr}, {"a", aAddr}, {"b", bAddr}, {"c", cAddr}, {"n2", n2Addr}, {"n1", n1Addr},
	} {
		n.hosts[h.name] = newHost(t, h.name, h.addr)
	}
	n.hosts["switch"].bridge("br0", "192.168.7.1/24")
	n.hosts["n1"].bridge("kube-bridge", "10.244.1.1/24")
	n.hosts["n2"].bridge("kube-bridge", "10.244.2.1/24")
	for _, name := range []string{"n1", "n2", "outside"} {
		n.join("switch", "br0", name, "192.168.7.0/24")
	}
	for _, pod := range []struct{ name, node, gateway string }{{"a", "n1", "10.244.1.1"}, {"b", "n1", "10.244.1.1"}, {"c", "n2", "10.244.2.1"}} {
		n.join(pod.node, "kube-bridge", pod.name, pod.gateway+"/24")
		n.hosts[pod.name].route("0.0.0.0/0", pod.gateway)
	}
	n.hosts["n1"].route("10.244.2.0/24", n2Addr)
	n.hosts["n2"].route("10.244.1.0/24", n1Addr)
	n.hosts["n2"].run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	return n
}

func newHost(t *testing.T, name, addr string) *host {
	h := &host{Namespace: nstest.New(t), t: t, name: name, addr: netip.MustParseAddr(addr)}
	var err error
	if h.handle, err = netns.Get(); err != nil {
		t.Fatal(err)
	}
	if h.links, err = netlink.NewHandleAt(h.handle); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.links.Close(); h.handle.Close() })
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
}

func (h *host) bridge(name, addr string) {
	h.must(h.links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	h.up(name, addr)
}

func (h *host) up(link, addr string) {
	l, err := h.links.LinkByName(link)
	h.must(err)
	if addr != "" {
		a, err := netlink.ParseAddr(addr)
		h.must(err)
		h.must(h.links.AddrAdd(l, a))
	}
	h.must(h.links.LinkSetUp(l))
}

// join connects a host to a port of a bridge. The port is not in hairpin mode:
// what a Pod sends to itself through a Service is routed, and comes back to it
// from the bridge itself.
func (n *network) join(owner, bridge, name, network string) {
	o, h := n.hosts[owner], n.hosts[name]
	port := netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "to-" + name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(h.handle)),
	}
	h.must(o.links.LinkAdd(&port))
	br, err := o.links.LinkByName(bridge)
	h.must(err)
	l, err := o.links.LinkByName(port.Name)
	h.must(err)
	h.must(o.links.LinkSetMaster(l, br))
	h.must(o.links.LinkSetUp(l))
	prefix := netip.MustParsePrefix(network)
	h.up("eth0", netip.PrefixFrom(h.addr, prefix.Bits()).String())
}

func (h *host) route(dst, via string) {
	_, ipNet, err := net.ParseCIDR(dst)
	h.must(err)
	h.must(h.links.RouteAdd(&netlink.Route{Dst: ipNet, Gw: net.ParseIP(via)}))
}

// in runs fn in the host's namespace and waits for it.
func (h *host) in(fn func()) {
	done := make(chan struct{})
	h.Go(h.t, func() { defer close(done); fn() })
	<-done
}

func (h *host) run(name string, args ...string) string {
	h.t.Helper()
	var out []byte
	var err error
	h.in(func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		h.t.Fatalf("%s: %s %q: %v\n%s", h.name, name, args, err, out)
	}
	return string(out)
}

// serve answers on a TCP and a UDP port, at all addresses, with the host's name
// and the client's address, as it sees it.
func (h *host) serve(port int) { h.t.Helper(); h.serveAt(fmt.Sprintf(":%d", port)) }

// serveAt is serve at one address. A host with several needs that for UDP, or
// it answers with the address that is best for the way back.
func (h *host) serveAt(address string) {
	h.t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	var err1, err2 error
	h.in(func() {
		version := "4"
		if strings.HasPrefix(address, "[") {
			version = "6"
		}
		tcp, err1 = net.Listen("tcp"+version, address)
		udp, err2 = net.ListenPacket("udp"+version, address)
	})
	h.must(err1)
	h.must(err2)
	h.t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go h.talk(conn)
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo([]byte(h.answer(from)), from)
		}
	}()
}

// talk answers each line, so that a connection can be asked who it is to.
func (h *host) talk(conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, 100)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
		conn.Write([]byte(h.answer(conn.RemoteAddr())))
	}
}

func (h *host) answer(from net.Addr) string {
	ip, _, _ := net.SplitHostPort(from.String())
	return h.name + " sees " + ip
}

// hangUp serves a TCP port and closes each connection first, so that the
// client has no TIME_WAIT and may use its port again at once.
func (h *host) hangUp(port int) {
	h.t.Helper()
	var tcp net.Listener
	var err error
	h.in(func() { tcp, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)) })
	h.must(err)
	h.t.Cleanup(func() { tcp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
}

// dial opens a connection from the host, until the end of the test.
func (h *host) dial(network, to string) (net.Conn, error) {
	conn, err := h.dialOnce(network, to)
	if err == nil {
		h.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

func (h *host) dialOnce(network, to string) (conn net.Conn, err error) {
	h.in(func() { conn, err = (&net.Dialer{Timeout: 3 * time.Second}).Dial(network, to) })
	return conn, err
}

// ping sends an ICMP echo request (RFC 792).
func (h *host) ping(to string) string {
	conn, err := h.dial("ip4:icmp", to)
	if err != nil {
		return err.Error()
	}
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Write([]byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}); err != nil {
		return err.Error()
	}
	buf := make([]byte, 100)
	for {
		// ReadFrom, unlike Read, leaves the IP header out.
		if _, _, err := conn.(net.PacketConn).ReadFrom(buf); err != nil {
			return err.Error()
		}
		switch buf[0] {
		case 0:
			return "echo reply"
		case 3:
			return "unreachable"
		}
	}
}

// ask is what the other end of a connection answers, or the error.
func ask(conn net.Conn) string {
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Write([]byte("who")); err != nil {
		return errorText(err)
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		return errorText(err)
	}
	return string(buf[:n])
}

// get connects and asks once.
func (h *host) get(network, to string) string {
	conn, err := h.dialOnce(network, to)
	if err != nil {
		return errorText(err)
	}
	defer conn.Close()
	return ask(conn)
}

func errorText(err error) string {
	for _, what := range []string{"refused", "timeout", "reset", "no route", "unreachable"} {
		if strings.Contains(err.Error(), what) {
			return what
		}
	}
	return err.Error()
}

// answers asks as often as is needed for rr to go round n servers and returns
// the different answers, sorted.
func (h *host) answers(network, to string, n int) string {
	return strings.Join(unique(2*n, func() string { return h.get(network, to) }), ", ")
}

// unique are the different results of n calls, sorted.
func unique(n int, next func() string) []string {
	seen := map[string]bool{}
	var list []string
	for range n {
		if s := next(); !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	slices.Sort(list)
	return list
}
