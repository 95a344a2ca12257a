//go:build guest

package cleanup

import (
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/overlay"
)

var everything = features{routes: true, services: true, policy: true, direct: true, wants: `removed virtual server -t 10.96.0.10:80
removed virtual server -u [fd00:96::10]:53
removed virtual server -t 192.168.66.11:30080
removed route local 203.0.113.9 dev lo proto 17 src 192.168.66.11 table local
removed bridge kube-bridge
restored IPVS timeout tcp = 13m20s
restored link tunl0 down
restored sysctl net/ipv4/vs/conntrack = 0 (it was 1)
`}

// guestKernel has no nf_tables.
var guestKernel = testKernel{variants: []iptables.Variant{iptables.Legacy}, ipvs: true}

func TestGuest(t *testing.T) {
	testFeatures(t, guestKernel, iptables.Legacy, []features{
		everything,
		{routes: true, services: true, policy: true},
		{services: true},
		{services: true, direct: true},
		{policy: true},
		{routes: true},
		{services: true, policy: true},
		{routes: true, services: true, direct: true, encap: overlay.FoU, wants: "removed tunnel kube-tun-ipip\nremoved tunnel kube-tun-sit\n"},
	})
	t.Run("interrupted", func(t *testing.T) { testInterrupted(t, guestKernel, iptables.Legacy, everything) })
}

// proxyServers is what kube-proxy has in the mode ipvs. Its node ports are at
// all addresses of the host, the agent's at those of the Node.
const proxyServers = `
ip link add kube-ipvs0 type dummy
ip address add 10.96.0.10/32 dev kube-ipvs0
sysctl -qw net.ipv4.vs.conntrack=1
ipvsadm -A -t 10.96.0.10:80 -s rr
ipvsadm -a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m
ipvsadm -A -t 192.168.66.11:30080 -s rr
ipvsadm -a -t 192.168.66.11:30080 -r 10.244.1.2:8080 -m
ipvsadm -A -t 172.17.0.1:30080 -s rr
ipvsadm -a -t 172.17.0.1:30080 -r 10.244.1.2:8080 -m
`

// A connection through a virtual server of kube-proxy goes on: the agent takes
// that over, with its address, and the rest goes.
func TestMigrateIPVS(t *testing.T) {
	m := newMigrating(t, guestKernel, iptables.Legacy)
	m.restore("iptables-legacy-restore", proxyRules)
	m.sh("iptables-legacy -t nat -F KUBE-SERVICES; " + proxySets + proxyServers)
	conn := m.dial("10.96.0.10:80")
	m.run(features{services: true})
	m.echo("beside kube-router", conn)
	m.has("local 10.96.0.10 dev lo table local proto 17 ")
	said := m.migrate(true)
	t.Log(said)
	m.echo("after the migration", conn)
	m.lacks("kube-ipvs0", "KUBE-CLUSTER-IP\n", "KUBE-NODE-PORT-TCP", "172.17.0.1:30080", "KUBE-SVC-", "KUBE-PROXY-")
	m.has("-A -t 10.96.0.10:80 ", "-A -t 192.168.66.11:30080 ", "local 10.96.0.10 dev lo table local proto 17 ", "-A -u 192.168.66.11:5353", "KUBE-CLUSTER-IP-MINE")
	if strings.Contains(said, "virtual server -t 10.96.0.10:80") || !strings.Contains(said, "removed virtual server -t 172.17.0.1:30080\n") {
		t.Error("virtual servers of the agent went, or others stay")
	}
	m.echo("at the end", conn)
}

// The same of an earlier release, whose leftovers the agent removes.
func TestFormerReleaseIPVS(t *testing.T) {
	m := newMigrating(t, guestKernel, iptables.Legacy)
	m.sh(formerState + `
ip link add kube-dummy-if type dummy
ip link set kube-dummy-if up
ip address add 10.96.0.10/32 dev kube-dummy-if scope link
ip route replace local 10.96.0.10 dev kube-dummy-if table local proto kernel scope host src 192.168.66.11
sysctl -qw net.ipv4.vs.conntrack=1
ipvsadm -A -t 10.96.0.10:80 -s rr
ipvsadm -a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m
`)
	m.restore("iptables-legacy-restore", formerChains)
	m.sh(`iptables-legacy -t nat -A POSTROUTING -m ipvs --vdir ORIGINAL --vmethod MASQ ! -s 10.244.1.0/24 ! -d 10.244.1.0/24 -j SNAT --to-source 192.168.66.11`)
	conn := m.dial("10.96.0.10:80")
	all := features{routes: true, services: true, policy: true}
	m.run(all)
	m.echo("with the new release", conn)
	t.Log(m.sweep(all))
	m.echo("after the sweep", conn)
	m.lacks(append(formerNames, "-j SNAT")...)
	m.has("-A -t 10.96.0.10:80 ", "local 10.96.0.10 dev lo table local proto 17 ")
	before := m.state()
	m.run(all) // a restart of a node that has converged
	if again := m.sweep(all); again != "" || m.state() != before {
		t.Errorf("a restart has changed something; swept:\n%s", again)
	}
	m.echo("at the end", conn)
}
