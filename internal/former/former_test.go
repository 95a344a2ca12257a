package former

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/nft"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// policyRouting is rules and tables in memory.
type policyRouting struct {
	rules  []route.ForeignRule
	tables map[int][]string
}

func (p *policyRouting) ForeignRules() ([]route.ForeignRule, error) {
	return slices.Clone(p.rules), nil
}

func (p *policyRouting) DeleteForeignRule(r route.ForeignRule) error {
	p.rules = slices.DeleteFunc(p.rules, func(other route.ForeignRule) bool { return other.Text == r.Text })
	return nil
}

func (p *policyRouting) DeleteForeignTable(table int) ([]string, error) {
	gone := p.tables[table]
	delete(p.tables, table)
	return gone, nil
}

const formerRules = `*filter
-A FORWARD -j MINE
-A FORWARD -o eth0 -m comment --comment "allow outbound node port traffic on node interface with which node ip is associated" -j ACCEPT
-A FORWARD -o kube-bridge -m comment --comment "allow inbound traffic to pods" -j ACCEPT
-A FORWARD -i kube-bridge -m comment --comment "allow outbound traffic from pods" -j ACCEPT
-A FORWARD -i kube-bridge -p tcp -j ACCEPT
-A FORWARD -o eth0 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" ! -s 10.244.1.0/24 ! -d 10.244.1.0/24 -j SNAT --to-source 192.168.66.11 --random-fully
-A POSTROUTING -m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst -j MASQUERADE
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*mangle
-A PREROUTING -i kube-bridge -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440
-A PREROUTING -d 203.0.113.9/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2b3c/0xffffffff
-A OUTPUT -d 203.0.113.9/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2b3c/0xffffffff
-A OUTPUT -d 203.0.113.9/32 -p tcp -m tcp --dport 81 -j MARK --set-xmark 0x2b3d/0xffffffff
-A PREROUTING -i docker0 -j MARK --set-xmark 0x11/0xffffffff
COMMIT
`

