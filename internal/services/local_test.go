package services

import "github.com/kube-router/kube-router/internal/cluster"

// localCases are those of the traffic policy Local.
var localCases = []compileCase{
	{
		name: "traffic policies Local: this node's endpoints; where there are only others, silence; clients of this node get all",
		objects: []any{
			with(service("here", "10.96.0.10", tcp(80, 30080)), func(s *cluster.Service) { s.InternalLocal, s.ExternalLocal = true, true }),
			slice("here", 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2")),
			with(service("there", "10.96.0.11", tcp(80, 30081)), func(s *cluster.Service) { s.ExternalLocal = true }),
			slice("there", 8080, ready("10.244.2.2", "n2")),
			with(service("nowhere", "10.96.0.12", tcp(80, 30082)), func(s *cluster.Service) { s.InternalLocal, s.ExternalLocal = true, true }),
			slice("nowhere", 8080, unready("10.244.2.2", "n2")),
		},
		want: `
# ipvsadm -Sn
-A -f 2283012096 -s rr
-a -f 2283012096 -r 10.244.1.2:8080 -m -w 1
-a -f 2283012096 -r 10.244.2.2:8080 -m -w 1
-A -f 3368812544 -s rr
-a -f 3368812544 -r 10.244.2.2:8080 -m -w 1
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1
-A -t 10.96.0.11:80 -s rr
-a -t 10.96.0.11:80 -r 10.244.2.2:8080 -m -w 1
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 1
-A -t 192.168.7.11:30081 -s rr
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
local 10.96.0.12 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip 10.96.0.12
add kube-router-svip-drop 192.168.7.11,tcp:30081
add kube-router-svip-in 192.168.7.11,tcp:30080 skbmark 0x88140000
add kube-router-svip-in 192.168.7.11,tcp:30081 skbmark 0xc8cc0000
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
add kube-router-svip-prt 192.168.7.11,tcp:30081
`,
	}, {
		name: "traffic policies Local and an endpoint here that is not ready: its connections go on, what is new hears nothing; datagrams have none",
		objects: []any{
			with(service("web", "10.96.0.10", tcp(80, 30080), udp(80, 0)), func(s *cluster.Service) { s.InternalLocal, s.ExternalLocal = true, true }),
			slice("web", 8080, unready("10.244.1.2", "n1"), ready("10.244.2.2", "n2")),
			with(service("none", "10.96.0.11", tcp(80, 0)), func(s *cluster.Service) { s.InternalLocal = true }),
			slice("none", 8080, unready("10.244.1.3", "n1"), unready("10.244.2.3", "n2")),
		},
		want: `
# ipvsadm -Sn
-A -f 2847932416 -s rr
-a -f 2847932416 -r 10.244.1.2:8080 -m -w 0
-a -f 2847932416 -r 10.244.2.2:8080 -m -w 1
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 0
-A -t 10.96.0.11:80 -s rr
-a -t 10.96.0.11:80 -r 10.244.1.3:8080 -m -w 0
-A -t 192.168.7.11:30080 -s rr
-a -t 192.168.7.11:30080 -r 10.244.1.2:8080 -m -w 0
# ip route show table local proto 17
local 10.96.0.10 dev lo proto 17 src 192.168.7.11
local 10.96.0.11 dev lo proto 17 src 192.168.7.11
# ipset save
add kube-router-node-pods 10.244.1.0/24
add kube-router-svip 10.96.0.10
add kube-router-svip 10.96.0.11
add kube-router-svip-drop 10.96.0.10,tcp:80
add kube-router-svip-drop 10.96.0.10,udp:80
add kube-router-svip-drop 192.168.7.11,tcp:30080
add kube-router-svip-in 192.168.7.11,tcp:30080 skbmark 0xa9c00000
add kube-router-svip-prt 10.96.0.10,tcp:80
add kube-router-svip-prt 10.96.0.11,tcp:80
add kube-router-svip-prt 192.168.7.11,tcp:30080
`,
	},
}
