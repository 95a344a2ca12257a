package conntrack

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
)

// clients returns a want of Mark: the entries of the clients with the ports.
func clients(ports ...uint16) func(Entry) bool {
	return func(e Entry) bool {
		for _, p := range ports {
			if e.From.Port() == p {
				return true
			}
		}
		return false
	}
}

// Bits are given, taken and kept, in the entries of one family and every
// protocol, and no other bit changes.
func testMarks(t *testing.T, fresh func(*testing.T) system) {
	s := fresh(t)
	const vip, a = "10.96.0.10:53", "10.244.1.2:5353"
	mustAdd(t, s, entryOf(inet.UDP, "10.0.0.2:4000", vip, a), entryOf(inet.TCP, "10.0.0.2:4000", vip, a),
		entryOf(inet.UDP, "10.0.0.2:4001", vip, a), entryOf(inet.SCTP, "10.0.0.2:4002", vip, a),
		entryOf(inet.UDP, "[fd00::2]:4000", "[fd00:96::10]:53", "[fd00:1::2]:5353"))
	for _, step := range []struct {
		family inet.Family
		bits   uint32
		want   func(Entry) bool
		did    Marks
	}{
		{inet.IPv4, 0x20000, clients(), Marks{}},
		{inet.IPv4, 0x20000, clients(4000), Marks{Added: 2, Total: 2}},
		{inet.IPv4, 0x20000, clients(4000), Marks{Total: 2}},
		{inet.IPv4, 0x3, clients(4001, 4002), Marks{Added: 2, Total: 2}},
		{inet.IPv4, 0x20000, clients(4000, 4001), Marks{Added: 1, Total: 3}},
		{inet.IPv4, 0x20000, clients(4001), Marks{Removed: 2, Total: 1}},
		{inet.IPv4, 0x1, clients(4001), Marks{Removed: 1, Total: 1}},
		{inet.IPv6, 0x20000, clients(4000), Marks{Added: 1, Total: 1}},
	} {
		did, err := s.Mark(step.family, step.bits, step.want)
		if did != step.did || err != nil {
			t.Errorf("Mark %s %#x = %+v, %v, want %+v", step.family, step.bits, did, err, step.did)
		}
	}
	want := `sctp src=10.0.0.2 dst=10.96.0.10 sport=4002 dport=53 src=10.244.1.2 dst=10.0.0.2 sport=5353 dport=4002 mark=2
tcp src=10.0.0.2 dst=10.96.0.10 sport=4000 dport=53 src=10.244.1.2 dst=10.0.0.2 sport=5353 dport=4000
udp src=10.0.0.2 dst=10.96.0.10 sport=4000 dport=53 src=10.244.1.2 dst=10.0.0.2 sport=5353 dport=4000
udp src=10.0.0.2 dst=10.96.0.10 sport=4001 dport=53 src=10.244.1.2 dst=10.0.0.2 sport=5353 dport=4001 mark=131075
udp src=fd00::2 dst=fd00:96::10 sport=4000 dport=53 src=fd00:1::2 dst=fd00::2 sport=5353 dport=4000 mark=131072
`
	if diff := cmp.Diff(want, s.text()); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
}

func testMarksOfNothing(t *testing.T, fresh func(*testing.T) system) {
	s := fresh(t)
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		if did, err := s.Mark(family, 1, func(Entry) bool { return true }); did != (Marks{}) || err != nil {
			t.Errorf("%s: %+v, %v", family, did, err)
		}
	}
}

// More entries than fit into one message, or into one send.
func testMarksOfMany(t *testing.T, fresh func(*testing.T) system) {
	s := fresh(t)
	const n = 1000
	for i := range n {
		mustAdd(t, s, entryOf(inet.UDP, fmt.Sprintf("10.0.0.2:%d", 1000+i), "10.96.0.10:53", fmt.Sprintf("10.244.%d.%d:53", i/250, 1+i%250)))
	}
	odd := func(e Entry) bool { return e.From.Port()%2 == 1 }
	if did, err := s.Mark(inet.IPv4, 0x20000, odd); did != (Marks{Added: n / 2, Total: n / 2}) || err != nil {
		t.Errorf("%+v, %v", did, err)
	}
	seen := 0
	did, err := s.Mark(inet.IPv4, 0x20000, func(Entry) bool { seen++; return true })
	if did != (Marks{Added: n / 2, Total: n}) || err != nil || seen != n {
		t.Errorf("%+v, %v, %d entries seen", did, err, seen)
	}
}
