//go:build kernel || guest

package cleanup

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/kube-router/kube-router/internal/former"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/nft"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// migrating is a node between a client and a Pod, on which another Service proxy
// ran:
//
//	client 192.168.77.100 ─ node ─ Pod 10.244.1.2
type migrating struct {
	*testNode
	client, pod *nstest.Namespace
}

func newMigrating(t *testing.T, kernel testKernel, variant iptables.Variant) *migrating {
	t.Helper()
	m := &migrating{}
	var handles [2]netns.NsHandle
	for i, ns := range []**nstest.Namespace{&m.client, &m.pod} {
		*ns = nstest.New(t)
		var err error
		if handles[i], err = netns.Get(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { handles[i].Close() })
	}
	m.testNode = newNode(t, kernel, variant)
	for i, link := range []struct{ name, here, there, via string }{
		{"to-client", "192.168.77.1/24", "192.168.77.100/24", "192.168.77.1"}, {"to-pod", "10.244.1.1/24", "10.244.1.2/24", "10.244.1.1"},
	} {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: link.name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(handles[i]))})
		if err != nil {
			t.Fatal(err)
		}
		m.sh("ip link set " + link.name + " up; ip address add " + link.here + " dev " + link.name)
		ns := []*nstest.Namespace{m.client, m.pod}[i]
		m.in(ns, func() {
			nstest.Run(t, "sh", "-euc", "ip link set eth0 up; ip address add "+link.there+" dev eth0; ip route add default via "+link.via)
		})
	}
	// As every node with another proxy has it.
	m.sh("sysctl -qw net.ipv4.ip_forward=1")
	for _, v := range kernel.variants {
		m.sh(m.program(v) + " -P FORWARD ACCEPT")
	}
	m.serve()
	return m
}

// in runs fn in a namespace and waits for it.
func (m *migrating) in(ns *nstest.Namespace, fn func()) {
	done := make(chan struct{})
	ns.Go(m.t, func() { defer close(done); fn() })
	<-done
}

// serve has the Pod echo lines.
func (m *migrating) serve() {
	m.t.Helper()
	var server net.Listener
	var err error
	m.in(m.pod, func() { server, err = net.Listen("tcp4", ":8080") })
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { server.Close() })
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					fmt.Fprintln(conn, lines.Text())
				}
			}()
		}
	}()
}

// dial opens a connection from the client, which echo proves.
func (m *migrating) dial(to string) (conn net.Conn) {
	m.t.Helper()
	var err error
	m.in(m.client, func() { conn, err = (&net.Dialer{Timeout: 5 * time.Second}).Dial("tcp4", to) })
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	m.echo("at its beginning", conn)
	return conn
}

// echo proves that a connection works.
func (m *migrating) echo(when string, conn net.Conn) {
	m.t.Helper()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintln(conn, when)
	if line, err := bufio.NewReader(conn).ReadString('\n'); strings.TrimSpace(line) != when {
		m.t.Errorf("the connection is dead %s: %q, %v", when, line, err)
	}
}

// migrate runs kube-router migrate.
func (m *migrating) migrate(apply bool) string {
	m.t.Helper()
	var out strings.Builder
	if err := Migrate(m.t.Context(), m.options(), apply, true, &out); err != nil {
		m.t.Errorf("migrate: %v\n%s", err, out.String())
	}
	return out.String()
}

// program is iptables of a variant.
func (n *testNode) program(variant iptables.Variant) string {
	return "iptables-" + map[iptables.Variant]string{iptables.Legacy: "legacy", iptables.NFT: "nft"}[variant]
}

// lacks checks that no word is in the state any more, and has the contrary.
func (n *testNode) lacks(words ...string) {
	n.t.Helper()
	state, _, _ := strings.Cut(n.state(), "== sysctls")
	for _, w := range words {
		if strings.Contains(state, w) {
			n.t.Errorf("%q is still on the node:\n%s", w, state)
		}
	}
}

func (n *testNode) has(words ...string) {
	n.t.Helper()
	state, _, _ := strings.Cut(n.state(), "== sysctls")
	for _, w := range words {
		if !strings.Contains(state, w) {
			n.t.Errorf("%q is not on the node:\n%s", w, state)
		}
	}
}

// isNearlyAsBefore is isAsBefore, but for lines with these words.
func (n *testNode) isNearlyAsBefore(but ...string) {
	n.t.Helper()
	rest := func(state string) []string {
		return slices.DeleteFunc(strings.Split(state, "\n"), func(line string) bool {
			return slices.ContainsFunc(but, func(w string) bool { return strings.Contains(line, w) })
		})
	}
	if diff := cmp.Diff(rest(n.before), rest(n.settledState())); diff != "" {
		n.t.Errorf("the node is another one (-before +after):\n%s", diff)
	}
}

