//go:build kernel

package bgp

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// outside is a router of another system as a node sees it.
func outside(n byte, password Secret) Peer {
	return Peer{Addr: netip.AddrFrom4([4]byte{10, 9, 0, n}), ASN: 65001, Role: External, Password: password}
}

// frrConfig is a router that peers with the nodes, and has a network and a
// default route to tell of.
func frrConfig(n int, password string, nodes ...int) string {
	c := fmt.Sprintf(`router bgp 65001
 bgp router-id 10.9.0.%d
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
`, n)
	families := map[string]string{
		"ipv4": "  network 198.51.100.0/24\n  network 0.0.0.0/0\n  network 10.96.0.9/32\n", "ipv6": "  network 2001:db8::/32\n",
	}
	for _, node := range nodes {
		c += fmt.Sprintf(" neighbor 10.9.0.%d remote-as 64512\n neighbor 10.9.0.%d timers connect 1\n", node, node)
		if password != "" {
			c += fmt.Sprintf(" neighbor 10.9.0.%d password %s\n", node, password)
		}
		for f := range families {
			families[f] += fmt.Sprintf("  neighbor 10.9.0.%d activate\n", node)
		}
	}
	for f, lines := range families {
		c += " address-family " + f + " unicast\n" + lines + " exit-address-family\n"
	}
	return c
}

func birdConfig(n int, password string, nodes ...int) string {
	c := `protocol static { ipv4; route 198.51.100.0/24 blackhole; route 0.0.0.0/0 blackhole; route 10.96.0.9/32 blackhole; }
protocol static { ipv6; route 2001:db8::/32 blackhole; }
`
	for _, node := range nodes {
		secret := ""
		if password != "" {
			secret = fmt.Sprintf("password %q;", password)
		}
		c += fmt.Sprintf(`protocol bgp node%d {
  local 10.9.0.%d as 65001; neighbor 10.9.0.%d as 64512; %s
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; next hop self; };
  ipv6 { import all; export where source = RTS_STATIC; next hop address fd09::%d; };
}
`, node, n, node, secret, n)
	}
	return c
}

// A session with a password, of both families, with what is told on both sides:
// communities, prepends and a metric out; no default routes and no VIPs in.
// Then a VIP is withdrawn, and then everything by a clean stop.
func TestRouters(t *testing.T) {
	const password = "correct horse"
	med := uint32(50)
	policy := Policy{
		Reject:      []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		Communities: []uint32{64512<<16 | 100, 64512<<16 | 200}, PrependASN: 64512, PrependCount: 2, MED: &med,
	}
	for name, c := range map[string]struct {
		start func(l *network) *router
		shows func(r *router)
	}{
		"FRR": {
			func(l *network) *router { return l.frr(11, frrConfig(11, strings.ReplaceAll(password, " ", "-"), 1)) },
			func(r *router) {
				r.shows("show bgp ipv4 unicast 10.96.0.1/32", "64512 64512 64512", "metric 50", "Community: 64512:100 64512:200", "10.9.0.1 from 10.9.0.1")
				r.shows("show bgp ipv6 unicast fd00:96::1/128", "64512 64512 64512", "metric 50", "Community: 64512:100 64512:200", "fd09::1")
			},
		},
		"BIRD": {
			func(l *network) *router { return l.bird(11, birdConfig(11, strings.ReplaceAll(password, " ", "-"), 1)) },
			func(r *router) {
				r.shows("show route all 10.96.0.1/32", "BGP.as_path: 64512 64512 64512", "BGP.med: 50", "BGP.community: (64512,100) (64512,200)", "BGP.next_hop: 10.9.0.1")
				r.shows("show route all fd00:96::1/128", "BGP.as_path: 64512 64512 64512", "BGP.med: 50", "BGP.community: (64512,100) (64512,200)", "BGP.next_hop: fd09::1")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newNetwork(t, 1)
			r := c.start(l)
			node := l.node(farConfig{N: 1})
			node.do(farCommand{Policy: &policy})
			node.advertise(
				route(ToNodes, "10.244.7.0/24 via 10.9.0.1"), route(both, "10.244.1.0/24 via 10.9.0.1"),
				route(ToExternal, "10.96.0.1/32 via 10.9.0.1"), route(ToExternal, "fd00:96::1/128 via fd09::1"))
			node.peers(outside(11, Secret(strings.ReplaceAll(password, " ", "-"))))
			r.routes("10.244.1.0/24 via 10.9.0.1", "10.96.0.1 via 10.9.0.1", "fd00:96::1 via fd09::1")
			c.shows(r)
			node.learns("198.51.100.0/24 via [10.9.0.11]", "2001:db8::/32 via [fd09::11]")
			node.knows("10.9.0.11", "told 4 prefixes and was told 3", func(p PeerState) bool { return p.Accepted == 4 && p.Advertised == 3 })

			node.advertise(route(both, "10.244.1.0/24 via 10.9.0.1"))
			r.routes("10.244.1.0/24 via 10.9.0.1")
			stopped := time.Now()
			node.stop()
			r.routes()
			if took := time.Since(stopped); took > 3*time.Second {
				t.Errorf("the routes were withdrawn %v after the stop", took)
			}
		})
	}
}

