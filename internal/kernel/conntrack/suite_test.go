package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
)

// system is a table under test: the fake or the kernel's.
type system struct {
	Interface
	add func(Entry) error
	// text is the table as conntrack -L shows it, sorted, with marks that are
	// not 0.
	text func() string
}

func port(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// entryOf is a flow of a client to a virtual server that an endpoint answers.
func entryOf(p inet.Protocol, client, virtual, endpoint string) Entry {
	return Entry{Protocol: p, From: port(client), To: port(virtual), ReplyFrom: port(endpoint), ReplyTo: port(client)}
}

func flowOf(p inet.Protocol, virtual, endpoint string) Flow {
	return Flow{Protocol: p, Virtual: port(virtual), Endpoint: port(endpoint)}
}

func mustAdd(t testing.TB, s system, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := s.add(e); err != nil {
			t.Fatalf("cannot add %s: %v", e, err)
		}
	}
}

// table is what every case starts with: DNS at 10.96.0.10 with the endpoints
// 10.244.1.2 and 10.244.2.2, and its neighbours, each unlike it in one thing.
func table() []Entry {
	const vip, a, b = "10.96.0.10:53", "10.244.1.2:5353", "10.244.2.2:5353"
	masqueraded := entryOf(inet.UDP, "10.0.0.3:4000", vip, a)
	masqueraded.ReplyTo = port("10.0.0.1:61000")
	return []Entry{
		entryOf(inet.UDP, "10.0.0.2:4000", vip, a),
		masqueraded,
		entryOf(inet.UDP, "10.0.0.2:4001", vip, b),
		entryOf(inet.UDP, "10.0.0.2:4002", vip, vip),
		entryOf(inet.TCP, "10.0.0.2:4000", vip, a),
		entryOf(inet.UDP, "10.0.0.2:4003", "10.96.0.11:53", a),
		entryOf(inet.UDP, "10.0.0.2:4004", "10.96.0.10:54", a),
		entryOf(inet.UDP, "10.0.0.2:4005", vip, "10.244.1.2:5354"),
		entryOf(inet.UDP, "10.0.0.2:4006", a, a),
		entryOf(inet.UDP, "10.0.0.2:4007", "192.168.1.9:30053", a),
		entryOf(inet.UDP, "10.0.0.2:4008", "192.168.7.9:30053", a),
		entryOf(inet.UDP, "10.0.0.2:4009", "192.168.7.9:30053", "192.168.7.9:30053"),
		entryOf(inet.SCTP, "10.0.0.2:4000", vip, a),
		entryOf(inet.UDP, "[fd00::2]:4000", "[fd00:96::10]:53", "[fd00:1::2]:5353"),
		entryOf(inet.UDP, "[fd00::2]:4001", "[fd00:96::10]:53", "[fd00:2::2]:5353"),
	}
}

func suite(t *testing.T, fresh func(*testing.T) system) {
	t.Run("deletes only", func(t *testing.T) { testDeletes(t, fresh) })
	t.Run("entries are unique", func(t *testing.T) { testDuplicates(t, fresh) })
	t.Run("an empty table", func(t *testing.T) { testEmpty(t, fresh) })
	t.Run("flows that say too little", func(t *testing.T) { testRefused(t, fresh) })
	t.Run("marks", func(t *testing.T) { testMarks(t, fresh) })
	t.Run("marks of an empty table", func(t *testing.T) { testMarksOfNothing(t, fresh) })
	t.Run("marks of a large table", func(t *testing.T) { testMarksOfMany(t, fresh) })
	t.Run("a large table", func(t *testing.T) { testLarge(t, fresh) })
}

