//go:build guest

package conntrack

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

const (
	vip       = "10.96.0.10"
	endpointA = "10.0.2.2:5353"
	endpointB = "10.0.3.2:5353"
)

// router is the node, where the test runs, between a client and the endpoints
// a and b, which answer with their names:
//
//	client 10.0.1.2 ─ router ┬ a 10.0.2.2
//	                         └ b 10.0.3.2
type router struct {
	*Kernel
	t      *testing.T
	handle netns.NsHandle
	// clients are sockets connected to the virtual server, of a port each.
	clients [2]net.Conn
}

func newRouter(t *testing.T) *router {
	nstest.New(t)
	handle, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { handle.Close() })
	r := &router{t: t, handle: handle}
	if r.Kernel, err = Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	r.host("client", "10.0.1", r.dial)
	r.host("a", "10.0.2", func() { answer(t, "a") })
	r.host("b", "10.0.3", func() { answer(t, "b") })
	r.run("ipvsadm -C")
	r.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1 net.ipv4.vs.expire_nodest_conn=1")
	r.run("ip route add local " + vip + " dev lo")
	// IPVS alone does not make the namespace track connections: rules do. Those
	// of the table nat also keep entries from clashing, by changing ports.
	r.run("iptables -t nat -A POSTROUTING -s 127.0.0.1 -j MASQUERADE")
	return r
}

// host makes a host behind the router and runs fn in it.
func (r *router) host(name, network string, fn func()) {
	r.t.Helper()
	nstest.New(r.t)
	r.run("ip link add eth0 type veth peer name %s netns /proc/%d/fd/%d", name, os.Getpid(), r.handle)
	r.run("ip address add %s.2/24 dev eth0", network)
	r.run("ip link set eth0 up")
	r.run("ip route add default via %s.1", network)
	fn()
	if err := netns.Set(r.handle); err != nil {
		r.t.Fatal(err)
	}
	r.run("ip address add %s.1/24 dev %s", network, name)
	r.run("ip link set dev %s up", name)
}

func (r *router) run(format string, args ...any) {
	r.t.Helper()
	words := strings.Fields(fmt.Sprintf(format, args...))
	nstest.Run(r.t, words[0], words[1:]...)
}

func (r *router) dial() {
	for i := range r.clients {
		conn, err := net.DialUDP("udp", &net.UDPAddr{Port: 4000 + i}, &net.UDPAddr{IP: net.ParseIP(vip), Port: 53})
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { conn.Close() })
		r.clients[i] = conn
	}
}

// answer answers every packet with a name until the test ends.
func answer(t *testing.T, name string) {
	conn, err := net.ListenPacket("udp", ":5353")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		for buffer := make([]byte, 100); ; {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(name), from)
		}
	}()
}

// ask sends one packet from a client's socket and returns who answered, from
// the address and port that was asked; "" where nobody did.
func (r *router) ask(client int) string {
	conn, buffer := r.clients[client], make([]byte, 100)
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := conn.Write([]byte("?")); err != nil {
		return ""
	}
	n, err := conn.Read(buffer)
	if err != nil {
		return ""
	}
	return string(buffer[:n])
}

// want fails unless the client is answered by who within some packets.
func (r *router) want(client int, who string) {
	r.t.Helper()
	var got []string
	for range 10 {
		got = append(got, r.ask(client))
		if got[len(got)-1] == who {
			return
		}
	}
	r.t.Fatalf("client %d is answered by %q, want %s\n%s%s", client, got, who, listed(r.t), nstest.Run(r.t, "ipvsadm", "-Lnc"))
}

// wantNobody fails if one of some packets is answered.
func (r *router) wantNobody(client int) {
	r.t.Helper()
	for range 3 {
		if got := r.ask(client); got != "" {
			r.t.Fatalf("client %d is answered by %s, want nobody\n%s", client, got, listed(r.t))
		}
	}
}

func (r *router) wantTable(want string) {
	r.t.Helper()
	// IPVS ends connections in its workqueue, which a busy machine delays.
	deadline := time.Now().Add(30 * time.Second)
	for listed(r.t) != want && time.Now().Before(deadline) {
		<-time.After(20 * time.Millisecond)
	}
	if got := listed(r.t); got != want {
		r.t.Errorf("the table is\n%swant\n%s%s", got, want, nstest.Run(r.t, "ipvsadm", "-Lnc"))
	}
}

func (r *router) delete(want int, flows ...Flow) {
	r.t.Helper()
	if n, err := r.Delete(flows); err != nil || n != want {
		r.t.Errorf("Delete = %d, %v, want %d", n, err, want)
	}
}