// Two nodes have a VIP: the routers use both. Two routers have a network: so
// do the nodes.
func TestRoutersMultipath(t *testing.T) {
	l := newNetwork(t, 2)
	a, b := l.frr(11, frrConfig(11, "", 1, 2)), l.bird(12, birdConfig(12, "", 1, 2))
	for n := 1; n <= 2; n++ {
		node := l.node(farConfig{N: n})
		at := fmt.Sprintf(" via 10.9.0.%d", n)
		node.advertise(route(ToExternal, "10.96.0.1/32"+at), route(ToExternal, fmt.Sprintf("10.244.%d.0/24", n)+at))
		first, second := outside(11, ""), outside(12, "")
		first.Local = netip.AddrFrom4([4]byte{10, 9, 0, byte(n)})
		second.Local = first.Local
		node.peers(first, second)
		defer node.learns("198.51.100.0/24 via [10.9.0.11 10.9.0.12]", "10.96.0.9/32 via [10.9.0.11 10.9.0.12]", "2001:db8::/32 via [fd09::11 fd09::12]")
	}
	for _, r := range []*router{a, b} {
		r.routes("10.96.0.1 via 10.9.0.1 10.9.0.2", "10.244.1.0/24 via 10.9.0.1", "10.244.2.0/24 via 10.9.0.2")
	}
}

// A node is killed, and one of its routes is gone when it is back: the router
// keeps all of them until then, and after that all but that one: nothing else
// goes from its kernel, not even for a moment.
func TestRoutersKeepRoutesOfANodeThatRestarts(t *testing.T) {
	for name, start := range map[string]func(l *network) *router{
		"FRR":  func(l *network) *router { return l.frr(11, frrConfig(11, "", 1)) },
		"BIRD": func(l *network) *router { return l.bird(11, birdConfig(11, "", 1)) },
	} {
		for how, end := range map[string]func(*far){"killed": (*far).kill, "stopped": (*far).stop} {
			t.Run(name+" "+how, func(t *testing.T) {
				l := newNetwork(t, 1)
				r := start(l)
				config := farConfig{N: 1, Graceful: true, RestartTime: 60 * time.Second}
				node := l.node(config)
				stays := []Route{route(ToExternal, "10.96.0.1/32 via 10.9.0.1"), route(ToExternal, "fd00:96::1/128 via fd09::1")}
				node.advertise(append(stays, route(ToExternal, "10.96.0.2/32 via 10.9.0.1"))...)
				node.peers(outside(11, ""))
				all := []string{"10.96.0.1 via 10.9.0.1", "10.96.0.2 via 10.9.0.1", "fd00:96::1 via fd09::1"}
				r.routes(all...)
				changes := r.watch(l)
				end(node)
				config.Restarting = true
				again := l.node(config)
				again.advertise(stays...)
				again.peers(outside(11, ""))
				r.routes(all[0], all[2])
				again.learns("198.51.100.0/24 via [10.9.0.11]", "2001:db8::/32 via [fd09::11]", "10.96.0.9/32 via [10.9.0.11]")
				eventually(t, waiting, "only 10.96.0.2 deleted", func() (bool, string) {
					seen := changes()
					return len(seen) > 0 && strings.HasPrefix(seen[0], "Deleted 10.96.0.2 "), strings.Join(seen, "\n")
				})
				if seen := changes(); len(seen) != 1 {
					t.Errorf("the restart was seen in the router's kernel:\n%s", strings.Join(seen, "\n"))
				}
			})
		}
	}
}