func testDeletes(t *testing.T, fresh func(*testing.T) system) {
	for name, c := range map[string]struct {
		flows []Flow
		gone  []int // of table
	}{
		"nothing":                    {nil, nil},
		"an endpoint":                {[]Flow{flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353")}, []int{0, 1}},
		"an endpoint, named twice":   {[]Flow{flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353"), flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353")}, []int{0, 1}},
		"an endpoint without flows":  {[]Flow{flowOf(inet.UDP, "10.96.0.10:53", "10.244.9.9:5353")}, nil},
		"what nobody answered":       {[]Flow{{Protocol: inet.UDP, Virtual: port("10.96.0.10:53")}}, []int{3}},
		"a node port":                {[]Flow{{inet.UDP, netip.AddrPortFrom(netip.Addr{}, 30053), port("10.244.1.2:5353")}}, []int{9, 10}},
		"a node port of one address": {[]Flow{flowOf(inet.UDP, "192.168.7.9:30053", "10.244.1.2:5353")}, []int{10}},
		"SCTP":                       {[]Flow{flowOf(inet.SCTP, "10.96.0.10:53", "10.244.1.2:5353")}, []int{12}},
		"IPv6":                       {[]Flow{flowOf(inet.UDP, "[fd00:96::10]:53", "[fd00:1::2]:5353")}, []int{13}},
		"several at once": {[]Flow{
			flowOf(inet.UDP, "10.96.0.10:53", "10.244.2.2:5353"),
			flowOf(inet.UDP, "[fd00:96::10]:53", "[fd00:2::2]:5353"),
			flowOf(inet.SCTP, "10.96.0.10:53", "10.244.1.2:5353"),
			{Protocol: inet.UDP, Virtual: port("192.168.7.9:30053")},
		}, []int{2, 11, 12, 14}},
	} {
		t.Run(name, func(t *testing.T) {
			s := fresh(t)
			want := NewFake()
			for i, e := range table() {
				mustAdd(t, s, e)
				if !slices.Contains(c.gone, i) {
					mustAdd(t, system{add: want.Add}, e)
				}
			}
			deleted, err := s.Delete(c.flows)
			if err != nil || deleted != len(c.gone) {
				t.Errorf("Delete = %d, %v, want %d", deleted, err, len(c.gone))
			}
			if diff := cmp.Diff(want.String(), s.text()); diff != "" {
				t.Errorf("the table (-want +got):\n%s", diff)
			}
		})
	}
}

// The table itself holds no two entries with the same packets.
func testDuplicates(t *testing.T, fresh func(*testing.T) system) {
	s := fresh(t)
	e := entryOf(inet.UDP, "10.0.0.2:4000", "10.96.0.10:53", "10.244.1.2:5353")
	mustAdd(t, s, e)
	sameReply := e
	sameReply.To = port("10.96.0.11:53")
	for _, twin := range []Entry{e, sameReply} {
		if err := s.add(twin); err == nil {
			t.Errorf("%s was added beside %s", twin, e)
		}
	}
}

func testEmpty(t *testing.T, fresh func(*testing.T) system) {
	flows := []Flow{flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353"), flowOf(inet.UDP, "[fd00:96::10]:53", "[fd00:1::2]:5353")}
	if deleted, err := fresh(t).Delete(flows); deleted != 0 || err != nil {
		t.Errorf("Delete = %d, %v", deleted, err)
	}
}

func testRefused(t *testing.T, fresh func(*testing.T) system) {
	good := flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353")
	for name, bad := range map[string]Flow{
		"nothing":                     {},
		"no protocol":                 {Virtual: good.Virtual, Endpoint: good.Endpoint},
		"no port":                     {inet.UDP, netip.AddrPortFrom(good.Virtual.Addr(), 0), good.Endpoint},
		"a port and nothing else":     {Protocol: inet.UDP, Virtual: netip.AddrPortFrom(netip.Addr{}, 53)},
		"an endpoint without a port":  {inet.UDP, good.Virtual, netip.AddrPortFrom(good.Endpoint.Addr(), 0)},
		"an endpoint without address": {inet.UDP, good.Virtual, netip.AddrPortFrom(netip.Addr{}, 5353)},
		"two families":                {inet.UDP, good.Virtual, port("[fd00:1::2]:5353")},
	} {
		t.Run(name, func(t *testing.T) {
			s := fresh(t)
			kept := entryOf(inet.UDP, "10.0.0.2:4001", "10.96.0.10:53", "10.96.0.10:53")
			mustAdd(t, s, entryOf(inet.UDP, "10.0.0.2:4000", "10.96.0.10:53", "10.244.1.2:5353"))
			mustAdd(t, s, kept)
			deleted, err := s.Delete([]Flow{bad, good})
			if deleted != 1 || !errors.Is(err, ErrFlow) {
				t.Errorf("Delete = %d, %v, want 1 and ErrFlow", deleted, err)
			}
			if got := s.text(); got != kept.String()+"\n" {
				t.Errorf("left:\n%s", got)
			}
		})
	}
}

func testLarge(t *testing.T, fresh func(*testing.T) system) {
	s := fresh(t)
	const n = 1000
	var flows []Flow
	for i := range n {
		mustAdd(t, s, entryOf(inet.UDP, fmt.Sprintf("10.0.0.2:%d", 1000+i), "10.96.0.10:53", fmt.Sprintf("10.244.%d.%d:53", i/250, 1+i%250)))
		if i%2 == 0 {
			flows = append(flows, flowOf(inet.UDP, "10.96.0.10:53", fmt.Sprintf("10.244.%d.%d:53", i/250, 1+i%250)))
		}
	}
	deleted, err := s.Delete(flows)
	if err != nil || deleted != n/2 {
		t.Errorf("Delete = %d, %v, want %d", deleted, err, n/2)
	}
	if deleted, err = s.Delete(flows); err != nil || deleted != 0 {
		t.Errorf("a second Delete = %d, %v, want nothing to do", deleted, err)
	}
}
