package services

import (
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
)

// annotated gives a Service annotations of kube-router.io, by key and value.
func annotated(s *cluster.Service, notes ...string) *cluster.Service {
	s.Annotations = map[string]string{}
	for i := 0; i < len(notes); i += 2 {
		s.Annotations["kube-router.io/"+notes[i]] = notes[i+1]
	}
	return s
}

func weighted(n *cluster.Node, weight string) *cluster.Node {
	n.Annotations = map[string]string{"kube-router.io/node.weight": weight}
	return n
}

func hinted(e cluster.Endpoint, zones []string, nodes ...string) cluster.Endpoint {
	e.Hints = &cluster.Hints{Zones: zones, Nodes: nodes}
	return e
}

var (
	n2 = node("n2", "192.168.7.12", "10.244.2.0/24")
	// nz is n1 in zone z1.
	nz = func() *cluster.Node {
		n := *n1
		n.Labels = map[string]string{"topology.kubernetes.io/zone": "z1"}
		return &n
	}()
)

var optionCases = []compileCase{
	{
		name:   "direct server return: a tunnel to each other node, and a mark for what comes out of one; node ports without",
		config: func(c *Config) { c.ExternalIPRanges = prefixes("203.0.113.0/24") },
		objects: []any{
			weighted(node("n2", "192.168.7.12", "10.244.2.0/24"), "3"),
			with(annotated(service("web", "10.96.0.10", tcp(80, 30080)), "service.dsr", "tunnel"), func(s *cluster.Service) {
				s.ExternalIPs, s.AffinityTimeout = addrs("203.0.113.1"), time.Hour
			}),
			slice("web", 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2"), ready("10.244.2.3", "n2"), ready("10.9.9.9", "")),
		},
		want: `
# ipvsadm -Sn
-A -f 2847932416 -s sh -b sh-fallback
-a -f 2847932416 -r 10.244.1.2:8080 -m -w 1
-a -f 2847932416 -r 10.244.2.2:8080 -m -w 3
-a -f 2847932416 -r 10.244.2.3:8080 -m -w 3
-a -f 2847932416 -r 10.9.9.9:8080 -m -w 1
-A -f 3134980096 -s sh -b sh-fallback
-a -f 3134980096 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.10:80 -s rr -p 3600
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.9.9.9:8080 -m -w 1
-a -t 10.96.0.10:80 -r 192.168.7.12:80 -i -w 6 --tun-type ipip
-A -t 192.168.7.11:30080 -s rr -p 3600
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 1
-a -t 192.168.7.11:30080 -r 10.244.2.2:8080 -m -w 3
-a -t 192.168.7.11:30080 -r 10.244.2.3:8080 -m -w 3
-a -t 192.168.7.11:30080 -r 10.9.9.9:8080 -m -w 1
-A -t 203.0.113.1:80 -s rr -p 3600
-a -t 203.0.113.1:80 -r 10.244.1.2:8080 -m -w 1
-a -t 203.0.113.1:80 -r 10.9.9.9:8080 -m -w 1
-a -t 203.0.113.1:80 -r 192.168.7.12:80 -i -w 6 --tun-type ipip
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 203.0.113.1 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 203.0.113.1
add kube-router-svip-in 10.96.0.10,tcp:80 skbmark 0xa9c00000
add kube-router-svip-in 203.0.113.1,tcp:80 skbmark 0xa9c00000
add kube-router-svip-nodes 192.168.7.11
add kube-router-svip-nodes 192.168.7.12
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
add kube-router-svip-prt 203.0.113.1,tcp:80
add kube-router-svip-tun 10.96.0.10,tcp:80 skbmark 0xbadc0000
add kube-router-svip-tun 203.0.113.1,tcp:80 skbmark 0xbadc0000
`,
		events: []string{
			`Service default/web: NoDirectReturn: direct server return is not for node ports: they are served without it`,
			`Service default/web: NoDirectReturn: endpoint 10.9.9.9:8080 answers through the node that got the request: it is on no node of the cluster`,
		},
	}, {
		name:   "direct server return: no endpoint elsewhere, none here, unready ones, Local, the global flag, IPv6",
		config: func(c *Config) { *c = config46(); c.DSR = true },
		node: &cluster.Node{
			Meta: n1.Meta, InternalIPs: addrs("192.168.7.11", "fd00:7::11"), PodCIDRs: prefixes("10.244.1.0/24"),
		},
		objects: []any{
			n2,
			service("here", "10.96.0.10", tcp(80, 0)), slice("here", 8080, ready("10.244.1.2", "n1")),
			service("there", "10.96.0.11", tcp(80, 0)), slice("there", 80, ready("192.168.7.12", "n2")),
			service("ending", "10.96.0.12", tcp(80, 0), udp(80, 0)), slice("ending", 8080, unready("10.244.2.2", "n2")),
			with(service("local", "10.96.0.13", tcp(80, 0)), func(s *cluster.Service) { s.InternalLocal = true }), slice("local", 8080, ready("10.244.1.2", "n1")),
			annotated(service("none", "10.96.0.14", tcp(80, 0)), "service.dsr", "none"), slice("none", 8080, ready("10.244.2.2", "n2")),
			service("six", "fd00:96::15", tcp(80, 0)), slice("six", 8080, ready("fd00:244:2::2", "n2")),
		},
		want: `
# ipvsadm -Sn
-A -f 289144832 -s rr
-a -f 289144832 -r 10.244.2.2:8080 -m -w 0
-A -f 2894331904 -s rr
-a -f 2894331904 -r 10.244.1.2:8080 -m -w 1
-A -f 3368812544 -s rr
-a -f 3368812544 -r 192.168.7.12:80 -m -w 1
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.11:80 -s rr
-a -t 10.96.0.11:80 -r 192.168.7.12:80 -i -w 1 --tun-type ipip
-A -t 10.96.0.12:80 -s rr
-a -t 10.96.0.12:80 -r 192.168.7.12:80 -i -w 0 --tun-type ipip
-A -t 10.96.0.13:80 -s rr
-a -t 10.96.0.13:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.14:80 -s rr
-a -t 10.96.0.14:80 -r 10.244.2.2:8080 -m -w 1
-A -t [fd00:96::15]:80 -s rr
-a -t [fd00:96::15]:80 -r [fd00:244:2::2]:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
local 10.96.0.12 dev lo proto 17 src 192.168.7.11
local 10.96.0.13 dev lo proto 17 src 192.168.7.11
local 10.96.0.14 dev lo proto 17 src 192.168.7.11
local fd00:96::15 dev lo proto 17 src fd00:7::11
# ipset save
add inet6:kube-router-svip fd00:96::15
add inet6:kube-router-svip-nodes fd00:7::11
add inet6:kube-router-svip-prt fd00:96::15,tcp:80
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip 10.96.0.12
add kube-router-svip 10.96.0.13
add kube-router-svip 10.96.0.14
add kube-router-svip-in 10.96.0.11,tcp:80 skbmark 0xc8cc0000
add kube-router-svip-in 10.96.0.12,tcp:80 skbmark 0x113c0000
add kube-router-svip-nodes 192.168.7.11
add kube-router-svip-nodes 192.168.7.12
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
add kube-router-svip-prt 10.96.0.12,tcp:80
add kube-router-svip-prt 10.96.0.13,tcp:80
add kube-router-svip-prt 10.96.0.14,tcp:80
add kube-router-svip-tun 10.96.0.10,tcp:80 skbmark 0xac840000
`,
	}, {
		name:   "direct server return that a Service asks for: its limits are told, but for the policy Local, which needs none",
		config: func(c *Config) { *c = config46() },
		node: &cluster.Node{
			Meta: n1.Meta, InternalIPs: addrs("192.168.7.11", "fd00:7::11"), PodCIDRs: n1.PodCIDRs,
		},
		objects: []any{
			with(annotated(service("both", "10.96.0.10", tcp(80, 30080)), "service.dsr", "tunnel"), func(s *cluster.Service) {
				s.ClusterIPs = addrs("10.96.0.10", "fd00:96::10")
			}),
			with(annotated(service("local", "10.96.0.11", tcp(80, 30081)), "service.dsr", "tunnel"), func(s *cluster.Service) {
				s.ClusterIPs, s.InternalLocal, s.ExternalLocal = addrs("10.96.0.11", "fd00:96::11"), true, true
			}),
		},
		want: `
# ipvsadm -Sn
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
local fd00:96::10 dev lo proto 17 src fd00:7::11
local fd00:96::11 dev lo proto 17 src fd00:7::11
# ipset save
add inet6:kube-router-svip fd00:96::10
add inet6:kube-router-svip fd00:96::11
add inet6:kube-router-svip-nodes fd00:7::11
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip-nodes 192.168.7.11
`,
		events: []string{
			`Service default/both: NoDirectReturn: direct server return is not for IPv6: its addresses of that family are served without it`,
			`Service default/both: NoDirectReturn: direct server return is not for node ports: they are served without it`,
		},
	}, {
		name: "direct server return of a node that cannot tell its pods: it takes from tunnels and sends into none",
		node: &cluster.Node{Meta: n1.Meta, InternalIPs: n1.InternalIPs},
		objects: []any{
			n2,
			annotated(service("web", "10.96.0.10", tcp(80, 0)), "service.dsr", "tunnel"),
			slice("web", 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2")),
		},
		want: `
# ipvsadm -Sn
-A -f 3134980096 -s rr
-a -f 3134980096 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.244.2.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-svip 10.96.0.10
add kube-router-svip-nodes 192.168.7.11
add kube-router-svip-nodes 192.168.7.12
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-tun 10.96.0.10,tcp:80 skbmark 0xbadc0000
`,
		events: []string{"Service default/web: NoDirectReturn: endpoints on other nodes answer through node n1: " +
			"its Node object has no podCIDRs, which tell pods of the node from clients outside"},
	}, {
		name: "source ranges, of each family; all of one family; none that can be read; an address that is an external IP as well",
		config: func(c *Config) {
			c.LoadBalancerIPRanges, c.ExternalIPRanges = prefixes("203.0.113.0/24"), prefixes("203.0.113.0/24")
		},
		objects: []any{
			with(service("some", "10.96.0.10", tcp(80, 30080)), func(s *cluster.Service) {
				s.LoadBalancerIPs, s.Restricted, s.SourceRanges = addrs("203.0.113.1"), true, prefixes("198.51.100.0/24", "192.0.2.7/32", "2001:db8::/32")
			}),
			slice("some", 8080, ready("10.244.1.2", "n1")),
			with(service("all", "10.96.0.11", tcp(80, 0)), func(s *cluster.Service) {
				s.LoadBalancerIPs, s.Restricted, s.SourceRanges = addrs("203.0.113.2"), true, prefixes("0.0.0.0/0")
			}),
			slice("all", 8080, ready("10.244.1.2", "n1")),
			with(service("nobody", "10.96.0.12", tcp(80, 0)), func(s *cluster.Service) {
				s.LoadBalancerIPs, s.Restricted = addrs("203.0.113.3"), true
			}),
			slice("nobody", 8080, ready("10.244.1.2", "n1")),
			with(service("twice", "10.96.0.13", tcp(80, 0)), func(s *cluster.Service) {
				s.ExternalIPs, s.LoadBalancerIPs = addrs("203.0.113.4"), addrs("203.0.113.4")
				s.Restricted, s.SourceRanges = true, prefixes("198.51.100.0/24")
			}),
			slice("twice", 8080, ready("10.244.1.2", "n1")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.11:80 -s rr
-a -t 10.96.0.11:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.12:80 -s rr
-a -t 10.96.0.12:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.13:80 -s rr
-a -t 10.96.0.13:80 -r 10.244.1.2:8080 -m -w 1
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 1
-A -t 203.0.113.1:80 -s rr
-a -t 203.0.113.1:80 -r 10.244.1.2:8080 -m -w 1
-A -t 203.0.113.2:80 -s rr
-a -t 203.0.113.2:80 -r 10.244.1.2:8080 -m -w 1
-A -t 203.0.113.3:80 -s rr
-a -t 203.0.113.3:80 -r 10.244.1.2:8080 -m -w 1
-A -t 203.0.113.4:80 -s rr
-a -t 203.0.113.4:80 -r 10.244.1.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
local 10.96.0.12 dev lo proto 17 src 192.168.7.11
local 10.96.0.13 dev lo proto 17 src 192.168.7.11
local 203.0.113.1 dev lo proto 17 src 192.168.7.11
local 203.0.113.2 dev lo proto 17 src 192.168.7.11
local 203.0.113.3 dev lo proto 17 src 192.168.7.11
local 203.0.113.4 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip 10.96.0.12
add kube-router-svip 10.96.0.13
add kube-router-svip 203.0.113.1
add kube-router-svip 203.0.113.2
add kube-router-svip 203.0.113.3
add kube-router-svip 203.0.113.4
add kube-router-svip-lim 203.0.113.1,tcp:80
add kube-router-svip-lim 203.0.113.3,tcp:80
add kube-router-svip-lim 203.0.113.4,tcp:80
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
add kube-router-svip-prt 10.96.0.12,tcp:80
add kube-router-svip-prt 10.96.0.13,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
add kube-router-svip-prt 203.0.113.1,tcp:80
add kube-router-svip-prt 203.0.113.2,tcp:80
add kube-router-svip-prt 203.0.113.3,tcp:80
add kube-router-svip-prt 203.0.113.4,tcp:80
add kube-router-svip-src 203.0.113.1,tcp:80,192.0.2.7
add kube-router-svip-src 203.0.113.1,tcp:80,198.51.100.0/24
add kube-router-svip-src 203.0.113.4,tcp:80,198.51.100.0/24
`,
	}, {
		name: "hints: the zone's endpoints, the node's; all where one has no hint, or none is for here",
		node: nz,
		objects: []any{
			service("zone", "10.96.0.10", tcp(80, 0)),
			slice("zone", 8080, hinted(ready("10.244.1.2", "n1"), []string{"z1"}), hinted(ready("10.244.2.2", "n2"), []string{"z2"}), unready("10.244.2.3", "n2")),
			service("node", "10.96.0.11", tcp(80, 0)),
			slice("node", 8080, hinted(ready("10.244.1.2", "n1"), []string{"z1"}, "n1"), hinted(ready("10.244.1.3", "n3"), []string{"z1"}, "n3")),
			service("some", "10.96.0.12", tcp(80, 0)),
			slice("some", 8080, hinted(ready("10.244.1.2", "n1"), []string{"z1"}), ready("10.244.2.2", "n2")),
			service("far", "10.96.0.13", tcp(80, 0)),
			slice("far", 8080, hinted(ready("10.244.2.2", "n2"), []string{"z2"})),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.244.2.2:8080 -m -w 0
-a -t 10.96.0.10:80 -r 10.244.2.3:8080 -m -w 0
-A -t 10.96.0.11:80 -s rr
-a -t 10.96.0.11:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.11:80 -r 10.244.1.3:8080 -m -w 0
-A -t 10.96.0.12:80 -s rr
-a -t 10.96.0.12:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.12:80 -r 10.244.2.2:8080 -m -w 1
-A -t 10.96.0.13:80 -s rr
-a -t 10.96.0.13:80 -r 10.244.2.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
local 10.96.0.12 dev lo proto 17 src 192.168.7.11
local 10.96.0.13 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip 10.96.0.12
add kube-router-svip 10.96.0.13
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
add kube-router-svip-prt 10.96.0.12,tcp:80
add kube-router-svip-prt 10.96.0.13,tcp:80
`,
	}, {
		name:   "annotations",
		config: func(c *Config) { c.AnyIP = true },
		node:   weighted(node("n1", "192.168.7.11", "10.244.1.0/24"), "0"),
		objects: []any{
			annotated(service("flags", "10.96.0.10", tcp(80, 0)), "service.scheduler", "mh", "service.schedflags", "flag-1, flag-2"),
			slice("flags", 8080, ready("10.244.1.2", "n1")),
			annotated(service("noflags", "10.96.0.11", tcp(80, 0)), "service.schedflags", "flag-1"),
			slice("noflags", 8080, ready("10.244.1.2", "n1")),
			annotated(service("badflags", "10.96.0.12", tcp(80, 0)), "service.scheduler", "sh", "service.schedflags", "fallback"),
			slice("badflags", 8080, ready("10.244.1.2", "n1")),
			with(annotated(service("local", "10.96.0.13", tcp(80, 30080)), "service.local", "true", "service.hairpin", ""), func(s *cluster.Service) { s.InternalLocal = true }),
			slice("local", 8080, ready("10.244.1.2", "n1")),
			with(annotated(service("skip", "10.96.0.14", tcp(80, 0)), "service.skiplbips", "", "service.dsr", "l2"), func(s *cluster.Service) {
				s.LoadBalancerIPs, s.ExternalIPs = addrs("203.0.113.1"), addrs("198.51.100.1")
			}),
			slice("skip", 8080, ready("10.244.1.2", "n1")),
			annotated(service("dh", "10.96.0.15", tcp(80, 0)), "service.scheduler", "dh"),
			slice("dh", 8080, ready("10.244.1.2", "n1"), unready("10.244.1.3", "n1")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s mh -b mh-fallback,mh-port
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.11:80 -s rr
-a -t 10.96.0.11:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.12:80 -s sh -b sh-fallback
-a -t 10.96.0.12:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.13:80 -s rr
-a -t 10.96.0.13:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.14:80 -s rr
-a -t 10.96.0.14:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.15:80 -s dh
-a -t 10.96.0.15:80 -r 10.244.1.2:8080 -m -w 1
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 1
-A -t 198.51.100.1:80 -s rr
-a -t 198.51.100.1:80 -r 10.244.1.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
local 10.96.0.12 dev lo proto 17 src 192.168.7.11
local 10.96.0.13 dev lo proto 17 src 192.168.7.11
local 10.96.0.14 dev lo proto 17 src 192.168.7.11
local 10.96.0.15 dev lo proto 17 src 192.168.7.11
local 198.51.100.1 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-hairpin 10.244.1.2,tcp:8080,10.244.1.2
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip 10.96.0.12
add kube-router-svip 10.96.0.13
add kube-router-svip 10.96.0.14
add kube-router-svip 10.96.0.15
add kube-router-svip 198.51.100.1
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
add kube-router-svip-prt 10.96.0.12,tcp:80
add kube-router-svip-prt 10.96.0.13,tcp:80
add kube-router-svip-prt 10.96.0.14,tcp:80
add kube-router-svip-prt 10.96.0.15,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
add kube-router-svip-prt 198.51.100.1,tcp:80
`,
		events: []string{
			`Node n1: BadWeight: annotation kube-router.io/node.weight: "0" is not a weight; allowed are 1 to 65535; 1 is used`,
			`Service default/badflags: UnknownFlag: annotation kube-router.io/service.schedflags: "fallback" is ignored: allowed are flag-1, flag-2 and flag-3 with commas between`,
			`Service default/noflags: FlagsIgnored: annotation kube-router.io/service.schedflags: "flag-1" is ignored: scheduler rr has no flags, mh and sh have`,
			`Service default/skip: UnknownMode: annotation kube-router.io/service.dsr: "l2" is ignored: allowed are tunnel, and none where the flag --service-proxy-dsr is set`,
		},
	},
}
