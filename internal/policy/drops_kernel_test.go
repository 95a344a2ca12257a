//go:build kernel

package policy

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"

	"github.com/kube-router/kube-router/internal/cluster"
)

// Of nfnetlink_log's messages and attributes (linux/netfilter/nfnetlink_log.h).
const (
	logPacket     = unix.NFNL_SUBSYS_ULOG << 8
	logConfig     = unix.NFNL_SUBSYS_ULOG<<8 | 1
	logCommand    = 1 // attribute; its value 1 binds
	logMode       = 2 // attribute; mode 2 copies packets
	logPayload    = 9
	logGroup      = 100
	headerAndMore = 64 // bytes of a packet that are copied
)

// listen gets what is logged to the group in this namespace.
func listen(t *testing.T) *netlink.Conn {
	t.Helper()
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for _, attribute := range []netlink.Attribute{
		{Type: logCommand, Data: []byte{1}}, {Type: logMode, Data: []byte{0, 0, 0, headerAndMore, 2, 0}},
	} {
		body, err := netlink.MarshalAttributes([]netlink.Attribute{attribute})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: logConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, logGroup}, body...),
		}); err != nil {
			t.Fatalf("binding the group: %v", err)
		}
	}
	return c
}

// logged returns the source and destination of the packets that were logged,
// IPv4's, until no more come.
func logged(t *testing.T, c *netlink.Conn) map[[2]netip.Addr]int {
	t.Helper()
	packets := map[[2]netip.Addr]int{}
	for {
		// They are passed on when as many have come as the kernel collects, or a
		// second after the first.
		_ = c.SetReadDeadline(time.Now().Add(patience))
		messages, err := c.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return packets
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.Header.Type != logPacket || len(m.Data) < 4 {
				continue
			}
			attributes, err := netlink.UnmarshalAttributes(m.Data[4:])
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range attributes {
				if a.Type == logPayload && len(a.Data) >= 20 {
					packets[[2]netip.Addr{netip.AddrFrom4([4]byte(a.Data[12:])), netip.AddrFrom4([4]byte(a.Data[16:]))}]++
				}
			}
		}
	}
}

// Of the packets that are denied all are counted, by the policies that isolate
// the Pod, and ten at once go to NFLOG's group 100; what passes is neither.
func TestDeniedPackets(t *testing.T) {
	variants(t, func(t *testing.T, n *network) {
		for i, s := range n.pods[:4] {
			p := newPod("red", s.name, "node1", s.addrs[0].String(), "name="+s.name)
			n.pod(p)
			if i == 0 {
				n.policy(denyIngress("red"))
			}
		}
		n.namespace(newNamespace("red", ""))
		n.settle(t)
		if _, err := n.c.Drops(t.Context()); err != nil {
			t.Fatal(err)
		}
		group := listen(t)
		const attempts = 25
		client, server := n.outside.addrs[0], n.pods[0].addrs[0]
		for range attempts {
			if passes, err := n.try(flow{client, server, corev1.ProtocolTCP, 80}); passes || err != nil {
				t.Fatalf("passes: %v (%v)", passes, err)
			}
			if passes, err := n.try(flow{server, client, corev1.ProtocolTCP, 80}); !passes {
				t.Fatal(err)
			}
		}
		n.c.drops.read = time.Time{} // as ten seconds later
		drops, err := n.c.Drops(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		deny := Drop{cluster.Key{Namespace: "red", Name: "deny"}, "ingress"}
		if got := drops.Policies[deny]; len(drops.Policies) != 1 || got != attempts {
			t.Errorf("counted: %v, want %d of %v", drops.Policies, attempts, deny)
		}
		if got := logged(t, group); len(got) != 1 || got[[2]netip.Addr{client, server}] < 10 || got[[2]netip.Addr{client, server}] >= attempts {
			t.Errorf("logged: %v, want about 10 from %s to %s", got, client, server)
		}
	})
}
