package conntrack

import (
	"errors"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

var _ Interface = (*Fake)(nil)

func TestFake(t *testing.T) {
	suite(t, func(t *testing.T) system {
		f := NewFake()
		return system{Interface: f, add: f.Add, text: f.String}
	})
}

// The table is read once for each protocol and family, however many flows
// there are, and not at all without flows.
func TestReads(t *testing.T) {
	udp := flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353")
	udp2 := flowOf(inet.UDP, "10.96.0.10:53", "10.244.2.2:5353")
	udp6 := flowOf(inet.UDP, "[fd00:96::10]:53", "[fd00:1::2]:5353")
	sctp := flowOf(inet.SCTP, "10.96.0.10:53", "10.244.1.2:5353")
	for _, c := range []struct {
		flows []Flow
		want  int
	}{{nil, 0}, {[]Flow{{}}, 0}, {[]Flow{udp}, 1}, {[]Flow{udp, udp2}, 1}, {[]Flow{udp, sctp, udp6, udp2}, 3}} {
		f := NewFake()
		_, _ = f.Delete(c.flows)
		if f.Reads() != c.want {
			t.Errorf("%d reads of the table for %v, want %d", f.Reads(), c.flows, c.want)
		}
	}
}

func TestFlowIsWrittenAsConntrackOptions(t *testing.T) {
	for want, f := range map[string]Flow{
		"-p udp --orig-dst 10.96.0.10 --orig-port-dst 53 --reply-src 10.244.1.2 --reply-port-src 5353": flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353"),
		"-p udp --orig-dst 10.96.0.10 --orig-port-dst 53 --reply-src 10.96.0.10 --reply-port-src 53":   {Protocol: inet.UDP, Virtual: port("10.96.0.10:53")},
	} {
		if f.String() != want {
			t.Errorf("%s, want %s", f, want)
		}
	}
}

func TestFailWith(t *testing.T) {
	f, broken := NewFake(), errors.New("broken")
	mustAdd(t, system{add: f.Add}, entryOf(inet.UDP, "10.0.0.2:4000", "10.96.0.10:53", "10.244.1.2:5353"))
	f.FailWith(broken)
	flows := []Flow{flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353")}
	if n, err := f.Delete(flows); n != 0 || !errors.Is(err, broken) {
		t.Errorf("Delete = %d, %v", n, err)
	}
	f.FailWith(nil)
	if n, err := f.Delete(flows); n != 1 || err != nil {
		t.Errorf("Delete after the failure = %d, %v", n, err)
	}
}
