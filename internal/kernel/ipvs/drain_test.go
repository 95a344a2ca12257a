package ipvs

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
)

const grace = 30 * time.Second

// drainer is a Servers with a grace of 30s on a fake, with web as desired:
// pods .5 and .6.
type drainer struct {
	*Servers
	fake *Fake
}

var (
	web      = tcp("10.96.0.20:80")
	one, two = "10.244.1.5:80", "10.244.1.6:80"
	both     = server(rr, map[string]uint32{one: 1, two: 1})
	onlyOne  = server(rr, map[string]uint32{one: 1})
	podTwo   = netip.MustParseAddrPort(two)
)

const (
	textOne      = "-A -t 10.96.0.20:80 -s rr\n-a -t 10.96.0.20:80 -r 10.244.1.5:80 -m -w 1\n"
	textDraining = textOne + "-a -t 10.96.0.20:80 -r 10.244.1.6:80 -m -w 0\n"
	textBoth     = textOne + "-a -t 10.96.0.20:80 -r 10.244.1.6:80 -m -w 1\n"
)

func newDrainer(t *testing.T, f *Fake) drainer {
	t.Helper()
	s := NewServers(f, ownsClusterIPs)
	s.Grace = grace
	if err := s.Load(); err != nil {
		t.Fatal(err)
	}
	return drainer{Servers: s, fake: f}
}

// drained is a drainer in which pod two drains with one connection.
func drained(t *testing.T) drainer {
	t.Helper()
	d := newDrainer(t, NewFake())
	mustSet(t, d.Servers, map[ID]*Server{web: both})
	d.fake.SetConnections(web, podTwo, 1)
	mustSet(t, d.Servers, map[ID]*Server{web: onlyOne})
	d.want(t, textDraining)
	return d
}

func (d drainer) want(t *testing.T, want string) {
	t.Helper()
	if got := d.fake.String(); got != want {
		t.Errorf("ipvsadm -Sn:\n%swant:\n%s", got, want)
	}
}

func (d drainer) reap(t *testing.T, wantLeft int, want string) {
	t.Helper()
	if left, err := d.Reap(time.Now()); left != wantLeft || err != nil {
		t.Errorf("Reap = %d, %v, want %d", left, err, wantLeft)
	}
	d.want(t, want)
}

func TestDrainingEnds(t *testing.T) {
	for name, end := range map[string]func(*testing.T, drainer){
		"with the last connection": func(t *testing.T, d drainer) {
			d.reap(t, 1, textDraining)
			d.fake.SetConnections(web, podTwo, 0)
			d.reap(t, 0, textOne)
		},
		"with the grace": func(t *testing.T, d drainer) {
			time.Sleep(grace - time.Second)
			d.reap(t, 1, textDraining)
			time.Sleep(time.Second)
			d.reap(t, 0, textOne)
		},
		"when it is wanted again": func(t *testing.T, d drainer) {
			mustSet(t, d.Servers, map[ID]*Server{web: both})
			time.Sleep(grace)
			d.reap(t, 0, textBoth)
		},
		"with the virtual server": func(t *testing.T, d drainer) {
			mustSet(t, d.Servers, map[ID]*Server{web: nil})
			d.reap(t, 0, "")
		},
		"when somebody else removes it": func(t *testing.T, d drainer) {
			d.fake.Apply([]Change{real(DeleteReal, web, two, 0)})
			if repaired, err := d.Resync(); repaired != 0 || err != nil {
				t.Errorf("Resync = %d, %v", repaired, err)
			}
			d.reap(t, 0, textOne)
		},
		"when the removal succeeds at last": func(t *testing.T, d drainer) {
			time.Sleep(grace)
			d.fake.FailWith(func(Change) error { return syscall.ENOMEM })
			if left, err := d.Reap(time.Now()); left != 1 || !errors.Is(err, syscall.ENOMEM) {
				t.Errorf("Reap = %d, %v, want ENOMEM and 1 left", left, err)
			}
			d.fake.FailWith(nil)
			d.reap(t, 0, textOne)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { end(t, drained(t)) })
		})
	}
}

