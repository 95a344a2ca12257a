//go:build kernel

package policy

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
)

// cutting replaces the network's agent by one that cuts flows.
func (n *network) cutting(t *testing.T) {
	t.Helper()
	flows, err := conntrack.Open()
	if err != nil {
		t.Fatal(err)
	}
	sets, err := ipset.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flows.Close(); sets.Close() })
	config := n.c.config
	config.CutFlows = true
	n.c = New(config, n.feeds, Drivers{Sets: sets, Rules: n.c.rules, Sysctl: n.c.sysctl, Modules: n.c.modules, Flows: flows, Bridges: n.c.look,
		HostAddrs: func() ([]netip.Addr, error) { return nodeAddrs["node1"], nil }}, slog.New(slog.DiscardHandler))
}

// talk is an established flow, seen from both ends. A datagram socket of the
// server is connected too, so that it hears of refusals.
type talk struct {
	name           string
	client, server net.Conn
}

const talkPort = 7777

// talk makes a flow between two sites and lets both ends speak.
func (n *network) talk(t *testing.T, network string, from, to *site, family inet.Family) *talk {
	t.Helper()
	n.nextPort++
	src, dst := netip.AddrPortFrom(addrOf(from, family), n.nextPort), netip.AddrPortFrom(addrOf(to, family), talkPort+n.nextPort)
	k := &talk{name: fmt.Sprintf("%s %s -> %s", network, src, dst)}
	var err, err2 error
	if network == "udp" {
		from.do(func() { k.client, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(src), net.UDPAddrFromAddrPort(dst)) })
		to.do(func() {
			k.server, err2 = net.DialUDP("udp", net.UDPAddrFromAddrPort(dst), net.UDPAddrFromAddrPort(src))
		})
	} else {
		var l *net.TCPListener
		to.do(func() { l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(dst)) })
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		from.do(func() {
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(src), Timeout: patience}
			k.client, err = d.Dial("tcp", dst.String())
		})
		if err == nil {
			k.server, err2 = l.Accept()
		}
	}
	if err := errors.Join(err, err2); err != nil {
		t.Fatalf("%s: %v", k.name, err)
	}
	t.Cleanup(func() { k.client.Close(); k.server.Close() })
	k.goesOn(t, "at first")
	return k
}

func addrOf(s *site, family inet.Family) netip.Addr {
	return s.addrs[slices.IndexFunc(s.addrs, func(a netip.Addr) bool { return inet.FamilyOf(a) == family })]
}

// say sends a word from one end to the other. What is refused is an error that
// one of the two ends hears.
func say(from, to net.Conn) error {
	if _, err := from.Write([]byte("word")); err != nil {
		return err
	}
	end := time.Now().Add(patience)
	for time.Now().Before(end) {
		for _, c := range []net.Conn{to, from} {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			switch n, err := c.Read(make([]byte, 64)); {
			case n > 0 && c == to:
				return nil
			case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
				return err
			}
		}
	}
	return os.ErrDeadlineExceeded
}

// goesOn holds the flow to pass in both directions.
func (k *talk) goesOn(t *testing.T, when string) {
	t.Helper()
	if err := errors.Join(say(k.client, k.server), say(k.server, k.client)); err != nil {
		t.Errorf("%s: %s does not go on: %v", when, k.name, err)
	}
}

// ends holds the flow to be refused at once to both ends, whoever speaks first.
func (k *talk) ends(t *testing.T, serverFirst bool) {
	t.Helper()
	ends := []net.Conn{k.client, k.server}
	if serverFirst {
		slices.Reverse(ends)
	}
	for _, c := range ends {
		err := refusal(c)
		if !slices.ContainsFunc([]error{syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPERM}, func(e error) bool { return errors.Is(err, e) }) {
			t.Errorf("%s (server first: %v): %v, want a refusal", k.name, serverFirst, err)
		}
	}
}