// watch records the kernel's routes that are deleted from now on.
func (r *router) watch(l *network) (changes func() []string) {
	r.t.Helper()
	l.daemon(r.ns, "ip", "-o", "monitor", "route")
	path := l.dir + "/" + r.ns + "-ip.log"
	return func() []string {
		var lines []string
		for line := range strings.Lines(nstest.Run(r.t, "cat", path)) {
			if strings.Contains(line, "proto b") && strings.Contains(line, "Deleted") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		return lines
	}
}

// A router that is told another password, or expects another system, has no
// session, and the node says why.
func TestRoutersThatRefuse(t *testing.T) {
	l := newNetwork(t, 1)
	l.frr(11, frrConfig(11, "other", 1))
	l.bird(12, birdConfig(12, "other", 1))
	node := l.node(farConfig{N: 1})
	node.peers(outside(11, "mine"), outside(12, "mine"))
	for _, peer := range []string{"10.9.0.11", "10.9.0.12"} {
		node.knows(peer, "is not reached", func(p PeerState) bool {
			return strings.Contains(p.LastError, "a password that is not the same on both sides") && !p.Established()
		})
	}
	first, second := outside(11, "other"), outside(12, "other")
	first.ASN, second.ASN = 65002, 65002
	node.peers(first, second)
	for _, peer := range []string{"10.9.0.11", "10.9.0.12"} {
		node.knows(peer, "is of another system", func(p PeerState) bool {
			return strings.Contains(p.LastError, "autonomous system") && !p.Established()
		})
	}
	node.peers(outside(11, "other"), outside(12, "other"))
	node.learns("198.51.100.0/24 via [10.9.0.11 10.9.0.12]", "10.96.0.9/32 via [10.9.0.11 10.9.0.12]", "2001:db8::/32 via [fd09::11 fd09::12]")
}

// BFD notices within a second that a link is cut, which BGP would in 90.
func TestBFD(t *testing.T) {
	bfd := BFD{Enabled: true, Multiplier: 3, MinTx: 100 * time.Millisecond, MinRx: 100 * time.Millisecond}
	for name, start := range map[string]func(l *network) *router{
		"FRR": func(l *network) *router {
			return l.frr(11, frrConfig(11, "", 1)+" neighbor 10.9.0.1 bfd profile fast\n",
				"bfd\n profile fast\n  receive-interval 100\n  transmit-interval 100\n")
		},
		"BIRD": func(l *network) *router {
			config := strings.Replace(birdConfig(11, "", 1), "as 64512;", "as 64512; bfd on;", 1)
			return l.bird(11, "protocol bfd { interface \"eth0\" { interval 100 ms; multiplier 3; }; }\n"+config)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newNetwork(t, 1)
			r := start(l)
			node := l.node(farConfig{N: 1})
			node.advertise(route(ToExternal, "10.96.0.1/32 via 10.9.0.1"))
			peer := outside(11, "")
			peer.BFD = bfd
			node.peers(peer)
			r.routes("10.96.0.1 via 10.9.0.1")
			command := map[string]string{"FRR": "show bfd peer 10.9.0.1", "BIRD": "show bfd sessions"}[name]
			r.shows(command, map[string]string{"FRR": "Status: up", "BIRD": "Up"}[name])
			node.knows("10.9.0.11", "is watched by BFD", func(p PeerState) bool { return p.BFDState == BFDUp })
			// No side sees its link go down.
			nstest.Run(t, "ip", "link", "set", l.port(11), "nomaster")
			cut := time.Now()
			node.knows("10.9.0.11", "is down", func(p PeerState) bool { return !p.Established() && p.LastError != "" })
			if took := time.Since(cut); took > 2*time.Second {
				t.Errorf("BFD with 3 packets in 100 ms noticed after %v", took)
			}
			node.learns()
			nstest.Run(t, "ip", "link", "set", l.port(11), "master", "br0")
			r.routes("10.96.0.1 via 10.9.0.1")
		})
	}
}