const (
	flowA    = "udp src=10.0.1.2 dst=10.96.0.10 sport=4000 dport=53 src=10.0.2.2 dst=10.0.1.2 sport=5353 dport=4000\n"
	flowB    = "udp src=10.0.1.2 dst=10.96.0.10 sport=4001 dport=53 src=10.0.3.2 dst=10.0.1.2 sport=5353 dport=4001\n"
	movedToB = "udp src=10.0.1.2 dst=10.96.0.10 sport=4000 dport=53 src=10.0.3.2 dst=10.0.1.2 sport=5353 dport=4000\n"
)

// serve makes the virtual server, with a client at each endpoint.
func (r *router) serve() {
	r.t.Helper()
	r.run("ipvsadm -A -u %s:53 -s rr", vip)
	r.run("ipvsadm -a -u %s:53 -r %s -m", vip, endpointA)
	r.want(0, "a")
	r.run("ipvsadm -a -u %s:53 -r %s -m -w 1", vip, endpointB)
	r.run("ipvsadm -e -u %s:53 -r %s -m -w 0", vip, endpointA)
	r.want(1, "b")
	r.want(0, "a") // weight 0 ends nothing
	r.wantTable(flowA + flowB)
}

// A client keeps one socket. When its endpoint is removed IPVS ends its
// connection and the entry with it, and the other endpoint answers; the flow
// there keeps its entry. Delete finds nothing to do, and does no harm.
func TestIPVSMovesTheClientsOfAnEndpointThatIsGone(t *testing.T) {
	r := newRouter(t)
	r.serve()
	r.run("ipvsadm -d -u %s:53 -r %s", vip, endpointA)
	r.wantTable(flowB)
	r.delete(0, flowOf(inet.UDP, vip+":53", endpointA))
	r.want(0, "b")
	r.want(1, "b")
	r.wantTable(movedToB + flowB)
}

// Deleting the entry of a connection that IPVS still has interrupts nothing,
// and moves nobody: the next packet makes the entry again.
func TestTheConnectionOfIPVSDecides(t *testing.T) {
	r := newRouter(t)
	r.serve()
	r.delete(1, flowOf(inet.UDP, vip+":53", endpointA))
	r.wantTable(flowB)
	r.want(0, "a")
	r.wantTable(flowA + flowB)

	r.run("sysctl -qw net.ipv4.vs.expire_nodest_conn=0")
	r.run("ipvsadm -d -u %s:53 -r %s", vip, endpointA)
	r.delete(1, flowOf(inet.UDP, vip+":53", endpointA))
	r.wantNobody(0)
	r.run("sysctl -qw net.ipv4.vs.expire_nodest_conn=1")
	r.want(0, "b")
}

// An entry from before the Service, when the packets were routed onwards, makes
// the endpoint's answers come from a wrong port.
func TestEntryFromBeforeTheService(t *testing.T) {
	r := newRouter(t)
	r.run("ip route del local %s dev lo", vip)
	r.run("ip route add default via 10.0.3.2")
	r.wantNobody(0)
	r.run("ip route add local %s dev lo", vip)
	r.run("ipvsadm -A -u %s:53 -s rr", vip)
	r.run("ipvsadm -a -u %s:53 -r %s -m", vip, endpointA)
	r.wantNobody(0)
	r.want(1, "a")
	r.delete(1, Flow{Protocol: inet.UDP, Virtual: port(vip + ":53")})
	r.want(0, "a")
}

// A virtual server without real servers refuses, which leaves no entry, so that
// the first endpoint is reached at once.
func TestFirstEndpoint(t *testing.T) {
	r := newRouter(t)
	r.run("ipvsadm -A -u %s:53 -s rr", vip)
	r.wantNobody(0)
	r.wantTable("")
	r.run("ipvsadm -a -u %s:53 -r %s -m", vip, endpointA)
	r.want(0, "a")
}

// Entries that another proxy's DNAT left lead past IPVS.
func TestEntryOfAnotherProxy(t *testing.T) {
	r := newRouter(t)
	r.run("iptables -t nat -A PREROUTING -p udp -d %s --dport 53 -j DNAT --to-destination %s", vip, endpointA)
	r.want(0, "a")
	r.run("iptables -t nat -F PREROUTING")
	r.run("ipvsadm -A -u %s:53 -s rr", vip)
	r.run("ipvsadm -a -u %s:53 -r %s -m", vip, endpointB)
	r.want(1, "b")
	r.run("ip link set dev a down")
	r.wantNobody(0)
	r.delete(1, flowOf(inet.UDP, vip+":53", endpointA))
	r.want(0, "b")
	r.wantTable(movedToB + flowB)
}
