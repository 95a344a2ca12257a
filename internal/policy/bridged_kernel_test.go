//go:build kernel

package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// strayPort is where Pods and the node serve at all addresses.
const strayPort = 7777

// silence is how long nothing is taken for a packet that does not arrive.
const silence = 400 * time.Millisecond

// listen answers TCP at all addresses of IPv6.
func (s *site) listen(t *testing.T) {
	t.Helper()
	s.do(func() {
		tcp, err := net.ListenTCP("tcp6", &net.TCPAddr{Port: strayPort})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close() })
		go accept(tcp)
	})
}

// hear answers datagrams at all addresses of both families.
func (s *site) hear(t *testing.T) {
	t.Helper()
	s.do(func() {
		udp4, err4 := net.ListenUDP("udp4", &net.UDPAddr{Port: strayPort})
		udp6, err6 := net.ListenUDP("udp6", &net.UDPAddr{Port: strayPort})
		if err := errors.Join(err4, err6); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { udp4.Close(); udp6.Close() })
		go echo(udp4)
		go echo(udp6)
	})
}

// ask makes a connection to a literal address, or sends a datagram until it is
// answered by whoever, and says whether that came about.
func (s *site) ask(t *testing.T, protocol, address string) (answered bool) {
	t.Helper()
	to := netip.AddrPortFrom(netip.MustParseAddr(address), strayPort)
	s.do(func() {
		if protocol == "tcp" {
			c, err := net.DialTimeout("tcp", to.String(), silence)
			if answered = err == nil; answered {
				c.Close()
			}
			return
		}
		c, err := net.ListenUDP("udp", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		allowBroadcast(t, c)
		for end := time.Now().Add(silence); !answered && time.Now().Before(end); {
			if _, err := c.WriteToUDPAddrPort([]byte("?"), to); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(silence / 4))
			_, err = c.Read(make([]byte, 1))
			answered = !errors.Is(err, os.ErrDeadlineExceeded)
		}
	})
	return answered
}

func allowBroadcast(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1) }); err != nil {
		t.Fatal(err)
	}
}

// linkLocalOf is a link's IPv6 link-local address, as another site writes it:
// with the number of its own link.
func (s *site) linkLocalOf(t *testing.T, name string) func(from *site) string {
	t.Helper()
	var addr netip.Addr
	s.do(func() {
		for field := range strings.FieldsSeq(nstest.Run(t, "ip", "-o", "-6", "addr", "show", "dev", name, "scope", "link")) {
			if prefix, err := netip.ParsePrefix(field); err == nil {
				addr = prefix.Addr()
			}
		}
	})
	return func(from *site) (text string) {
		from.do(func() { text = addr.WithZone(fmt.Sprint(linkNumber(t, "eth0"))).String() })
		return text
	}
}

func linkNumber(t *testing.T, name string) int {
	t.Helper()
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Index
}

// In a cluster of IPv4 alone and in one of both families, Pods reach an isolated
// Pod of their bridge, and an isolated Pod its node, neither by link-local
// addresses nor by multicast or broadcast; what is not isolated is reached as
// ever by its own address, whose neighbour has to be found first.
func TestStraysOnTheBridge(t *testing.T) {
	variants(t, func(t *testing.T, n *network) {
		n.both(t, "-P", "FORWARD", "ACCEPT") // what arrives shall be up to policies
		n.both(t, "-P", "INPUT", "ACCEPT")
		client, server, free := n.pods[0], n.pods[1], n.pods[2]
		for _, s := range []*site{server, free} {
			s.listen(t)
			s.hear(t)
		}
		n.node1.listen(t)
		toServer, toNode := server.linkLocalOf(t, "eth0")(client), n.node1.linkLocalOf(t, "br0")(client)
		multicast6 := "ff02::1%" + toServer[strings.Index(toServer, "%")+1:]
		for _, families := range [][]inet.Family{{inet.IPv4}, {inet.IPv4, inet.IPv6}} {
			n.agent(t, families...)
			for _, s := range []*site{client, server, free} {
				pod := newPod("default", s.name, "node1", "", "name="+s.name)
				pod.IPs = append(pod.IPs, s.addrs[:len(families)]...)
				n.pod(pod)
			}
			expect := func(when string, strays bool) {
				t.Helper()
				n.settle(t)
				for _, to := range []struct {
					protocol, address string
					want              bool
				}{
					{"tcp", toServer, strays}, {"udp", toServer, strays}, {"udp", multicast6, strays}, {"tcp", toNode, strays},
					{"udp", "224.0.0.1", strays}, {"udp", "10.244.1.255", strays}, {"udp", "255.255.255.255", strays},
					{"udp", free.addrs[0].String(), true}, {"udp", free.addrs[1].String(), true}, {"tcp", free.addrs[1].String(), true},
				} {
					client.run(t, "neigh flush dev eth0")
					if got := client.ask(t, to.protocol, to.address); got != to.want {
						t.Errorf("%v, %s: %s to %s is answered: %v\n%s", families, when, to.protocol, to.address, got,
							nstest.Run(t, n.tool(inet.IPv6, "save"), "-c", "-t", "filter"))
					}
				}
			}
			expect("no Pod is isolated", true)
			n.policy(&cluster.NetworkPolicy{
				Meta: cluster.Meta{Key: cluster.Key{Namespace: "default", Name: "in"}},
				Pods: selects("name=" + server.name), IsolatesIngress: true,
			})
			expect("one is", false)
			for family, rules := range n.c.rules {
				if repaired, err := rules.Resync(t.Context(), RulesOwner); repaired != 0 || err != nil {
					t.Errorf("%v: the rules of %s are not read back as written: %d (%v)", families, family, repaired, err)
				}
			}
			n.feeds.NetworkPolicies.Delete(cluster.Key{Namespace: "default", Name: "in"})
			expect("no Pod is any more", true)
		}
	})
}