// sweep removes what an earlier release left, as the running agent does.
func (m *migrating) sweep(f features) string {
	m.t.Helper()
	a := m.agent()
	n := former.Node{
		Routes: f.routes, Services: f.services, Policy: f.policy, Links: a.links, Sets: a.sets, Policies: a.routes,
		Rules: map[inet.Family]iptables.Interface{},
	}
	if tables, err := nft.Open(); err == nil {
		n.Tables = tables
	}
	for _, family := range families {
		tables, err := iptables.Open(m.t.Context(), family, m.variant)
		if err != nil {
			m.t.Fatal(err)
		}
		n.Rules[family] = tables
	}
	if m.kernel.ipvs {
		servers, err := ipvs.Open()
		if err != nil {
			m.t.Fatal(err)
		}
		defer servers.Close()
		n.Servers = servers
	}
	removed, err := n.Sweep(m.t.Context())
	if err != nil {
		m.t.Error(err)
	}
	var out strings.Builder
	for _, thing := range removed {
		fmt.Fprintln(&out, thing.Kind, thing.Name)
	}
	return out.String()
}

// proxySets is what kube-proxy leaves of the mode ipvs, less its virtual servers.
const proxySets = `
ipset create KUBE-CLUSTER-IP hash:ip,port
ipset add KUBE-CLUSTER-IP 10.96.0.10,tcp:80
ipset create KUBE-6-CLUSTER-IP hash:ip,port family inet6
ipset create KUBE-LOOP-BACK hash:ip,port,ip
ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
ipset add KUBE-NODE-PORT-TCP 30080
`

// formerState is what an earlier release leaves of sets, rules and tables.
const formerState = `
ipset create kube-router-local-ips hash:ip timeout 0
ipset create kube-router-svip hash:ip timeout 0
ipset add kube-router-svip 10.96.0.10
ipset create kube-router-svip-prt hash:ip,port timeout 0
ipset add kube-router-svip-prt 10.96.0.10,tcp:80
ipset create kube-router-pod-subnets hash:net timeout 0
ipset add kube-router-pod-subnets 10.244.1.0/24
ipset create kube-router-node-ips hash:ip timeout 0
ipset add kube-router-node-ips 192.168.66.11
ipset create inet6:kube-router-svip hash:ip family inet6 timeout 0
ipset create KUBE-SRC-NPX46M4PTMTKRN6Y hash:ip timeout 0
ipset add KUBE-SRC-NPX46M4PTMTKRN6Y 10.244.2.2
ipset create KUBE-DST-NPX46M4PTMTKRN6Y hash:ip timeout 0
ip rule add from 10.244.1.0/24 lookup 77 pref 32763
ip rule add fwmark 0x2b3c lookup 78 pref 32764
ip rule add from all lookup 79 pref 32765
ip route add local default dev lo table 78
`

const formerChains = `*filter
:KUBE-ROUTER-SERVICES - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-POD-FW-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-NWPLCY-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-NWPLCY-DEFAULT - [0:0]
-A INPUT -m comment --comment "handle traffic to IPVS service IPs in custom chain" -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES
-A FORWARD -j KUBE-ROUTER-FORWARD
-A FORWARD -o eth0 -m comment --comment "allow outbound node port traffic on node interface with which node ip is associated" -j ACCEPT
-A FORWARD -o kube-bridge -m comment --comment "allow inbound traffic to pods" -j ACCEPT
-A FORWARD -i kube-bridge -m comment --comment "allow outbound traffic from pods" -j ACCEPT
-A KUBE-ROUTER-FORWARD -d 10.244.1.2/32 -j KUBE-POD-FW-NPX46M4PTMTKRN6Y
-A KUBE-POD-FW-NPX46M4PTMTKRN6Y -j KUBE-NWPLCY-NPX46M4PTMTKRN6Y
-A KUBE-POD-FW-NPX46M4PTMTKRN6Y -j KUBE-NWPLCY-DEFAULT
-A KUBE-NWPLCY-NPX46M4PTMTKRN6Y -m set --match-set KUBE-SRC-NPX46M4PTMTKRN6Y src -j MARK --set-xmark 0x10000/0x10000
-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -j ACCEPT
COMMIT
*nat
-A POSTROUTING -m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst -m set ! --match-set kube-router-node-ips dst -j MASQUERADE
COMMIT
*mangle
-A PREROUTING -i kube-bridge -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440
COMMIT
`

// formerJump is in a rule that is the service proxy's to remove.
const formerJump = "IPVS service IPs in custom chain"

// formerNames are on the node before and not after.
var formerNames = []string{
	"kube-dummy-if", "kube-router-local-ips", "KUBE-SRC-", "KUBE-DST-", "NPX46M4PTMTKRN6Y", "KUBE-NWPLCY-DEFAULT",
	"allow outbound node port traffic", "allow inbound traffic to pods", formerJump, "TCPMSS --set-mss 1440",
	"from 10.244.1.0/24 lookup 77", "lookup 78", "lookup 79", "table 78",
}