func TestDrainingIsNoDrift(t *testing.T) {
	d := drained(t)
	changes := d.fake.Changes()
	mustSet(t, d.Servers, map[ID]*Server{web: onlyOne})
	if repaired, err := d.Resync(); repaired != 0 || err != nil || d.fake.Changes() != changes {
		t.Errorf("Resync = %d, %v, %d changes", repaired, err, d.fake.Changes()-changes)
	}
	d.reap(t, 1, textDraining)
	d.fake.Apply([]Change{real(SetReal, web, two, 5)})
	if repaired, err := d.Resync(); repaired != 1 || err != nil {
		t.Errorf("Resync of a weight that came back = %d, %v", repaired, err)
	}
	d.reap(t, 1, textDraining)
}

// A run that follows finds the real server at weight 0 and gives it the grace
// once more, from the time it reads the kernel back.
func TestDrainingGoesOnAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := drained(t).fake
		next := newDrainer(t, f)
		changes := f.Changes()
		time.Sleep(grace - time.Second)
		mustSet(t, next.Servers, map[ID]*Server{web: onlyOne})
		if f.Changes() != changes {
			t.Errorf("the restart made %d changes", f.Changes()-changes)
		}
		next.reap(t, 1, textDraining)
		time.Sleep(time.Second)
		next.reap(t, 0, textOne)
	})
}

// Without Grace what is no longer desired goes at once, also what drained.
func TestNoGrace(t *testing.T) {
	f := drained(t).fake
	s := loaded(t, f)
	mustSet(t, s, map[ID]*Server{web: onlyOne})
	if got := f.String(); got != textOne {
		t.Errorf("ipvsadm -Sn:\n%swant:\n%s", got, textOne)
	}
	if left, err := s.Reap(time.Now()); left != 0 || err != nil {
		t.Errorf("Reap = %d, %v", left, err)
	}
}

// The hash of dh goes on to name a real server without a weight, so none drains.
func TestNoGraceWithDH(t *testing.T) {
	d := newDrainer(t, NewFake())
	dh := Config{Scheduler: "dh"}
	mustSet(t, d.Servers, map[ID]*Server{web: server(dh, map[string]uint32{one: 1, two: 1})})
	mustSet(t, d.Servers, map[ID]*Server{web: server(dh, map[string]uint32{one: 1})})
	d.want(t, strings.Replace(textOne, "-s rr", "-s dh", 1))
}

// A tunnel to a node drains as a tunnel.
func TestDrainingKeepsTheMethod(t *testing.T) {
	d := newDrainer(t, NewFake())
	tunnelled := server(rr, map[string]uint32{one: 1})
	tunnelled.Real[podTwo] = Real{Weight: 3, Method: Tunnel}
	mustSet(t, d.Servers, map[ID]*Server{web: tunnelled})
	mustSet(t, d.Servers, map[ID]*Server{web: onlyOne})
	d.want(t, textOne+"-a -t 10.96.0.20:80 -r 10.244.1.6:80 -i -w 0 --tun-type ipip\n")
}

// The ID of a mark does not say that its packets are datagrams, whose clients
// stayed with an endpoint that was gone for all of the grace.
func testDatagramsOfMarks(t *testing.T, s system) {
	connections, datagrams := MarkID(17, inet.IPv4), MarkID(18, inet.IPv4)
	of := func(s *Server) *Server { s.Datagrams = true; return s }
	d := NewServers(s, ownsClusterIPs)
	d.Grace = grace
	if err := d.Load(); err != nil {
		t.Fatal(err)
	}
	pair, left := map[string]uint32{one: 1, two: 1}, map[string]uint32{one: 1}
	mustSet(t, d, map[ID]*Server{connections: server(rr, pair), datagrams: of(server(rr, pair))})
	mustSet(t, d, map[ID]*Server{connections: server(rr, left), datagrams: of(server(rr, left))})
	want := `
-A -f 17 -s rr
-a -f 17 -r 10.244.1.5:80 -m -w 1
-a -f 17 -r 10.244.1.6:80 -m -w 0
-A -f 18 -s rr
-a -f 18 -r 10.244.1.5:80 -m -w 1
`
	s.want(t, want)
	if repaired, err := d.Resync(); repaired != 0 || err != nil {
		t.Errorf("Resync = %d, %v", repaired, err)
	}
	s.want(t, want)
}
