package services

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

func TestRestartChangesNothing(t *testing.T) {
	config := config46()
	config.Hairpin = true
	bubble(t, func(t *testing.T, w *world) {
		w.start(config, set(n1, web, webSlice, dns, dnsSlice)).stop()
		was, state := w.changes(), w.state()
		for range 2 {
			r := w.start(config, set(n1, web, webSlice, dns, dnsSlice))
			r.stop()
			if s := r.Status(); s.Changes != 0 {
				t.Errorf("the status counts %d changes", s.Changes)
			}
		}
		if now := w.changes(); now != was {
			t.Errorf("a restart made changes:\nwas %s\nis  %s", was, now)
		}
		w.wants(state)
	})
}

// Virtual servers in excluded ranges are others': a Service that names their
// address does not take them over, nor are they swept.
func TestExcludedRangesAreOthers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.AnyIP, config.ExcludedCIDRs = true, prefixes("10.96.9.0/24", "203.0.113.0/24", "192.168.7.11/32")
		foreign := ""
		for _, at := range []string{"10.96.9.1:80", "192.168.7.11:30080", "192.168.7.11:30999", "203.0.113.1:80"} {
			id := ipvs.ID{Protocol: inet.TCP, Addr: netip.MustParseAddrPort(at)}
			w.ipvs.Apply([]ipvs.Change{{Op: ipvs.AddServer, ID: id, Config: ipvs.Config{Scheduler: "wlc"}}})
			foreign += "-A -t " + at + " -s wlc\n"
		}
		excluded := with(service("excluded", "10.96.9.1", tcp(80, 30080), tcp(81, 30081)), func(s *cluster.Service) {
			s.ExternalIPs, s.LoadBalancerIPs = addrs("203.0.113.1"), addrs("203.0.113.2", "198.51.100.1")
		})
		r := w.start(config, set(n1, excluded, slice("excluded", 8080, ready("10.244.1.2", "n1"))))
		defer r.stop()
		w.wants(`
# ipvsadm -Sn
-A -t 10.96.9.1:80 -s wlc
-A -t 192.168.7.11:30080 -s wlc
-A -t 192.168.7.11:30999 -s wlc
-A -t 198.51.100.1:80 -s rr
-a -t 198.51.100.1:80 -r 10.244.1.2:8080 -m -w 1
-A -t 198.51.100.1:81 -s rr
-a -t 198.51.100.1:81 -r 10.244.1.2:8080 -m -w 1
-A -t 203.0.113.1:80 -s wlc
# ip route show table local proto 17
local 198.51.100.1 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 198.51.100.1
add kube-router-svip-prt 198.51.100.1,tcp:80
add kube-router-svip-prt 198.51.100.1,tcp:81
`)
		const why = " is not served: --excluded-cidrs leaves it to others"
		w.warned("Service default/excluded: AddressExcluded: cluster IP 10.96.9.1"+why,
			"Service default/excluded: AddressExcluded: external IP 203.0.113.1"+why,
			"Service default/excluded: AddressExcluded: load balancer IP 203.0.113.2"+why,
			"Service default/excluded: AddressExcluded: node port address 192.168.7.11"+why)
		r.happen(gone(excluded))
		w.wants(strings.TrimPrefix(strings.Replace(emptyState, "# ipvsadm -Sn\n", "# ipvsadm -Sn\n"+foreign, 1), "\n"))
	})
}

