package peering

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// short are the annotations as the tests write them.
var short = map[string]string{
	"reflector": reflector, "server": reflectorServer, "client": reflectorClient, "asn": asnAnnotation,
}

// nodesOf reads nodes, one a line: "n1 asn=65001 cidr=10.244.1.0/24". The
// address of nK is 192.168.1.K unless ip= says otherwise.
func nodesOf(t testing.TB, text string) map[string]*cluster.Node {
	t.Helper()
	nodes := map[string]*cluster.Node{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		n := &cluster.Node{Annotations: map[string]string{}}
		n.Name, n.Created = fields[0], time.Unix(1000, 0)
		ip := "192.168.1." + strings.TrimPrefix(n.Name, "n")
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(f, "=")
			switch key {
			case "ip":
				ip = value
			case "cidr":
				n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(value))
			case "age":
				age, err := time.ParseDuration(value)
				if err != nil {
					t.Fatal(err)
				}
				n.Created = n.Created.Add(-age)
			default:
				n.Annotations[short[key]] = value
			}
		}
		if ip != "none" {
			n.InternalIPs = []netip.Addr{netip.MustParseAddr(ip)}
		}
		nodes[n.Name] = n
	}
	return nodes
}

func config(change func(*Config)) Config {
	c := Config{Families: []inet.Family{inet.IPv4}, ASN: 64512, Port: 179, Between: true, FullMesh: true}
	if change != nil {
		change(&c)
	}
	return c
}

