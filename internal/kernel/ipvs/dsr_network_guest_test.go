//go:build guest

package ipvs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// network is two nodes with Pods, and a client outside, in namespaces:
//
//	a, a2 ─ kube-bridge ─ n1 ─┐
//	b, b2 ─ kube-bridge ─ n2 ─┼─ switch ─ client
//
// All links have an MTU of 1500 and no segmentation offload, so that nothing
// larger is anywhere. The client sends to VIPs through n1, and has no routes to
// Pods.
type network struct {
	family
	t     *testing.T
	hosts map[string]*host
}

// family is what differs between the address families.
type family struct {
	inet.Family
	ip, iptables string
	hostBits     string            // of an address on the switch, with /
	podBits      string            // of the Pods of a node, with /
	addrs        map[string]string // of the hosts, and of kube-bridge
	podNets      map[string]string // of the nodes
	vip, vips    string            // an address for Services and its net
	sysctls      string
	// datagrams are sizes in bytes. With IPv4 they are small, one packet of
	// 1500, and many. With IPv6 the larger one just fits the tunnel: IPVS
	// refuses what a Pod sends in fragments, with and without DSR.
	datagrams []int
}

var families = []family{
	{
		Family: inet.IPv4, ip: "ip", iptables: "iptables-legacy", hostBits: "/24", podBits: "/24",
		addrs: map[string]string{
			"client": "192.168.7.100", "n1": "192.168.7.11", "n2": "192.168.7.12",
			"n1 bridge": "10.244.1.1", "a": "10.244.1.2", "a2": "10.244.1.3",
			"n2 bridge": "10.244.2.1", "b": "10.244.2.2", "b2": "10.244.2.3",
		},
		podNets: map[string]string{"n1": "10.244.1.0/24", "n2": "10.244.2.0/24"},
		vip:     "203.0.113.10", vips: "203.0.113.0/24",
		sysctls:   "net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1",
		datagrams: []int{1, 1500 - 20 - 8, 20000},
	},
	{
		Family: inet.IPv6, ip: "ip -6", iptables: "ip6tables-legacy", hostBits: "/64 nodad", podBits: "/64 nodad",
		addrs: map[string]string{
			"client": "fd00:7::100", "n1": "fd00:7::11", "n2": "fd00:7::12",
			"n1 bridge": "fd00:244:1::1", "a": "fd00:244:1::2", "a2": "fd00:244:1::3",
			"n2 bridge": "fd00:244:2::1", "b": "fd00:244:2::2", "b2": "fd00:244:2::3",
		},
		podNets: map[string]string{"n1": "fd00:244:1::/64", "n2": "fd00:244:2::/64"},
		vip:     "2001:db8:10::10", vips: "2001:db8:10::/64",
		sysctls:   "net.ipv6.conf.all.forwarding=1 net.ipv4.vs.conntrack=1",
		datagrams: []int{1, 1500 - 40 - 40 - 8},
	},
}

const (
	servicePort, targetPort = "80", "8080"
	large                   = 1 << 20 // bytes
)

func newNetwork(t *testing.T, f family) *network {
	n := &network{t: t, family: f, hosts: map[string]*host{}}
	for _, name := range []string{"switch", "client", "a", "a2", "b", "b2", "n1", "n2"} {
		n.hosts[name] = newHost(t, name)
	}
	n.hosts["switch"].sh("ip link add br0 type bridge; ip link set br0 up")
	for _, node := range []string{"n1", "n2"} {
		n.hosts[node].sh("ip link add kube-bridge type bridge; ip link set kube-bridge up; sysctl -qw " + f.sysctls)
		n.hosts[node].sh(f.ip + " address add " + f.addrs[node+" bridge"] + f.podBits + " dev kube-bridge")
		n.join("switch", "br0", node, f.hostBits)
	}
	n.join("switch", "br0", "client", f.hostBits)
	for pod, node := range map[string]string{"a": "n1", "a2": "n1", "b": "n2", "b2": "n2"} {
		n.join(node, "kube-bridge", pod, f.podBits)
		n.hosts[node].sh("bridge link set dev to-" + pod + " hairpin on")
		n.hosts[pod].sh(f.ip + " route add default via " + f.addrs[node+" bridge"])
	}
	n.route("n1", f.podNets["n2"], "n2")
	n.route("n2", f.podNets["n1"], "n1")
	n.route("client", f.vips, "n1")
	return n
}