func newNode(t *testing.T) (n *Node, rules *iptables.Fake, sets *ipset.Fake, servers *ipvs.Fake, links *link.Fake) {
	t.Helper()
	rules, sets, servers, links = iptables.NewFake(), ipset.NewFake(), ipvs.NewFake(), link.NewFake()
	if err := rules.Foreign(strings.Replace(formerRules, "*filter\n", "*filter\n:MINE - [0:0]\n", 1)); err != nil {
		t.Fatal(err)
	}
	must := func(errs []error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	entry := ipset.IPPort(inet.TCP, netip.MustParseAddrPort("203.0.113.9:80"))
	four := func(t ipset.Type) ipset.Spec { return ipset.Spec{Type: t, Family: inet.IPv4} }
	must(sets.Apply([]ipset.Change{
		{Op: ipset.Create, Name: "kube-router-svip-prt", Spec: four(ipset.HashIPPort)},
		{Op: ipset.Add, Name: "kube-router-svip-prt", Entry: entry},
		{Op: ipset.Create, Name: "kube-router-local-ips", Spec: four(ipset.HashIP)},
		{Op: ipset.Create, Name: "KUBE-SRC-NPX46M4PTMTKRN6Y", Spec: four(ipset.HashIP)},
		{Op: ipset.Create, Name: "inet6:KUBE-DST-NPX46M4PTMTKRN6Y", Spec: ipset.Spec{Type: ipset.HashIP, Family: inet.IPv6}},
		{Op: ipset.Create, Name: "mine", Spec: four(ipset.HashIP)},
	}))
	for _, mark := range []uint32{0x2b3c, 0x2b3d, 17} {
		id := ipvs.MarkID(mark, inet.IPv4)
		must(servers.Apply([]ipvs.Change{
			{Op: ipvs.AddServer, ID: id, Config: ipvs.Config{Scheduler: "rr"}},
			{Op: ipvs.AddReal, ID: id, RealAddr: netip.MustParseAddrPort("10.244.1.2:80"), Real: ipvs.Real{Weight: 1, Method: ipvs.Tunnel}},
		}))
	}
	links.AddDummy(Link)
	four4 := netip.MustParsePrefix("10.244.1.0/24")
	return &Node{
		Routes: true, Services: true, Policy: true, Links: links, Sets: sets, Servers: servers,
		Tables: &nft.Fake{All: []nft.Table{{Family: "ip", Name: "kube-router-filter-ipv4"}, {Family: "ip6", Name: "kube-router-filter-ipv6"}, {Family: "inet", Name: "kube-router-filter-ipv4"}}},
		Rules:  map[inet.Family]iptables.Interface{inet.IPv4: rules},
		Policies: &policyRouting{
			rules: []route.ForeignRule{
				{Text: "0: from all lookup local", Table: 255},
				{Text: "1000: from 10.244.1.0/24 lookup 77", Priority: 1000, Table: 77, Src: four4},
				{Text: "32763: from 10.244.1.0/24 lookup 77", Priority: 32763, Table: 77, Src: four4},
				{Text: "32764: from all fwmark 0x2b3c lookup 78", Priority: 32764, Table: 78, Mark: 0x2b3c},
				{Text: "32765: from all lookup 79", Priority: 32765, Table: 79},
				{Text: "32766: from all lookup main", Priority: 32766, Table: 254},
			},
			tables: map[int][]string{78: {"default dev lo proto boot table 78"}, 79: {"of another"}},
		},
	}, rules, sets, servers, links
}

func sweep(t *testing.T, n *Node) (lines string, err error) {
	t.Helper()
	removed, err := n.Sweep(t.Context())
	for _, thing := range removed {
		lines += thing.Kind + " " + thing.Name + "\n"
	}
	return lines, err
}

func TestSweep(t *testing.T) {
	n, rules, sets, servers, _ := newNode(t)
	got, err := sweep(t, n)
	if err != nil {
		t.Fatal(err)
	}
	want := `iptables (IPv4, filter) rule -A FORWARD -o eth0 -m comment --comment "allow outbound node port traffic on node interface with which node ip is associated" -j ACCEPT
iptables (IPv4, filter) rule -A FORWARD -o kube-bridge -m comment --comment "allow inbound traffic to pods" -j ACCEPT
iptables (IPv4, filter) rule -A FORWARD -i kube-bridge -m comment --comment "allow outbound traffic from pods" -j ACCEPT
iptables (IPv4, nat) rule -A POSTROUTING -m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" ! -s 10.244.1.0/24 ! -d 10.244.1.0/24 -j SNAT --to-source 192.168.66.11 --random-fully
iptables (IPv4, nat) rule -A POSTROUTING -m set --match-set kube-router-pod-subnets src -m set ! --match-set kube-router-pod-subnets dst -j MASQUERADE
iptables (IPv4, mangle) rule -A PREROUTING -i kube-bridge -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440
iptables (IPv4, mangle) rule -A PREROUTING -d 203.0.113.9/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2b3c/0xffffffff
iptables (IPv4, mangle) rule -A OUTPUT -d 203.0.113.9/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x2b3c/0xffffffff
virtual server -f 11068
ip rule 32763: from 10.244.1.0/24 lookup 77
ip rule 32764: from all fwmark 0x2b3c lookup 78
ip rule 32765: from all lookup 79
route default dev lo proto boot table 78
nftables table ip kube-router-filter-ipv4
nftables table ip6 kube-router-filter-ipv6
IP set KUBE-SRC-NPX46M4PTMTKRN6Y
IP set inet6:KUBE-DST-NPX46M4PTMTKRN6Y
IP set kube-router-local-ips
dummy kube-dummy-if
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("swept (-want +got):\n%s", diff)
	}
	for _, left := range []string{"-A FORWARD -i kube-bridge -p tcp -j ACCEPT", "-A FORWARD -o eth0 -j ACCEPT", "-A FORWARD -j MINE"} {
		if !strings.Contains(rules.Text(iptables.Filter), left) {
			t.Errorf("a rule of others has gone: %s", left)
		}
	}
	if text := sets.Save(); !strings.Contains(text, "create mine ") || !strings.Contains(text, "create kube-router-svip-prt ") {
		t.Errorf("left are the sets\n%s", text)
	}
	if text := servers.String(); !strings.Contains(text, "-f 17 ") || !strings.Contains(text, "-f 11069 ") {
		t.Errorf("left are the virtual servers\n%s", text)
	}
	if left, _ := n.Tables.Tables(t.Context()); len(left) != 1 || left[0].Family != "inet" {
		t.Errorf("left are the tables %v", left)
	}
	if again, err := sweep(t, n); again != "" || err != nil {
		t.Errorf("again: %s, %v", again, err)
	}
}

// What belongs to a controller that is off stays.
func TestSweepOfSomeControllers(t *testing.T) {
	n, rules, _, _, links := newNode(t)
	n.Routes, n.Services = false, false
	got, err := sweep(t, n)
	if err != nil || got != "nftables table ip kube-router-filter-ipv4\nnftables table ip6 kube-router-filter-ipv6\nIP set KUBE-SRC-NPX46M4PTMTKRN6Y\nIP set inet6:KUBE-DST-NPX46M4PTMTKRN6Y\n" {
		t.Errorf("%s, %v", got, err)
	}
	if exists, _ := links.Exists(Link, "dummy"); !exists || !strings.Contains(rules.Text(iptables.NAT), "SNAT") {
		t.Error("something of a controller that is off has gone")
	}
}

// On a node without a predecessor nothing is written.
func TestNothingLeft(t *testing.T) {
	rules := iptables.NewFake()
	rules.Fail = func(string) error { return errors.New("nothing is to be written") }
	n := &Node{Routes: true, Services: true, Policy: true, Links: link.NewFake(), Sets: ipset.NewFake(), Servers: ipvs.NewFake(),
		Tables: &nft.Fake{}, Rules: map[inet.Family]iptables.Interface{inet.IPv4: rules}, Policies: &policyRouting{}}
	if got, err := sweep(t, n); got != "" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

// Rules of a policy controller that is off stay, and a table that cannot be
// removed is told of.
func TestSweepOfTables(t *testing.T) {
	n, _, _, _, _ := newNode(t)
	n.Policy = false
	if got, _ := sweep(t, n); strings.Contains(got, "nftables") {
		t.Errorf("without the policy controller:\n%s", got)
	}
	n.Policy, n.Tables = true, refusing{n.Tables}
	if got, err := sweep(t, n); strings.Contains(got, "nftables") || err == nil || !strings.Contains(err.Error(), "ip6 kube-router-filter-ipv6: busy") {
		t.Errorf("%v\n%s", err, got)
	}
}

// refusing are tables that stay.
type refusing struct{ nft.Interface }

func (refusing) Delete(_ context.Context, t nft.Table) error {
	return errors.New(t.String() + ": busy")
}