// sessions are those of all nodes, a line each, as an operator would list
// them, and the problems that any of them has. It fails where a session has
// one end only, or two that do not agree.
func sessions(t *testing.T, c Config, nodes map[string]*cluster.Node) string {
	t.Helper()
	var b strings.Builder
	names := map[netip.Addr]string{}
	for name, n := range nodes {
		names[n.IP(inet.IPv4)] = name
	}
	type end struct{ from, to netip.Addr }
	ends := map[end]bgp.Peer{}
	said := map[string]bool{}
	for _, n := range inNameOrder(nodes) {
		own, problems, err := ReadOwn(c, n, nil)
		if err != nil {
			said[err.Error()] = true
			continue
		}
		peers, more := Peers(c, own, n.Name, nodes)
		for _, p := range append(problems, more...) {
			said[p.Reason+" "+strings.Join(p.Nodes, ",")+": "+p.Message] = true
		}
		var list []string
		for _, p := range peers {
			if p.Role == bgp.External {
				list = append(list, fmt.Sprintf("%s external as %d", p.Addr, p.ASN))
				continue
			}
			ends[end{own.Addr, p.Addr}] = p
			list = append(list, fmt.Sprintf("%s %s", names[p.Addr], p.Role))
			if other := nodes[names[p.Addr]]; p.ASN != (c.member(other)).asn {
				t.Errorf("%s expects AS %d of %s", n.Name, p.ASN, other.Name)
			}
		}
		fmt.Fprintf(&b, "%s: %s\n", n.Name, strings.Join(list, ", "))
	}
	agree := map[[2]bgp.Role]bool{
		{bgp.Mesh, bgp.Mesh}: true, {bgp.Client, bgp.Reflector}: true, {bgp.Reflector, bgp.Client}: true, {bgp.Client, bgp.Client}: true,
	}
	for e, p := range ends {
		back, ok := ends[end{e.to, e.from}]
		if !ok || !agree[[2]bgp.Role{p.Role, back.Role}] || back.Passive == p.Passive || back.Password != p.Password {
			t.Errorf("the session of %s and %s has two different ends: %+v, %+v", e.from, e.to, p, back)
		}
	}
	for _, line := range slices.Sorted(keys(said)) {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func inNameOrder(nodes map[string]*cluster.Node) []*cluster.Node {
	return slices.SortedFunc(func(yield func(*cluster.Node) bool) {
		for _, n := range nodes {
			if !yield(n) {
				return
			}
		}
	}, func(a, b *cluster.Node) int { return strings.Compare(a.Name, b.Name) })
}

func keys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func routers(asn uint32, ips ...string) []Router {
	var list []Router
	for _, ip := range ips {
		list = append(list, Router{Addr: netip.MustParseAddr(ip), ASN: asn})
	}
	return list
}

func TestTopologies(t *testing.T) {
	noMesh := func(c *Config) { c.FullMesh = false }
	for _, tc := range []struct {
		name   string
		config func(*Config)
		nodes  string
		want   string
	}{
		{"full mesh", nil, "n1\nn2\nn3", `
n1: n2 mesh, n3 mesh
n2: n1 mesh, n3 mesh
n3: n1 mesh, n2 mesh
`},
		{"one reflector", noMesh, "n1 reflector=1.0.0.1\nn2\nn3", `
n1: n2 client, n3 client
n2: n1 reflector
n3: n1 reflector
`},
		{"two reflectors, one by the older name and as a number", noMesh, "n1 reflector=1.0.0.1\nn2 server=16777217\nn3\nn4", `
n1: n2 client, n3 client, n4 client
n2: n1 client, n3 client, n4 client
n3: n1 reflector, n2 reflector
n4: n1 reflector, n2 reflector
`},
		{"clients name the cluster of their reflectors", noMesh, "n1 server=1\nn2 server=2\nn3 client=1\nn4 client=2\nn5 client=9", `
n1: n2 client, n3 client, n5 client
n2: n1 client, n4 client, n5 client
n3: n1 reflector
n4: n2 reflector
n5: n1 reflector, n2 reflector
NoSuchCluster n5: annotation kube-router.io/rr.client: no reflector has the cluster ID 0.0.0.9; the node is a client of all reflectors
`},
		{"reflectors beside the mesh: they reflect, and nobody loses a session", nil, "n1 reflector=1.0.0.1\nn2\nn3", `
n1: n2 client, n3 client
n2: n1 reflector, n3 mesh
n3: n1 reflector, n2 mesh
`},
		{"clients beside the mesh", nil, "n1 server=1\nn2\nn3\nn4 client=1", `
n1: n2 client, n3 client, n4 client
n2: n1 reflector, n3 mesh
n3: n1 reflector, n2 mesh
n4: n1 reflector
`},
		{"a reflector whose id cannot be read is none", noMesh, "n1 reflector=1.0.0.1\nn2 reflector=one\nn3", `
n1: n2 client, n3 client
n2: n1 reflector
n3: n1 reflector
BadAnnotation n2: annotation kube-router.io/node.bgp.routereflector.cluster-id: "one" is not a cluster ID; allowed are an IPv4 address such as 1.0.0.1, and a number of 1 to 4294967295; the node is no reflector
`},
		{"no mesh and no reflector", noMesh, "n1\nn2", `
n1: 
n2: 
NoRouteReflector n1: --nodes-full-mesh=false, and no other Node of AS 64512 is a reflector: this node has no BGP session. Annotate one: kubectl annotate node NAME kube-router.io/node.bgp.routereflector.cluster-id=1.0.0.1
NoRouteReflector n2: --nodes-full-mesh=false, and no other Node of AS 64512 is a reflector: this node has no BGP session. Annotate one: kubectl annotate node NAME kube-router.io/node.bgp.routereflector.cluster-id=1.0.0.1
`},
		{"one node alone has no problem", noMesh, "n1", "n1:"},
		{"the flags name the reflectors, with one AS number for two", func(c *Config) {
			c.FullMesh, c.Routers = false, routers(64512, "192.168.1.10", "192.168.1.11")
		}, "n10 reflector=1.0.0.1\nn11 reflector=1.0.0.1\nn12\nn13", `
n10: n11 client, n12 client, n13 client
n11: n10 client, n12 client, n13 client
n12: n10 reflector, n11 reflector
n13: n10 reflector, n11 reflector
`},
		{"the flags name the reflectors, with no AS number", func(c *Config) {
			c.FullMesh, c.Routers = false, routers(0, "192.168.1.10", "192.168.1.11")
		}, "n10 reflector=1.0.0.1\nn11 reflector=1.0.0.1\nn12", `
n10: n11 client, n12 client
n11: n10 client, n12 client
n12: n10 reflector, n11 reflector
`},
		{"the flags name a node that reflects nothing, and one that is not there", func(c *Config) {
			c.FullMesh, c.Routers = false, routers(0, "192.168.1.10", "192.168.1.99")
		}, "n10\nn12\nn13", `
n10: n12 mesh, n13 mesh
n12: n10 mesh
n13: n10 mesh
NotAReflector n10: --peer-router-ips names node n10 as a peer of all nodes, but it reflects nothing: kubectl annotate node n10 kube-router.io/node.bgp.routereflector.cluster-id=1.0.0.1
UnknownPeer n10: --peer-router-ips: no Node has the address 192.168.1.99, and there is no AS number for it: name that in --peer-router-asns; there is no session with it
UnknownPeer n12: --peer-router-ips: no Node has the address 192.168.1.99, and there is no AS number for it: name that in --peer-router-asns; there is no session with it
UnknownPeer n13: --peer-router-ips: no Node has the address 192.168.1.99, and there is no AS number for it: name that in --peer-router-asns; there is no session with it
`},
		{"AS numbers of their own: a mesh of eBGP", nil, "n1 asn=65001\nn2 asn=4200000001\nn3", `
n1: n2 mesh, n3 mesh
n2: n1 mesh, n3 mesh
n3: n1 mesh, n2 mesh
`},
		{"an AS number a rack: a mesh in each, and the racks' routers between", func(c *Config) {
			c.FullMesh, c.Routers = false, routers(65100, "192.168.1.254")
		}, "n1 asn=65001\nn2 asn=65001\nn3 asn=65002\nn4 asn=65002", `
n1: n2 mesh, 192.168.1.254 external as 65100
n2: n1 mesh, 192.168.1.254 external as 65100
n3: n4 mesh, 192.168.1.254 external as 65100
n4: n3 mesh, 192.168.1.254 external as 65100
`},
		{"a reflector in each rack", noMesh, "n1 asn=65001 server=1\nn2 asn=65001\nn3 asn=65001\nn4 asn=65002 server=2\nn5 asn=65002", `
n1: n2 client, n3 client, n4 mesh
n2: n1 reflector
n3: n1 reflector
n4: n1 mesh, n5 client
n5: n4 reflector
`},
		{"an AS number that cannot be is that of the cluster", nil, "n1 asn=0\nn2 asn=65535", `
n1: n2 mesh
n2: n1 mesh
BadAnnotation n1: annotation kube-router.io/node.asn: "0" is not an AS number; allowed are 1 to 4294967294 but 23456 and 65535; the cluster's, 64512, is taken
BadAnnotation n2: annotation kube-router.io/node.asn: "65535" is not an AS number; allowed are 1 to 4294967294 but 23456 and 65535; the cluster's, 64512, is taken
`},
		{"nodes that do not speak with each other", func(c *Config) { c.Between, c.Routers = false, routers(65100, "192.168.1.254") },
			"n1\nn2 reflector=1.0.0.1", `
n1: 192.168.1.254 external as 65100
n2: 192.168.1.254 external as 65100
`},
		{"a password for the node that the flags name", func(c *Config) {
			c.FullMesh, c.Password = true, "mesh"
			c.Routers = []Router{{Addr: netip.MustParseAddr("192.168.1.2"), Password: "two"}}
		}, "n1\nn2 reflector=1.0.0.1\nn3", `
n1: n2 reflector, n3 mesh
n2: n1 client, n3 client
n3: n1 mesh, n2 reflector
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nodes := nodesOf(t, tc.nodes)
			got := sessions(t, config(tc.config), nodes)
			if d := cmp.Diff(strings.TrimSpace(tc.want), strings.TrimSpace(got)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// peersOf are the peers of n1 and its problems, as text.
func peersOf(t *testing.T, c Config, nodes map[string]*cluster.Node) string {
	t.Helper()
	own, problems, err := ReadOwn(c, nodes["n1"], nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	peers, more := Peers(c, own, "n1", nodes)
	for _, p := range peers {
		fmt.Fprintf(&b, "%s as %d %s\n", p.Addr, p.ASN, p.Role)
	}
	for _, p := range append(problems, more...) {
		fmt.Fprintf(&b, "%s %s: %s\n", p.Reason, strings.Join(p.Nodes, ","), p.Message)
	}
	return b.String()
}

func TestAnAddressIsOnePeer(t *testing.T) {
	nodes := nodesOf(t, "n1\nn2\nn3 ip=192.168.1.2 age=1h\nn4 ip=none\nn5 ip=192.168.1.1")
	want := `
192.168.1.2 as 64512 mesh
SameAddress n3,n2: nodes n3 and n2 have the same address 192.168.1.2: there is no BGP session with n2; one of the two Nodes is stale or wrong
NoAddress n4: node n4 has no IPv4 address: there is no BGP session with it
SameAddress n1,n5: nodes n1 and n5 have the same address 192.168.1.1: there is no BGP session with n5; one of the two Nodes is stale or wrong
`
	if d := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(peersOf(t, config(nil), nodes))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// One Pod CIDR is the older node's. Both sides decide alike.
func TestTheOlderNodeKeepsThePodCIDR(t *testing.T) {
	nodes := nodesOf(t, `
n1 cidr=10.244.1.0/24 cidr=fd00:1::/64
n2 cidr=10.244.1.0/24 age=1h
n3 cidr=10.244.3.0/24
n4 cidr=10.244.3.128/25
`)
	var b strings.Builder
	for _, n := range inNameOrder(nodes) {
		lost, problems := Contested(n, n.PodCIDRs, nodes)
		fmt.Fprintf(&b, "%s has lost %v\n", n.Name, lost)
		for _, p := range problems {
			fmt.Fprintf(&b, "  %s %s\n", p.Reason, strings.Join(p.Nodes, ","))
		}
	}
	want := `
n1 has lost [10.244.1.0/24]
  SamePodCIDR n2,n1
n2 has lost []
  SamePodCIDR n2,n1
n3 has lost []
  SamePodCIDR n3,n4
n4 has lost [10.244.3.128/25]
  SamePodCIDR n3,n4
`
	if d := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(b.String())); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
