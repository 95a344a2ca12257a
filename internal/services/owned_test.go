package services

import (
	"net/netip"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// Once the agent has gone, what it left tells which virtual servers are its own.
func TestOwnedServers(t *testing.T) {
	tcp := func(addr string) ipvs.ID { return ipvs.ID{Protocol: inet.TCP, Addr: netip.MustParseAddrPort(addr)} }
	entries := func(list ...ipset.Entry) ipset.Set {
		s := ipset.Set{Entries: map[ipset.Entry]struct{}{}}
		for _, e := range list {
			s.Entries[e] = struct{}{}
		}
		return s
	}
	port := func(addr string, mark uint32) ipset.Entry {
		e := ipset.IPPort(inet.TCP, netip.MustParseAddrPort(addr))
		e.Mark = mark
		return e
	}
	sets := map[string]ipset.Set{
		"kube-router-svip-prt":       entries(port("10.96.0.1:443", 0), port("192.168.7.11:30080", 0), port("10.96.9.9:80", 0)),
		"inet6:kube-router-svip-prt": entries(port("[fd00:96::1]:443", 0)),
		"kube-router-svip-in":        entries(port("10.96.0.1:443", 1<<18)),
		"inet6:kube-router-svip-tun": entries(port("[fd00:96::1]:443", 2<<18)),
	}
	vips := map[netip.Addr]bool{addr("10.96.0.7"): true}
	owns := OwnedServers(sets, vips, prefixes("10.96.9.0/24"))
	for id, want := range map[ipvs.ID]bool{
		tcp("10.96.0.1:443"):          true,
		tcp("10.96.0.1:80"):           false, // of kube-proxy, perhaps
		tcp("192.168.7.11:30080"):     true,
		tcp("192.168.7.11:30081"):     false,
		tcp("[fd00:96::1]:443"):       true,
		tcp("10.96.0.7:80"):           true, // was being made
		tcp("10.96.9.9:80"):           false,
		ipvs.MarkID(1<<18, inet.IPv4): true,
		ipvs.MarkID(1<<18, inet.IPv6): false,
		ipvs.MarkID(2<<18, inet.IPv6): true,
		ipvs.MarkID(17, inet.IPv4):    false,
		{Protocol: inet.UDP, Addr: netip.MustParseAddrPort("10.96.0.1:443")}: false,
	} {
		if got := owns(id); got != want {
			t.Errorf("%s: owned %t, want %t", id, got, want)
		}
	}
}
