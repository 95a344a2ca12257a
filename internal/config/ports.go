package config

import (
	"fmt"
	"net/netip"
)

// listening is a server of the agent. The empty address is all.
type listening struct {
	flag, addr string
	port       uint16
	// outside is one that listens on addresses of the node only.
	outside bool
}

func (l listening) String() string {
	if l.flag == "enable-pprof" {
		return "--enable-pprof=true"
	}
	return fmt.Sprintf("--%s=%d", l.flag, l.port)
}

// checkPorts refuses servers of which one could not listen.
func (f *flags) checkPorts(c *Config) error {
	servers := []listening{{flag: "health-port", addr: f.healthAddr, port: f.healthPort}, {flag: "metrics-port", addr: f.metricsAddr, port: f.metricsPort}}
	if f.profiles {
		at := netip.MustParseAddrPort(profilesAddress)
		servers = append(servers, listening{flag: "enable-pprof", addr: at.Addr().String(), port: at.Port()})
	}
	if c.RunRouter {
		servers = append(servers, listening{flag: "gobgp-admin-port", addr: f.adminAddr, port: f.adminPort},
			listening{flag: "bgp-port", port: c.BGP.Port, outside: true})
	}
	for i, a := range servers {
		for _, b := range servers[i+1:] {
			if a.port != 0 && a.port == b.port && overlap(a, b) {
				return fmt.Errorf("%s %s: two servers cannot share port %d; set another for one of them, or turn one off", a, b, a.port)
			}
		}
	}
	return nil
}

// overlap says whether listening on a and b needs one socket address. The
// wildcard addresses, and none at all, take every other address.
func overlap(a, b listening) bool {
	is := func(l listening, what func(netip.Addr) bool) bool {
		return l.addr != "" && what(netip.MustParseAddr(l.addr))
	}
	wildcard := func(l listening) bool { return l.addr == "" || is(l, netip.Addr.IsUnspecified) }
	if a.outside && is(b, netip.Addr.IsLoopback) || b.outside && is(a, netip.Addr.IsLoopback) {
		return false
	}
	return a.addr == b.addr || wildcard(a) || wildcard(b)
}
