package services

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// 10,000 Services with the external policy Local fit, each with a node port and
// a load balancer IP, and those with direct server return have their reserve.
func TestMarksSuffice(t *testing.T) {
	m := newMarks()
	for i := range 10000 {
		g := group{service: meta(fmt.Sprintf("s%d", i)).Key, protocol: inet.TCP, port: 80, family: inet.IPv4}
		for _, addr := range []netip.Addr{addr("192.168.7.11"), netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})} {
			id := ipvs.ID{Protocol: inet.TCP, Addr: netip.AddrPortFrom(addr, uint16(20000+i))}
			if _, ok := m.join(g, marker{id, inside}); !ok {
				t.Fatalf("no mark for Service %d", i)
			}
		}
	}
	if len(m.by) != 10000 || len(m.users) != 10000 {
		t.Errorf("%d marks, %d in use", len(m.by), len(m.users))
	}
	for i := range tunnelReserve {
		id := ipvs.ID{Protocol: inet.TCP, Addr: netip.AddrPortFrom(addr("10.96.0.1"), uint16(i))}
		if _, ok := m.join(group{port: uint16(i), family: inet.IPv4, role: tunnelled}, marker{id, tunnelled}); !ok {
			t.Fatalf("no mark for tunnel %d", i)
		}
	}
}

// Without a mark a Service is served all the same, and says so; it gets one
// when another goes. Where a client of the node could come into a tunnel, there
// is none.
func TestWithoutMarks(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.start(config4(), set(n1, n2))
		defer r.stop()
		r.marks.most = tunnelReserve + 1
		local := func(name, ip string, nodePort uint16) *cluster.Service {
			return with(service(name, ip, tcp(80, nodePort)), func(s *cluster.Service) { s.ExternalLocal = true })
		}
		a, b := local("a", "10.96.0.10", 30080), local("b", "10.96.0.11", 30081)
		direct := annotated(service("c", "10.96.0.12", tcp(80, 0)), "service.dsr", "tunnel")
		for _, name := range []string{"a", "b", "c"} {
			r.happen(set(slice(name, 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2"))))
		}
		r.happen(set(a))
		r.happen(set(b))
		r.happen(set(direct))
		state := w.state()
		if marked := strings.Count(state, "kube-router-svip-in "); marked != 1 {
			t.Errorf("%d marks for clients of the node:\n%s", marked, state)
		}
		for _, want := range []string{
			"-a -t 192.168.7.11:30081 -r 10.244.1.2:8080 -m", "-a -t 10.96.0.12:80 -r 10.244.2.2:8080 -m", "kube-router-svip-tun 10.96.0.12",
		} {
			if !strings.Contains(state, want) {
				t.Errorf("lacks %q:\n%s", want, state)
			}
		}
		const why = "all firewall marks are in use; fewer Services can have direct server return, or a traffic policy Local with endpoints on other nodes"
		w.warned("Service default/b: NoMarkLeft: on node n1 its traffic policy Local holds for pods of the node as well: "+why,
			"Service default/c: NoMarkLeft: on node n1 it is served without direct server return: "+why)
		r.happen(gone(a), gone(b))
		if got := w.state(); !strings.Contains(got, "-a -t 10.96.0.12:80 -r 192.168.7.12:80 -i") || !strings.Contains(got, "kube-router-svip-in 10.96.0.12") {
			t.Errorf("no mark came free:\n%s", got)
		}
	})
}

// A mark that one does not take for which it came free, as it has gone meanwhile,
// is the next one's; one that took it, or lacks it still, ends that.
func TestAMarkIsPassedOn(t *testing.T) {
	hungry := []cluster.Key{{Namespace: "default", Name: "b"}, {Namespace: "default", Name: "c"}, {Namespace: "default", Name: "d"}}
	c := &Controller{queue: reconcile.NewQueue[key](), marks: newMarks(), starved: map[cluster.Key]bool{}, fed: map[cluster.Key]int{}}
	for _, k := range hungry {
		c.starved[k] = true
	}
	fed := func() (k cluster.Key) {
		t.Helper()
		if len(c.fed) != 1 {
			t.Fatalf("%d are fed", len(c.fed))
		}
		for k = range c.fed {
		}
		return k
	}
	c.feed()
	gone := fed()
	c.passOn(hungry)
	took := fed()
	if took == gone || len(c.starved) != 1 || len(c.queue.Pending()) != 2 {
		t.Fatalf("after %s %s is fed, %v wait, to do is %v", gone, took, c.starved, c.queue.Pending())
	}
	c.marks.of[group{service: took}] = ipvs.MarkID(1<<markShift, inet.IPv4)
	c.passOn(hungry)
	if len(c.fed) != 0 || len(c.starved) != 1 {
		t.Errorf("it took it, and fed are %v", c.fed)
	}
	c.feed()
	c.starved[fed()] = true // as there is none again
	c.passOn(hungry)
	if len(c.fed) != 0 {
		t.Errorf("there is none, and fed are %v", c.fed)
	}
}

// A former release gave each address a mark of its own: one of them stays, with
// no gap.
func TestMarksOfAFormerRelease(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.AnyIP = true
		web := with(service("web", "10.96.0.10", tcp(80, 30080)), func(s *cluster.Service) {
			s.ExternalLocal, s.LoadBalancerIPs = true, addrs("203.0.113.1")
		})
		w.start(config, set(n1, web, webSlice)).stop()
		state := w.state()
		const mark, other = 5 << markShift, 6 << markShift
		var changes []ipset.Change
		for at, mark := range map[string]uint32{"192.168.7.11:30080": mark, "203.0.113.1:80": other} {
			e := markEntry(marker{id: ipvs.ID{Protocol: inet.TCP, Addr: netip.MustParseAddrPort(at)}}, mark)
			changes = append(changes, ipset.Change{Op: ipset.Add, Name: insideSet, Entry: e})
			w.ipvs.Apply([]ipvs.Change{{Op: ipvs.AddServer, ID: ipvs.MarkID(mark, inet.IPv4), Config: ipvs.Config{Scheduler: "rr"}}})
		}
		w.sets.Apply(changes)
		servers, _ := w.ipvs.List()
		for id := range servers {
			if id.Mark > other {
				w.ipvs.Apply([]ipvs.Change{{Op: ipvs.DeleteServer, ID: id}})
			}
		}
		w.start(config, set(n1, web, webSlice)).stop()
		got := w.state()
		before, _, _ := strings.Cut(strings.SplitAfter(state, "-f ")[1], " ")
		for _, kept := range []uint32{mark, other} {
			same := strings.NewReplacer("-f "+before+" ", fmt.Sprintf("-f %d ", kept), "skbmark 0x"+hex(before), fmt.Sprintf("skbmark %#x", kept)).Replace(state)
			if same == got {
				return
			}
		}
		t.Errorf("(-fresh +adopted):\n%s", cmp.Diff(state, got))
	})
}

// hex is a decimal number in hexadecimal digits.
func hex(decimal string) string {
	var n uint32
	fmt.Sscan(decimal, &n)
	return fmt.Sprintf("%x", n)
}
