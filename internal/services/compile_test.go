package services

import (
	"net/netip"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

var n1 = node("n1", "192.168.7.11", "10.244.1.0/24")

// with changes a Service.
func with(s *cluster.Service, change func(*cluster.Service)) *cluster.Service {
	change(s)
	return s
}

// changed changes a Node.
func changed(n *cluster.Node, change func(*cluster.Node)) *cluster.Node {
	change(n)
	return n
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var compileCases = []compileCase{
	{
		name: "cluster IP, TCP and UDP, two endpoints",
		objects: []any{
			service("dns", "10.96.0.10", tcp(53, 0), udp(53, 0)),
			slice("dns", 5353, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:53 -s rr
-a -t 10.96.0.10:53 -r 10.244.1.2:5353 -m -w 1
-a -t 10.96.0.10:53 -r 10.244.2.2:5353 -m -w 1
-A -u 10.96.0.10:53 -s rr
-a -u 10.96.0.10:53 -r 10.244.1.2:5353 -m -w 1
-a -u 10.96.0.10:53 -r 10.244.2.2:5353 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:53
add kube-router-svip-prt 10.96.0.10,udp:53
`,
	}, {
		name:   "node port, hairpin, another scheduler, session affinity",
		config: func(c *Config) { c.Hairpin, c.Scheduler = true, "lc" },
		objects: []any{
			with(service("web", "10.96.0.10", tcp(80, 30080)), func(s *cluster.Service) { s.AffinityTimeout = 3 * time.Hour }),
			slice("web", 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2")),
			with(service("own", "10.96.0.11", tcp(80, 0)), func(s *cluster.Service) {
				s.Annotations = map[string]string{"kube-router.io/service.scheduler": "sh"}
			}),
			slice("own", 8080, ready("10.244.2.2", "n2")),
			with(service("odd", "10.96.0.12", tcp(80, 0)), func(s *cluster.Service) {
				s.Annotations = map[string]string{"kube-router.io/service.scheduler": "lblc"}
			}),
			slice("odd", 8080, ready("10.244.2.2", "n2")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s lc -p 10800
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.244.2.2:8080 -m -w 1
-A -t 10.96.0.11:80 -s sh -b sh-fallback
-a -t 10.96.0.11:80 -r 10.244.2.2:8080 -m -w 1
-A -t 10.96.0.12:80 -s lc
-a -t 10.96.0.12:80 -r 10.244.2.2:8080 -m -w 1
-A -t 192.168.7.11:30080 -s lc -p 10800
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 1
-a -t 192.168.7.11:30080 -r 10.244.2.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
local 10.96.0.12 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-hairpin 10.244.1.2,tcp:8080,10.244.1.2
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip 10.96.0.12
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
add kube-router-svip-prt 10.96.0.12,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
`,
		events: []string{`Service default/odd: UnknownScheduler: annotation kube-router.io/service.scheduler: "lblc" is not one of ` +
			`rr, wrr, lc, wlc, sh, dh, sed, nq, mh; lc is used`},
	}, {
		name: "no endpoints: the address rejects, the node port does not exist",
		objects: []any{
			service("web", "10.96.0.10", tcp(80, 30080)),
		},
		want: `
# ipvsadm -Sn
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
`,
	}, {
		name: "one ready, one terminating, one not ready: the first gets what is new; datagrams stay only where somebody serves",
		objects: []any{
			service("web", "10.96.0.10", tcp(80, 0), udp(80, 0)),
			slice("web", 8080, ready("10.244.1.2", "n1"), terminating("10.244.1.3", "n1"), unready("10.244.1.4", "n1")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.244.1.3:8080 -m -w 0
-a -t 10.96.0.10:80 -r 10.244.1.4:8080 -m -w 0
-A -u 10.96.0.10:80 -s rr
-a -u 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-a -u 10.96.0.10:80 -r 10.244.1.3:8080 -m -w 0
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.10,udp:80
`,
	}, {
		name: "none ready: those that terminate and serve are used",
		objects: []any{
			service("web", "10.96.0.10", tcp(80, 0)),
			slice("web", 8080, terminating("10.244.1.3", "n1"), unready("10.244.1.4", "n1")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.3:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.244.1.4:8080 -m -w 0
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
`,
	}, {
		name: "publishNotReadyAddresses: slices call every endpoint ready, so all are used, also those that leave",
		objects: []any{
			service("web", "10.96.0.10", tcp(80, 0), udp(80, 0)),
			slice("web", 8080, cluster.Endpoint{Addr: addr("10.244.1.3"), Node: "n1", Ready: true},
				cluster.Endpoint{Addr: addr("10.244.2.4"), Node: "n2", Ready: true, Terminating: true}),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.3:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.244.2.4:8080 -m -w 1
-A -u 10.96.0.10:80 -s rr
-a -u 10.96.0.10:80 -r 10.244.1.3:8080 -m -w 1
-a -u 10.96.0.10:80 -r 10.244.2.4:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.10,udp:80
`,
	}, {
		name:   "dual-stack",
		config: func(c *Config) { *c = config46(); c.Hairpin = true },
		node: &cluster.Node{
			Meta: n1.Meta, InternalIPs: addrs("192.168.7.11", "fd00:7::11"), PodCIDRs: prefixes("10.244.1.0/24", "fd00:244:1::/64"),
		},
		objects: []any{
			with(service("web", "10.96.0.10", tcp(80, 30080)), func(s *cluster.Service) { s.ClusterIPs = addrs("10.96.0.10", "fd00:96::10") }),
			slice("web", 8080, ready("10.244.1.2", "n1")),
			&cluster.EndpointSlice{
				Meta: meta("web-2"), Service: meta("web").Key, Ports: []cluster.EndpointPort{{Protocol: inet.TCP, Port: 8080}},
				Endpoints: []cluster.Endpoint{ready("fd00:244:1::2", "n1")},
			},
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 1
-A -t [fd00:7::11]:30080 -s rr
-a -t [fd00:7::11]:30080 -r [fd00:244:1::2]:8080 -m -w 1
-A -t [fd00:96::10]:80 -s rr
-a -t [fd00:96::10]:80 -r [fd00:244:1::2]:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local fd00:96::10 dev lo proto 17 src fd00:7::11
# ipset save
add inet6:kube-router-hairpin fd00:244:1::2,tcp:8080,fd00:244:1::2
add inet6:kube-router-node-pods fd00:244:1::/64
add inet6:kube-router-svip fd00:96::10
add inet6:kube-router-svip-prt fd00:7::11,tcp:30080
add inet6:kube-router-svip-prt fd00:96::10,tcp:80
add kube-router-hairpin 10.244.1.2,tcp:8080,10.244.1.2
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
`,
	}, {
		name: "external and load balancer IPs within their ranges, and an address of the node itself",
		config: func(c *Config) {
			c.ExternalIPRanges, c.LoadBalancerIPRanges = prefixes("203.0.113.0/24", "192.168.7.0/24"), prefixes("198.51.100.0/24")
		},
		objects: []any{
			with(service("web", "10.96.0.10", tcp(80, 0)), func(s *cluster.Service) {
				s.ExternalIPs = addrs("203.0.113.1", "192.168.7.11", "8.8.8.8", "10.96.0.77")
				s.LoadBalancerIPs = addrs("198.51.100.1", "203.0.113.1")
			}),
			slice("web", 8080, ready("10.244.2.2", "n2")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.2.2:8080 -m -w 1
-A -t 192.168.7.11:80 -s rr
-a -t 192.168.7.11:80 -r 10.244.2.2:8080 -m -w 1
-A -t 198.51.100.1:80 -s rr
-a -t 198.51.100.1:80 -r 10.244.2.2:8080 -m -w 1
-A -t 203.0.113.1:80 -s rr
-a -t 203.0.113.1:80 -r 10.244.2.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 198.51.100.1 dev lo proto 17 src 192.168.7.11
local 203.0.113.1 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 198.51.100.1
add kube-router-svip 203.0.113.1
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:80
add kube-router-svip-prt 198.51.100.1,tcp:80
add kube-router-svip-prt 203.0.113.1,tcp:80
`,
		events: []string{
			"Service default/web: AddressRefused: external IP 8.8.8.8 is not served, nor are 1 others: it must be in a range that is configured for external IPs, and not in that of cluster IPs",
			"Service default/web: AddressRefused: load balancer IP 203.0.113.1 is not served: it must be in a range that is configured for load balancer IPs, and not in that of cluster IPs",
		},
	}, {
		name:   "addresses of nodes: an external or load balancer IP is served on the node that has it, and is never a local route",
		config: func(c *Config) { c.AnyIP = true },
		node:   changed(node("n1", "192.168.7.11", "10.244.1.0/24"), func(n *cluster.Node) { n.ExternalIPs = addrs("198.51.100.11") }),
		objects: []any{
			changed(node("n2", "192.168.7.12", "10.244.2.0/24"), func(n *cluster.Node) {
				n.InternalIPs, n.ExternalIPs = append(n.InternalIPs, addr("172.16.0.12")), addrs("198.51.100.12")
			}),
			with(service("web", "10.96.0.10", tcp(80, 0)), func(s *cluster.Service) {
				s.ExternalIPs = addrs("192.168.7.11", "198.51.100.11", "192.168.7.12", "172.16.0.12")
				s.LoadBalancerIPs = addrs("198.51.100.12", "203.0.113.1")
			}),
			slice("web", 8080, ready("10.244.1.2", "n1")),
			service("bad", "192.168.7.12", tcp(81, 0)),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-A -t 192.168.7.11:80 -s rr
-a -t 192.168.7.11:80 -r 10.244.1.2:8080 -m -w 1
-A -t 198.51.100.11:80 -s rr
-a -t 198.51.100.11:80 -r 10.244.1.2:8080 -m -w 1
-A -t 203.0.113.1:80 -s rr
-a -t 203.0.113.1:80 -r 10.244.1.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 203.0.113.1 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 203.0.113.1
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:80
add kube-router-svip-prt 198.51.100.11,tcp:80
add kube-router-svip-prt 203.0.113.1,tcp:80
`,
		events: []string{
			"Service default/bad: ClusterIPOfNode: cluster IP 192.168.7.12 is left out: it is an address of node n2; the range of cluster IPs must not overlap the nodes' network",
		},
	}, {
		name: "what is wrong is left out and reported; the rest is served",
		objects: []any{
			service("web", "10.96.0.10", tcp(80, 0), cluster.ServicePort{Name: "zero", Protocol: inet.TCP}),
			slice("web", 8080, ready("10.244.1.2", "n1"), ready("10.96.0.10", ""), ready("127.0.0.1", ""), ready("0.0.0.0", ""),
				ready("169.254.1.1", ""), ready("224.0.0.1", ""), ready("fd00::1", ""), cluster.Endpoint{Ready: true}),
			&cluster.EndpointSlice{
				Meta: meta("web-zero"), Service: meta("web").Key, Ports: []cluster.EndpointPort{{Protocol: inet.TCP}},
				Endpoints: []cluster.Endpoint{ready("10.244.1.3", "n1")},
			},
			service("bad", "192.168.7.11", tcp(80, 0)),
			service("six", "fd00:96::10", tcp(80, 0)),
			slice("orphan", 8080, ready("10.244.1.2", "n1")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
`,
		events: []string{
			"EndpointSlice default/web-1: BadEndpoint: 7 of 8 endpoints are left out; the first is 10.96.0.10: it is in the range of cluster IPs",
			"EndpointSlice default/web-zero: PortZero: a port without a number is left out",
			"Service default/bad: ClusterIPOfNode: cluster IP 192.168.7.11 is left out: it is an address of node n1; the range of cluster IPs must not overlap the nodes' network",
			`Service default/web: PortZero: port "zero" has no number and is left out`,
		},
	}, {
		name: "an endpoint in two slices counts once, at its best",
		objects: []any{
			service("web", "10.96.0.10", tcp(80, 0)),
			slice("web", 8080, terminating("10.244.1.2", "n1"), ready("10.244.1.3", "n1")),
			&cluster.EndpointSlice{
				Meta: meta("web-2"), Service: meta("web").Key, Ports: []cluster.EndpointPort{{Protocol: inet.TCP, Port: 8080}},
				Endpoints: []cluster.Endpoint{ready("10.244.1.2", "n1"), unready("10.244.1.3", "n1")},
			},
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.10:80 -r 10.244.1.3:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip-prt 10.96.0.10,tcp:80
`,
	}, {
		name: "two Services with one address and port: the first by name is served, whatever it has",
		config: func(c *Config) {
			c.ExternalIPRanges = prefixes("203.0.113.0/24")
		},
		objects: []any{
			with(service("b", "10.96.0.11", tcp(80, 0)), func(s *cluster.Service) { s.ExternalIPs = addrs("203.0.113.1") }),
			slice("b", 8080, ready("10.244.2.2", "n2")),
			with(service("a", "10.96.0.10", tcp(80, 0)), func(s *cluster.Service) { s.ExternalIPs = addrs("203.0.113.1") }),
			slice("a", 8080, ready("10.244.1.2", "n1")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.11:80 -s rr
-a -t 10.96.0.11:80 -r 10.244.2.2:8080 -m -w 1
-A -t 203.0.113.1:80 -s rr
-a -t 203.0.113.1:80 -r 10.244.1.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
local 203.0.113.1 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip 203.0.113.1
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
add kube-router-svip-prt 203.0.113.1,tcp:80
`,
		events: []string{"Service default/b: AddressInUse: 203.0.113.1 port 80/tcp belongs to Service default/a as well, " +
			"which is served there because its name comes first; give one of them another address or port"},
	},
}
