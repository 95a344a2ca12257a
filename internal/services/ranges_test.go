package services

import "github.com/kube-router/kube-router/internal/cluster"

// rangeCases are those of clusters whose range of cluster IPs nobody has said.
var rangeCases = []compileCase{
	{
		name:   "without a known range of cluster IPs, Pods and external IPs may be anywhere",
		config: func(c *Config) { c.ServiceRanges, c.ExternalIPRanges = nil, prefixes("10.96.0.0/16") },
		objects: []any{
			with(service("web", "172.20.0.10", tcp(80, 0)), func(s *cluster.Service) { s.ExternalIPs = addrs("10.96.0.77") }),
			slice("web", 8080, ready("10.100.1.2", "n1"), ready("172.20.0.10", "")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.77:80 -s rr
-a -t 10.96.0.77:80 -r 10.100.1.2:8080 -m -w 1
-A -t 172.20.0.10:80 -s rr
-a -t 172.20.0.10:80 -r 10.100.1.2:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.77 dev lo proto 17 src 192.168.7.11
local 172.20.0.10 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.77
add kube-router-svip 172.20.0.10
add kube-router-svip-prt 10.96.0.77,tcp:80
add kube-router-svip-prt 172.20.0.10,tcp:80
`,
		events: []string{
			"EndpointSlice default/web-1: BadEndpoint: 1 of 2 endpoints are left out; the first is 172.20.0.10: it is an address of the Service itself",
		},
	}, {
		name:   "without a known range, a cluster IP is still nobody else's, whatever the names",
		config: func(c *Config) { c.ServiceRanges, c.AnyIP = nil, true },
		objects: []any{
			service("web", "10.96.0.10", tcp(80, 0)),
			slice("web", 8080, ready("10.244.1.2", "n1")),
			with(service("a", "10.96.0.11", tcp(80, 0)), func(s *cluster.Service) { s.ExternalIPs = addrs("10.96.0.10") }),
			slice("a", 8080, ready("10.244.1.3", "n1")),
		},
		want: `
# ipvsadm -Sn
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.11:80 -s rr
-a -t 10.96.0.11:80 -r 10.244.1.3:8080 -m -w 1
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
`,
		events: []string{"Service default/a: AddressInUse: 10.96.0.10 port 80/tcp belongs to Service default/web as well, " +
			"which is served there because it is its cluster IP; give one of them another address or port"},
	},
}