// BFD that does not work is told, while BGP goes on without it: here another
// program has its port, and the peer has no BFD.
func TestBFDThatDoesNotWork(t *testing.T) {
	l := newNetwork(t, 1)
	l.bird(11, birdConfig(11, "", 1))
	taken, err := net.ListenPacket("udp", ":3784")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	node := l.node(farConfig{N: 1})
	peer := outside(11, "")
	peer.BFD.Enabled = true
	node.peers(peer)
	node.knows("10.9.0.11", "has BGP, and BFD no port", func(p PeerState) bool {
		return p.Established() && p.BFDState == "Down" && strings.Contains(p.BFDError, "address already in use")
	})
	taken.Close()
	node.knows("10.9.0.11", "has BGP, and BFD a port", func(p PeerState) bool {
		return p.Established() && p.BFDState == "Down" && p.BFDError == ""
	})
}

// A router that floods a node loses its session, and the node's memory and its
// session with another router do not suffer. What it is told is the reason.
func TestARouterThatFloods(t *testing.T) {
	l := newNetwork(t, 1)
	const many = 30000
	var flood strings.Builder
	flood.WriteString("protocol static { ipv4;\n")
	for n := range many {
		fmt.Fprintf(&flood, "  route 100.%d.%d.%d/32 blackhole;\n", 64+n>>16, n>>8&255, n&255)
	}
	flood.WriteString("}\n")
	l.bird(11, flood.String()+birdConfig(11, "", 1))
	l.bird(12, birdConfig(12, "", 1))
	node := l.node(farConfig{N: 1})
	node.peers(outside(12, ""))
	node.learns("198.51.100.0/24 via [10.9.0.12]", "2001:db8::/32 via [fd09::12]", "10.96.0.9/32 via [10.9.0.12]")
	var since time.Time
	node.knows("10.9.0.12", "is up", func(p PeerState) bool { since = p.Since; return p.Established() })

	node.peers(outside(11, ""), outside(12, ""))
	node.knows("10.9.0.11", "is cut off", func(p PeerState) bool {
		return !p.Established() && strings.Contains(p.LastError, "sent more than 20000 prefixes")
	})
	node.learns("198.51.100.0/24 via [10.9.0.12]", "2001:db8::/32 via [fd09::12]", "10.96.0.9/32 via [10.9.0.12]")
	node.knows("10.9.0.12", "has the session that it had", func(p PeerState) bool { return p.Established() && p.Since.Equal(since) })
	if used := node.memory(); used > 150 {
		t.Errorf("the node has used %d MiB", used)
	}
}

// memory is the most that a node's process has had in memory, in MiB.
func (f *far) memory() int {
	f.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.cmd.Process.Pid))
	if err != nil {
		f.t.Fatal(err)
	}
	var kib int
	for line := range strings.Lines(string(text)) {
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &kib)
	}
	return kib >> 10
}