func (n *network) route(host, dst, via string) {
	n.hosts[host].sh(n.ip + " route add " + dst + " via " + n.addrs[via])
}

func (n *network) join(owner, bridge, name, bits string) {
	const plain = " gso_max_segs 1"
	n.hosts[owner].sh(fmt.Sprintf("ip link add to-%s type veth peer name eth0 netns /proc/self/fd/3; "+
		"ip link set to-%s master %s up"+plain, name, name, bridge), n.hosts[name])
	n.hosts[name].sh(fmt.Sprintf("ip link set eth0 up"+plain+"; %s address add %s%s dev eth0", n.ip, n.addrs[name], bits))
}

// host is a namespace.
type host struct {
	*nstest.Namespace
	t      *testing.T
	name   string
	handle netns.NsHandle
}

func newHost(t *testing.T, name string) *host {
	h := &host{Namespace: nstest.New(t), t: t, name: name}
	var err error
	if h.handle, err = netns.Get(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.handle.Close() })
	return h
}

// in runs fn in the host's namespace and waits for it.
func (h *host) in(fn func()) {
	done := make(chan struct{})
	h.Go(h.t, func() { defer close(done); fn() })
	<-done
}

// sh runs commands. The namespace of another host is open as descriptor 3.
func (h *host) sh(script string, other ...*host) string {
	h.t.Helper()
	var out []byte
	var err error
	h.in(func() {
		cmd := exec.Command("sh", "-ec", script)
		for _, o := range other {
			cmd.ExtraFiles = append(cmd.ExtraFiles, o.file())
		}
		out, err = cmd.CombinedOutput()
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}
	})
	if err != nil {
		h.t.Fatalf("%s: %s: %v\n%s", h.name, script, err, out)
	}
	return string(out)
}

// echo serves TCP and UDP on a port and sends back what it gets; a TCP
// connection begins with "NAME sees CLIENT\n", a datagram, too.
func (h *host) echo(port string) {
	h.t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	var err1, err2 error
	h.in(func() {
		tcp, err1 = net.Listen("tcp", ":"+port)
		udp, err2 = net.ListenPacket("udp", ":"+port)
	})
	if err := errors.Join(err1, err2); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go h.echoStream(conn)
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(append([]byte(h.greeting(from)), buf[:n]...), from)
		}
	}()
}

func (h *host) echoStream(conn net.Conn) {
	defer conn.Close()
	_, _ = io.WriteString(conn, h.greeting(conn.RemoteAddr()))
	_, _ = io.Copy(conn, conn)
}

func (h *host) greeting(from net.Addr) string {
	return h.name + " sees " + from.(interface{ AddrPort() netip.AddrPort }).AddrPort().Addr().Unmap().String() + "\n"
}

func (h *host) dial(network, vip string) (conn net.Conn, err error) {
	h.in(func() {
		conn, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, net.JoinHostPort(vip, servicePort))
	})
	return conn, err
}

// stream sends size bytes over TCP and reads them back. It returns the
// greeting, or why that failed.
func (h *host) stream(vip string, size int) string {
	conn, err := h.dial("tcp", vip)
	if err != nil {
		return "no connection"
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	data := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	go func() {
		_, _ = conn.Write(data)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	greeting, rest, _ := bytes.Cut(got, []byte("\n"))
	if err != nil || !bytes.Equal(rest, data) {
		return fmt.Sprintf("%d of %d bytes came back", len(rest), len(data))
	}
	return string(greeting)
}

// datagram sends size bytes over UDP until they come back, at most 5 times: the
// first may only tell the sender the MTU of the path.
func (h *host) datagram(vip string, size int) string {
	conn, err := h.dial("udp", vip)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	buf := make([]byte, 1<<16)
	for range 5 {
		_, _ = conn.Write(make([]byte, size))
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(buf)
		if err == nil {
			greeting, rest, _ := strings.Cut(string(buf[:n]), "\n")
			if len(rest) != size {
				return fmt.Sprintf("%d of %d bytes came back", len(rest), size)
			}
			return greeting
		}
	}
	return "no answer"
}

// file is the namespace, open once more for a command.
func (h *host) file() *os.File {
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", int(h.handle)))
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}
