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

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// network is two nodes with Pods, and a client outside, in namespaces:
//
//	a, a2 ─ kube-bridge ─ n1 ─┐
//	b, b2 ─ kube-bridge ─ n2 ─┼─ switch ─ client
//
// All links have an MTU of 1500. The client sends to VIPs through n1, and
// reaches n2 and the Pods of neither.
type network struct {
	t     *testing.T
	hosts map[string]*host
}

// The addresses of the network.
const (
	clientAddr, n1Addr, n2Addr     = "192.168.7.100", "192.168.7.11", "192.168.7.12"
	aAddr, a2Addr, bAddr, b2Addr   = "10.244.1.2", "10.244.1.3", "10.244.2.2", "10.244.2.3"
	vip                            = "203.0.113.10"
	servicePort, targetPort, large = "80", "8080", 1 << 20
)

func newNetwork(t *testing.T) *network {
	n := &network{t: t, hosts: map[string]*host{}}
	for _, name := range []string{"switch", "client", "a", "a2", "b", "b2", "n1", "n2"} {
		n.hosts[name] = newHost(t, name)
	}
	n.hosts["switch"].sh("ip link add br0 type bridge; ip link set br0 up")
	for node, subnet := range map[string]string{"n1": "10.244.1", "n2": "10.244.2"} {
		n.hosts[node].sh("ip link add kube-bridge type bridge; ip address add " + subnet + ".1/24 dev kube-bridge; ip link set kube-bridge up")
		n.hosts[node].sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1")
	}
	n.join("switch", "br0", "n1", n1Addr+"/24")
	n.join("switch", "br0", "n2", n2Addr+"/24")
	n.join("switch", "br0", "client", clientAddr+"/24")
	for name, addr := range map[string]string{"a": aAddr, "a2": a2Addr, "b": bAddr, "b2": b2Addr} {
		node, gateway := "n1", "10.244.1.1"
		if name[0] == 'b' {
			node, gateway = "n2", "10.244.2.1"
		}
		n.join(node, "kube-bridge", name, addr+"/24")
		n.hosts[node].sh("bridge link set dev to-" + name + " hairpin on")
		n.hosts[name].sh("ip route add default via " + gateway)
	}
	n.hosts["n1"].sh("ip route add 10.244.2.0/24 via " + n2Addr)
	n.hosts["n2"].sh("ip route add 10.244.1.0/24 via " + n1Addr)
	n.hosts["client"].sh("ip route add 203.0.113.0/24 via " + n1Addr)
	return n
}

func (n *network) join(owner, bridge, name, addr string) {
	n.hosts[owner].sh(fmt.Sprintf("ip link add to-%s type veth peer name eth0 netns /proc/self/fd/3; "+
		"ip link set to-%s master %s up", name, name, bridge), n.hosts[name])
	n.hosts[name].sh("ip address add " + addr + " dev eth0; ip link set eth0 up")
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
		tcp, err1 = net.Listen("tcp4", ":"+port)
		udp, err2 = net.ListenPacket("udp4", ":"+port)
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

func (h *host) dial(network string) (conn net.Conn, err error) {
	h.in(func() {
		conn, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, net.JoinHostPort(vip, servicePort))
	})
	return conn, err
}

// stream sends size bytes over TCP and reads them back. It returns the
// greeting, or why that failed.
func (h *host) stream(size int) string {
	conn, err := h.dial("tcp4")
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
func (h *host) datagram(size int) string {
	conn, err := h.dial("udp4")
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