// What a former run left goes once everything was programmed; what is others'
// stays.
func TestSweep(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.start(config4(), set(n1, web, webSlice, dns, dnsSlice)).stop()
		w.lax = true
		server := func(addr string) []ipvs.Change {
			id := ipvs.ID{Protocol: inet.TCP, Addr: netip.MustParseAddrPort(addr)}
			return []ipvs.Change{
				{Op: ipvs.AddServer, ID: id, Config: ipvs.Config{Scheduler: "wlc"}},
				{Op: ipvs.AddReal, ID: id, RealAddr: netip.MustParseAddrPort("172.16.0.1:80"), Real: ipvs.Real{Weight: 1}},
			}
		}
		for _, addr := range []string{
			"10.99.0.1:443", "192.168.7.11:30999", "203.0.113.7:80", // ours: cluster IP, node port, and one with a route
			"192.168.7.11:80", "192.168.7.12:30999", "203.0.113.8:80", // of others
		} {
			w.ipvs.Apply(server(addr))
		}
		former := vipRoute(addr("203.0.113.7"), netip.Addr{})
		if err := w.routes.Replace(former); err != nil {
			t.Fatal(err)
		}
		w.sets.Apply([]ipset.Change{
			{Op: ipset.Add, Name: portSet, Entry: ipset.IPPort(inet.TCP, netip.MustParseAddrPort("203.0.113.7:80"))},
			{Op: ipset.Create, Name: "kube-router-node-ips", Spec: ipset.Spec{Type: ipset.HashIP, Family: inet.IPv4}},
			{Op: ipset.Add, Name: "kube-router-node-ips", Entry: ipset.IP(addr("192.168.7.12"))},
			{Op: ipset.Create, Name: "inet6:" + vipSet, Spec: ipset.Spec{Type: ipset.HashIP, Family: inet.IPv6}},
		})
		programmed, early := false, false
		w.fail(failures{ipvs: func(c ipvs.Change) error { // looks on
			programmed = programmed || c.RealAddr.Addr() == addr("10.244.3.3")
			early = early || c.Op == ipvs.DeleteServer && !programmed
			return nil
		}})
		r := w.start(config4(), set(n1, web, slice("web", 8080, ready("10.244.3.3", "n3"))))
		defer r.stop()
		w.wants(`
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.3.3:8080 -m -w 1
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.3.3:8080 -m -w 1
-A -t 192.168.7.11:80 -s wlc
-a -t 192.168.7.11:80 -r 172.16.0.1:80 -m -w 1
-A -t 192.168.7.12:30999 -s wlc
-a -t 192.168.7.12:30999 -r 172.16.0.1:80 -m -w 1
-A -t 203.0.113.8:80 -s wlc
-a -t 203.0.113.8:80 -r 172.16.0.1:80 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-ips 192.168.7.12
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
`)
		if early {
			t.Error("something was swept before everything was programmed")
		}
		if w.sets.Exists("inet6:" + vipSet) {
			t.Error("the set of a family that is not enabled stays")
		}
	})
}

// Without a known range of cluster IPs, what a former run left and what somebody
// put at an address of ours goes; the rest of the guessed range is others'.
func TestSweepWithoutRange(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.ServiceRanges = nil
		w.start(config, set(n1, web, webSlice, dns, dnsSlice)).stop()
		w.lax = true
		for _, addr := range []string{"10.96.0.10:81", "10.99.0.1:443"} {
			w.ipvs.Apply([]ipvs.Change{{Op: ipvs.AddServer, Config: ipvs.Config{Scheduler: "rr"},
				ID: ipvs.ID{Protocol: inet.TCP, Addr: netip.MustParseAddrPort(addr)}}})
		}
		w.start(config, set(n1, web, webSlice)).stop()
		w.wants(strings.Replace(webState, "-A -t 192", "-A -t 10.99.0.1:443 -s rr\n-A -t 192", 1))
	})
}

// refusing is an IPVS that takes no timeouts.
type refusing struct {
	*ipvs.Fake
	closed int
}

func (r *refusing) SetTimeouts(ipvs.Timeouts) error { return syscall.EPERM }

func (r *refusing) Close() error {
	r.closed++
	return nil
}

// Every try opens IPVS anew, and one that fails leaves no socket behind.
func TestFailedOpenIsClosed(t *testing.T) {
	driver := &refusing{Fake: ipvs.NewFake()}
	c := New(config4(), cluster.NewFeeds(), Drivers{
		OpenIPVS: func() (ipvs.Interface, error) { return ipvs.Recording{Interface: driver}, nil },
	}, &warnings{}, slog.New(slog.DiscardHandler))
	if err := c.openIPVS(); !errors.Is(err, syscall.EPERM) || driver.closed != 1 {
		t.Errorf("%v; closed %d times", err, driver.closed)
	}
}
