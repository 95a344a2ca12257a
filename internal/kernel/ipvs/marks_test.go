package ipvs

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
)

func testMarks(t *testing.T, s system) {
	four, six, high := MarkID(17, inet.IPv4), MarkID(17, inet.IPv6), MarkID(0x7ffffff0, inet.IPv4)
	s.apply(t,
		addServer(four, Config{Scheduler: "rr", Persistence: 60}),
		real(AddReal, four, "10.244.2.7:8080", 1),
		addServer(six, Config{Scheduler: "rr", Persistence: 60}),
		real(AddReal, six, "[fd00:244::5]:6443", 2),
		addServer(high, Config{Scheduler: "lc"}),
		real(AddReal, high, "10.244.2.7:8080", 1),
		real(SetReal, high, "10.244.2.7:8080", 0),
		Change{Op: SetServer, ID: high, Config: rr},
	)
	s.want(t, `
-A -f 17 -6 -s rr -p 60
-a -f 17 -6 -r [fd00:244::5]:6443 -m -w 2
-A -f 17 -s rr -p 60
-a -f 17 -r 10.244.2.7:8080 -m -w 1
-A -f 2147483632 -s rr
-a -f 2147483632 -r 10.244.2.7:8080 -m -w 0
`)
	want := Server{Config: Config{Scheduler: "rr", Persistence: 60}, Real: map[netip.AddrPort]Real{
		netip.MustParseAddrPort("[fd00:244::5]:6443"): {Weight: 2},
	}}
	if got, ok, err := s.Get(six); !ok || err != nil || !got.Equal(want) {
		t.Errorf("Get = %v, %v, %v, want %v", got, ok, err, want)
	}
	s.apply(t, real(DeleteReal, four, "10.244.2.7:8080", 0), Change{Op: DeleteServer, ID: high}, Change{Op: DeleteServer, ID: six})
	s.want(t, "-A -f 17 -s rr -p 60\n")
}

func testSchedFlags(t *testing.T, s system) {
	mh, sh, other := tcp("10.96.0.1:80"), tcp("10.96.0.2:80"), tcp("10.96.0.3:80")
	s.apply(t,
		addServer(mh, Config{Scheduler: "mh", Persistence: 60, SchedFlags: SchedFallback | SchedPort}),
		addServer(sh, Config{Scheduler: "sh", SchedFlags: SchedPort}),
		addServer(other, Config{Scheduler: "rr", SchedFlags: SchedFallback | schedFlag3}),
	)
	s.want(t, `
-A -t 10.96.0.1:80 -s mh -p 60 -b mh-fallback,mh-port
-A -t 10.96.0.2:80 -s sh -b sh-port
-A -t 10.96.0.3:80 -s rr -b flag-1,flag-3
`)
	s.apply(t,
		Change{Op: SetServer, ID: mh, Config: Config{Scheduler: "mh", SchedFlags: SchedFallback}},
		Change{Op: SetServer, ID: sh, Config: Config{Scheduler: "sh"}},
		Change{Op: DeleteServer, ID: other},
	)
	s.want(t, "-A -t 10.96.0.1:80 -s mh -b mh-fallback\n-A -t 10.96.0.2:80 -s sh\n")
}

func testNoConnections(t *testing.T, s system) {
	web, pod := tcp("10.96.0.20:80"), netip.MustParseAddrPort("10.244.1.5:8080")
	if counts, err := s.Connections(web); len(counts) != 0 || err != nil {
		t.Errorf("Connections of what is not there: %v, %v", counts, err)
	}
	s.apply(t, addServer(web, rr), real(AddReal, web, pod.String(), 1))
	counts, err := s.Connections(web)
	if n, ok := counts[pod]; !ok || n != 0 || err != nil {
		t.Errorf("Connections = %v, %v, want 0 for %s", counts, err, pod)
	}
}

func testTimeouts(t *testing.T, s system) {
	for _, test := range []struct {
		set  Timeouts
		want string
	}{
		{Timeouts{}, "Timeout (tcp tcpfin udp): 900 120 300"},
		{Timeouts{TCPFin: 30 * time.Second}, "Timeout (tcp tcpfin udp): 900 30 300"},
		{Timeouts{TCP: time.Hour, UDP: 1500 * time.Millisecond}, "Timeout (tcp tcpfin udp): 3600 30 2"},
	} {
		if err := s.SetTimeouts(test.set); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Timeouts(); err != nil || got.String() != test.want {
			t.Errorf("after SetTimeouts(%s): %s, %v, want %s", test.set, got, err, test.want)
		}
	}
	for _, bad := range []time.Duration{-time.Second, maxTimeout + 1} {
		if err := s.SetTimeouts(Timeouts{TCP: time.Minute, UDP: bad}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("SetTimeouts(%s): %v, want EINVAL", bad, err)
		}
	}
	if got, err := s.Timeouts(); err != nil || got.TCP != time.Hour {
		t.Errorf("a refused change left %s, %v", got, err)
	}
}
