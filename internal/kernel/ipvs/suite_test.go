package ipvs

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

// system is an implementation under test, with a way to look at its state
// that does not go through it: the text of ipvsadm -Sn.
type system struct {
	Interface
	text func() string
}

func id(protocol inet.Protocol, addr string) ID {
	return ID{Protocol: protocol, Addr: netip.MustParseAddrPort(addr)}
}

func tcp(addr string) ID { return id(inet.TCP, addr) }

func addServer(id ID, c Config) Change { return Change{Op: AddServer, ID: id, Config: c} }

func real(op Op, id ID, addr string, weight uint32) Change {
	return Change{Op: op, ID: id, RealAddr: netip.MustParseAddrPort(addr), Real: Real{Weight: weight}}
}

var rr = Config{Scheduler: "rr"}

// suite holds fake and kernel to the same behaviour.
func suite(t *testing.T, fresh func(t *testing.T) system) {
	tests := []struct {
		name string
		run  func(*testing.T, system)
	}{
		{"an empty system lists nothing", testEmpty},
		{"servers and reals of both families and all protocols", testAdd},
		{"every scheduler of the kernel", testSchedulers},
		{"changes of what stays", testChange},
		{"removal takes the reals along", testDelete},
		{"refusals", testRefusals},
		{"a failed change does not stop those after it", testFailureInBatch},
		{"one server read alone", testGet},
		{"virtual servers of firewall marks", testMarks},
		{"options of schedulers", testSchedFlags},
		{"connections of real servers that have none", testNoConnections},
		{"timeouts", testTimeouts},
		{"timeouts are put back", testRestoreTimeouts},
		{"removal of what is owned", testRemove},
		{"a batch larger than a datagram", testLargeBatch},
		{"servers keep their state through a restart", testServersAdopt},
		{"a changed server has a real server at every step", testServersOrder},
		{"drift is found and repaired", testServersResync},
		{"clients of datagrams do not stay where a mark leads", testDatagramsOfMarks},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

func (s system) want(t *testing.T, want string) {
	t.Helper()
	want = strings.TrimLeft(want, "\n")
	if got := s.text(); got != want {
		t.Errorf("ipvsadm -Sn:\n%s\nwant:\n%s", got, want)
	}
	servers, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if got := Text(servers); got != want {
		t.Errorf("List:\n%s\nwant:\n%s", got, want)
	}
}

func (s system) apply(t *testing.T, changes ...Change) {
	t.Helper()
	for _, err := range s.Apply(changes) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func testEmpty(t *testing.T, s system) {
	s.want(t, "")
	if errs := s.Apply(nil); len(errs) != 0 {
		t.Errorf("Apply(nil) = %v", errs)
	}
}

func testAdd(t *testing.T, s system) {
	web, dns, six := tcp("10.96.0.20:80"), id(inet.UDP, "10.96.0.10:53"), tcp("[fd00:96::1]:443")
	sctp, any := id(inet.SCTP, "10.96.0.30:3868"), tcp("10.96.0.40:0")
	s.apply(t,
		addServer(web, Config{Scheduler: "rr", Persistence: 10800}),
		real(AddReal, web, "10.244.1.5:8080", 1),
		real(AddReal, web, "10.244.2.7:8080", 3),
		addServer(dns, rr),
		real(AddReal, dns, "10.244.1.2:5353", 1),
		addServer(six, Config{Scheduler: "wlc", Persistence: 60}),
		real(AddReal, six, "[fd00:244::5]:6443", 1),
		addServer(sctp, rr),
		addServer(any, Config{Scheduler: "sh", Persistence: 1}),
		Change{Op: AddReal, ID: web, RealAddr: netip.MustParseAddrPort("10.244.2.8:80"), Real: Real{Weight: 1, Method: Tunnel}},
		Change{Op: AddReal, ID: web, RealAddr: netip.MustParseAddrPort("10.244.2.9:80"), Real: Real{Weight: 0, Method: Route}},
	)
	s.want(t, `
-A --sctp-service 10.96.0.30:3868 -s rr
-A -t 10.96.0.20:80 -s rr -p 10800
-a -t 10.96.0.20:80 -r 10.244.1.5:8080 -m -w 1
-a -t 10.96.0.20:80 -r 10.244.2.7:8080 -m -w 3
-a -t 10.96.0.20:80 -r 10.244.2.8:80 -i -w 1 --tun-type ipip
-a -t 10.96.0.20:80 -r 10.244.2.9:80 -g -w 0
-A -t 10.96.0.40:0 -s sh -p 1
-A -t [fd00:96::1]:443 -s wlc -p 60
-a -t [fd00:96::1]:443 -r [fd00:244::5]:6443 -m -w 1
-A -u 10.96.0.10:53 -s rr
-a -u 10.96.0.10:53 -r 10.244.1.2:5353 -m -w 1
`)
}

func testSchedulers(t *testing.T, s system) {
	var want string
	for i, name := range []string{"rr", "wrr", "lc", "wlc", "dh", "sh", "sed", "nq", "mh", "fo", "ovf", "lblc", "lblcr"} {
		s.apply(t, addServer(tcp(fmt.Sprintf("10.96.0.1:%d", 10+i)), Config{Scheduler: name}))
		want += fmt.Sprintf("-A -t 10.96.0.1:%d -s %s\n", 10+i, name)
	}
	s.want(t, want)
}

func testChange(t *testing.T, s system) {
	web := tcp("10.96.0.20:80")
	s.apply(t, addServer(web, Config{Scheduler: "rr", Persistence: 10800}), real(AddReal, web, "10.244.1.5:8080", 1))
	s.apply(t, Change{Op: SetServer, ID: web, Config: Config{Scheduler: "lc"}}, real(SetReal, web, "10.244.1.5:8080", 0))
	s.want(t, `
-A -t 10.96.0.20:80 -s lc
-a -t 10.96.0.20:80 -r 10.244.1.5:8080 -m -w 0
`)
	s.apply(t, Change{Op: SetServer, ID: web, Config: Config{Scheduler: "lc", Persistence: 7}})
	s.want(t, `
-A -t 10.96.0.20:80 -s lc -p 7
-a -t 10.96.0.20:80 -r 10.244.1.5:8080 -m -w 0
`)
}

func testDelete(t *testing.T, s system) {
	web := tcp("10.96.0.20:80")
	s.apply(t, addServer(web, rr), real(AddReal, web, "10.244.1.5:8080", 1), real(AddReal, web, "10.244.1.6:8080", 1))
	s.apply(t, real(DeleteReal, web, "10.244.1.5:8080", 0))
	s.want(t, `
-A -t 10.96.0.20:80 -s rr
-a -t 10.96.0.20:80 -r 10.244.1.6:8080 -m -w 1
`)
	s.apply(t, Change{Op: DeleteServer, ID: web})
	s.want(t, "")
	s.apply(t, addServer(web, rr))
	s.want(t, "-A -t 10.96.0.20:80 -s rr\n")
}

func testRefusals(t *testing.T, s system) {
	web, away := tcp("10.96.0.20:80"), tcp("10.96.0.21:80")
	s.apply(t, addServer(web, rr), real(AddReal, web, "10.244.1.5:8080", 1))
	before := s.text()
	tests := []struct {
		change Change
		want   syscall.Errno
	}{
		{addServer(web, rr), syscall.EEXIST},
		{addServer(away, Config{Scheduler: "nonesuch"}), syscall.ENOENT},
		{Change{Op: SetServer, ID: web, Config: Config{Scheduler: "nonesuch"}}, syscall.ENOENT},
		{addServer(away, Config{Scheduler: strings.Repeat("x", 16)}), syscall.EINVAL},
		{addServer(away, Config{}), syscall.EINVAL},
		{addServer(tcp("10.96.0.21:0"), rr), syscall.EINVAL},
		{addServer(id(1, "10.96.0.21:80"), rr), syscall.EPROTONOSUPPORT},
		{addServer(ID{Protocol: inet.TCP}, rr), syscall.EINVAL},
		{addServer(ID{Mark: 1}, rr), syscall.EINVAL},
		{addServer(ID{Protocol: inet.TCP, Mark: 1, Family: inet.IPv4}, rr), syscall.EINVAL},
		{addServer(ID{Protocol: inet.TCP, Addr: away.Addr, Family: inet.IPv4}, rr), syscall.EINVAL},
		{addServer(away, Config{Scheduler: "mh", SchedFlags: 8}), syscall.EINVAL},
		{real(AddReal, MarkID(1, inet.IPv4), "10.244.1.5:8080", 1), syscall.ESRCH},
		{Change{Op: SetServer, ID: away, Config: rr}, syscall.ESRCH},
		{Change{Op: DeleteServer, ID: away}, syscall.ESRCH},
		{real(AddReal, away, "10.244.1.5:8080", 1), syscall.ESRCH},
		{real(DeleteReal, away, "10.244.1.5:8080", 1), syscall.ESRCH},
		{real(AddReal, web, "10.244.1.5:8080", 2), syscall.EEXIST},
		{real(SetReal, web, "10.244.1.6:8080", 1), syscall.ENOENT},
		{real(DeleteReal, web, "10.244.1.6:8080", 1), syscall.ENOENT},
		{real(AddReal, web, "10.244.1.6:8080", math.MaxInt32+1), syscall.ERANGE},
		{real(AddReal, web, "0.0.0.0:8080", 1), syscall.EINVAL},
		{real(AddReal, web, "224.0.0.1:8080", 1), syscall.EINVAL},
		{real(AddReal, web, "[fd00::1]:8080", 1), syscall.EINVAL},
		{real(DeleteReal, web, "[fd00::1]:8080", 1), syscall.EINVAL},
		{Change{Op: AddReal, ID: web}, syscall.EINVAL},
		{Change{Op: 99, ID: web}, syscall.EINVAL},
	}
	for _, test := range tests {
		err := s.Apply([]Change{test.change})[0]
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.change, err, test.want)
		} else if !strings.Contains(err.Error(), test.change.String()) {
			t.Errorf("error %q does not name the change %q", err, test.change)
		}
	}
	if after := s.text(); after != before {
		t.Errorf("refused changes left\n%swant\n%s", after, before)
	}
}

func testFailureInBatch(t *testing.T, s system) {
	web, dns := tcp("10.96.0.20:80"), id(inet.UDP, "10.96.0.10:53")
	errs := s.Apply([]Change{
		addServer(web, rr),
		real(AddReal, dns, "10.244.1.2:53", 1),
		{Op: AddServer},
		real(AddReal, web, "10.244.1.5:8080", 1),
		addServer(web, rr),
		addServer(dns, rr),
	})
	want := []error{nil, syscall.ESRCH, syscall.EPROTONOSUPPORT, nil, syscall.EEXIST, nil}
	for i, err := range errs {
		if !errors.Is(err, want[i]) {
			t.Errorf("change %d: %v, want %v", i, err, want[i])
		}
	}
	s.want(t, `
-A -t 10.96.0.20:80 -s rr
-a -t 10.96.0.20:80 -r 10.244.1.5:8080 -m -w 1
-A -u 10.96.0.10:53 -s rr
`)
}

func testGet(t *testing.T, s system) {
	web := tcp("10.96.0.20:80")
	if _, ok, err := s.Get(web); ok || err != nil {
		t.Errorf("Get of what is not there: %v, %v", ok, err)
	}
	want := Server{Config: Config{Scheduler: "rr", Persistence: 5}, Real: map[netip.AddrPort]Real{
		netip.MustParseAddrPort("10.244.1.5:8080"): {Weight: 2},
	}}
	s.apply(t, addServer(web, want.Config), real(AddReal, web, "10.244.1.5:8080", 2), addServer(tcp("10.96.0.21:80"), rr))
	got, ok, err := s.Get(web)
	if !ok || err != nil || !got.Equal(want) {
		t.Errorf("Get = %v, %v, %v, want %v", got, ok, err, want)
	}
}

func testLargeBatch(t *testing.T, s system) {
	const servers = 300
	changes := manyServers(servers)
	// Every fifth change fails, so that errors and successes mix.
	for i := range servers / 5 {
		changes = slices.Insert(changes, i*5, Change{Op: DeleteServer, ID: tcp("192.0.2.1:1")})
	}
	for i, err := range s.Apply(changes) {
		wantErr := changes[i].Op == DeleteServer
		if gotErr := err != nil; gotErr != wantErr {
			t.Fatalf("change %d, %s: %v", i, changes[i], err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != servers {
		t.Fatalf("%d servers, %v", len(list), err)
	}
	for id, server := range list {
		if len(server.Real) != 2 {
			t.Errorf("%s has %d real servers", id, len(server.Real))
		}
	}
}

// manyServers adds n virtual servers with two real servers each.
func manyServers(n int) []Change {
	var changes []Change
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		web := ID{Protocol: inet.TCP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, hi, lo}), 80)}
		changes = append(changes, addServer(web, rr))
		for _, node := range []byte{1, 2} {
			pod := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 100 + node, hi, lo | 1}), 8080)
			changes = append(changes, Change{Op: AddReal, ID: web, RealAddr: pod, Real: Real{Weight: 1}})
		}
	}
	return changes
}