// refusal is what an end hears when it speaks: again and again, as a refusal may
// be lost where the node has to find its neighbour first. What is sent by the
// host itself is refused to its face (EPERM).
func refusal(c net.Conn) error {
	for end := time.Now().Add(patience); ; {
		if _, err := c.Write([]byte("word")); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(patience / 20))
		n, err := c.Read(make([]byte, 64))
		if n > 0 {
			return errors.New("the other end was heard")
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(end) {
			return err
		}
	}
}

// Established flows that a new policy forbids end, whichever side speaks
// first: on the bridge, behind a route, to the outside, and to the node. Those
// that it allows go on, and so do those of the node.
func TestEstablishedFlows(t *testing.T) {
	variants(t, func(t *testing.T, n *network) {
		n.cutting(t)
		for i, s := range n.pods {
			node := map[bool]string{true: "node1", false: "node2"}[i < 4]
			p := newPod("red", s.name, node, "", "name="+s.name)
			p.IPs = s.addrs
			n.pod(p)
		}
		n.namespace(newNamespace("red", ""))
		n.settle(t)
		if err := n.c.cut(); err != nil {
			t.Fatal(err)
		}
		type judgedTalk struct {
			*talk
			serverFirst bool
		}
		var ending []judgedTalk
		var staying []*talk
		for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
			for _, network := range []string{"tcp", "udp"} {
				for _, serverFirst := range []bool{false, true} {
					for _, pair := range [][2]*site{
						{n.pods[1], n.pods[0]}, {n.pods[5], n.pods[0]}, {n.outside, n.pods[0]},
						{n.pods[0], n.outside}, {n.pods[0], n.pods[5]}, {n.pods[0], n.node1},
					} {
						ending = append(ending, judgedTalk{n.talk(t, network, pair[0], pair[1], family), serverFirst})
					}
				}
				for _, pair := range [][2]*site{{n.pods[2], n.pods[0]}, {n.pods[4], n.pods[0]}, {n.pods[0], n.pods[2]}, {n.node1, n.pods[0]}, {n.pods[1], n.pods[3]}} {
					staying = append(staying, n.talk(t, network, pair[0], pair[1], family))
				}
			}
		}
		friends := []cluster.PolicyRule{{Peers: []cluster.PolicyPeer{{Pods: selects("name in (pod2, pod4)")}}, AnyPort: true}}
		n.policy(&cluster.NetworkPolicy{
			Meta: cluster.Meta{Key: cluster.Key{Namespace: "red", Name: "friends"}}, Pods: selects("name=pod0"),
			IsolatesIngress: true, IsolatesEgress: true, Ingress: friends, Egress: friends,
		})
		n.settle(t)
		for _, k := range staying {
			k.goesOn(t, "before the cut")
		}
		if err := n.c.cut(); err != nil {
			t.Fatal(err)
		}
		if got := n.c.FlowsCut(); got != uint64(len(ending)) {
			t.Errorf("%d flows were cut, want %d", got, len(ending))
		}
		for _, k := range ending {
			k.ends(t, k.serverFirst)
		}
		for _, k := range staying {
			k.goesOn(t, "after the cut")
		}
		n.policy(&cluster.NetworkPolicy{
			Meta: cluster.Meta{Key: cluster.Key{Namespace: "red", Name: "all"}}, Pods: labels.Everything(),
			IsolatesIngress: true, IsolatesEgress: true,
			Ingress: []cluster.PolicyRule{{AnyPeer: true, AnyPort: true}}, Egress: []cluster.PolicyRule{{AnyPeer: true, AnyPort: true}},
		})
		n.settle(t)
		if err := n.c.cut(); err != nil {
			t.Fatal(err)
		}
		for _, k := range ending {
			if k.client.LocalAddr().Network() == "udp" {
				_, _ = say(k.client, k.server), say(k.server, k.client) // hears of refusals of before
				k.goesOn(t, "allowed again")
			}
		}
	})
}
